"""`python -m engine`: commands over a log, for operators; few of them need the application.

Rules: a command is a file in `engine/commands` and a name in the table below. What a user can
cause is told in one line on the error stream and not by a traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from .commands import log, projections, schema, sql, tail
from .commands.options import FAILED
from .commands.output import tell
from .errors import EngineError

__all__ = ["main"]

COMMANDS: Final = (log, tail, sql, schema, projections)
INTERRUPTED: Final = 130


def main(arguments: Sequence[str]) -> int:
    """Run the command line; give the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m engine",
        description="Look into a log and act on it, while its engine runs or not.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except EngineError as error:
        tell(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
