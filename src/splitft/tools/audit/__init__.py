"""`splitft audit`: what a server could read of the clients' rows, measured on the job's own messages."""
