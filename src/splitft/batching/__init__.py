"""Several clients, with different cuts, in one pass of the server. (ours)"""
