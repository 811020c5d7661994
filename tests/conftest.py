"""Its presence puts this folder on the import path, so that tests may `from tiny import tiny_config`."""
