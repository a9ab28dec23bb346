"""`python -m artifact` is the command `artifact`."""

from artifact.cli import main

main()
