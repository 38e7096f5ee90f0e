"""`python -m metapt`, and the command `metapt`."""

import os
import sys

from metapt.cli import main


def run() -> None:
    """Runs the command line and exits with its status."""
    try:
        status = main()
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # `metapt list | head`: whoever read has seen enough; Python must not complain at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


if __name__ == "__main__":
    run()
