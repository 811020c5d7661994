"""Charts as inline SVG, drawn by matplotlib: curves, and rows of bars, cuts or dots."""
