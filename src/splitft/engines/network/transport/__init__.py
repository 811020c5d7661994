"""Connections between the parties of a run, over gRPC."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C++ core would log to stderr; before gRPC is imported
