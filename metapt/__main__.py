"""`python -m metapt`, and the command `metapt`."""

import sys

from metapt.cli import main


def run() -> None:
    """Runs the command line and exits with its status."""
    sys.exit(main())


if __name__ == "__main__":
    run()
