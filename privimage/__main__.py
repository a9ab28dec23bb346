"""`python -m privimage` is the command `privimage`."""

from privimage.cli import main

main()
