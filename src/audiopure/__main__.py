"""`python -m audiopure` is the command `audiopure`."""

from audiopure.cli.main import main

main()
