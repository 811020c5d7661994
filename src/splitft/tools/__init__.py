"""Commands that read jobs and finished runs: plan, compare, report."""
