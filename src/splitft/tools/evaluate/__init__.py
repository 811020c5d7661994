"""`splitft evaluate`: an adapter's scores on tasks of lm-eval, and of what it generates."""
