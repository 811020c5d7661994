"""Codecs: what activations and gradients look like on the wire. One codec a file, pure and stateless."""
