"""The network engine: the same rounds between machines, over gRPC."""
