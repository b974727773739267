"""`python -m tests.strangers locks --rounds N`: no stranger takes an engine's locks, or its log."""

from __future__ import annotations

import argparse
import sys

from .locks import run_rounds


def main() -> int:
    """Run what the command line asks for; give 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.strangers", description=__doc__)
    parser.add_argument("what", choices=("locks",))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first round")
    options = parser.parse_args()
    return 1 if run_rounds(range(options.first, options.first + options.rounds)) else 0


if __name__ == "__main__":
    sys.exit(main())
