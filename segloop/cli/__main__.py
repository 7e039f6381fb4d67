"""`python -m segloop.cli`."""

from segloop.cli import main

main()
