"""`python -m splitft.launch`: the command line."""

from splitft.launch.cli import main

main()
