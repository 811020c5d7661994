"""Fuzzers: damaged and hostile input for every boundary, one target a file. See CONTRIBUTING.md."""
