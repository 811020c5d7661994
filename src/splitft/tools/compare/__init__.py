"""Many runs, compared: methods, varied keys and seeds over one job.

arms: what is compared. plan: the complete jobs. store: the folder that holds each distinct run once.
worker, processes: runs as processes of their own. sweep: all of it together. command: `splitft compare`.
"""
