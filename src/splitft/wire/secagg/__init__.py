"""Secure aggregation (Bonawitz et al., CCS 2017): a sum of clients' vectors, and none of them alone."""
