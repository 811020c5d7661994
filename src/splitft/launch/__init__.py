"""Ways in: the command line and Flower."""
