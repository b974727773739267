"""`foldline`: commands over a log, for operators; few of them need the application.

Rules: a command is a file in `cli/` and a name in the table below. The same table serves the
program that a wheel installs, and `python -m` with the package's name. What a user can
cause is told in one line on the error stream and not by a traceback: arguments that are no text
and numbers that nothing can count to are wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from .cli import (
    archive,
    backup,
    claims,
    console,
    copy,
    dashboard,
    exporting,
    health,
    importing,
    log,
    mcp,
    members,
    personal,
    projections,
    repair,
    replay,
    restore,
    retention,
    schema,
    sql,
    tail,
    timers,
    verify,
)
from .cli.options import FAILED, USAGE
from .cli.output import check_texts, own_the_terminal, run_plainly, say, tell
from .cli.printing import plain
from .cli.progress import Ended
from .errors import EngineError
from .runtime.package import COMMAND, release

__all__ = ["main", "program"]

COMMANDS: Final = (
    log,
    tail,
    claims,
    timers,
    sql,
    replay,
    schema,
    projections,
    console,
    mcp,
    members,
    health,
    dashboard,
    copy,
    archive,
    importing,
    exporting,
    backup,
    repair,
    restore,
    verify,
    personal,
    retention,
)
INTERRUPTED: Final = 130


class _Version(argparse.Action):
    """Shows the release, which takes some time to find, only if it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        say(f"{COMMAND} {release()}")
        parser.exit()


def main(arguments: Sequence[str]) -> int:
    """Run the command line; give the exit status."""
    return run_plainly(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Look into a log and act on it, while its engine runs or not.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the release, and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    if (wrong := check_texts(arguments)) is not None:
        parser.error(wrong)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        hint = ""
        if "--last" in arguments and unknown[0].lstrip("-").isdigit():
            hint = " (`log --last` takes no number: --limit N says how many)"
        parser.error(f"unrecognized arguments: {plain(' '.join(unknown))}{hint}")
    try:
        status: int = options.run(options)
    except EngineError as error:
        tell(f"error: {plain(str(error))}")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Ended:
        raise
    except SystemExit as error:
        if error.code == USAGE:
            raise  # arguments that do not go together, which the command itself has told
        # Its status says nothing of what the command has found: a fold that exits with 0, say.
        tell("error: code of the application ended the program, and the command with it")
        return FAILED
    return status


def program() -> int:
    """Be a process of its own: run its command line; give its exit status."""
    own_the_terminal()
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(program())
