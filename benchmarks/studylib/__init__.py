"""The study: sweeps over one recipe, their results, and what the results say of each claim.

sweeps: what is run. results: runs to figures. claims: figures to verdicts. pages, plots: what is written.
"""
