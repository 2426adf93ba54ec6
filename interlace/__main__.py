"""`python -m interlace`: the `interlace` command where its script is not on the path."""

from interlace.cli.main import main

main()
