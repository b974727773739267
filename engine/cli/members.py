"""`foldline members FILE`: lists the processes that share a log, and which of them owns it.

Rules: it asks the owner, through the socket beside the log, and changes nothing. Where there is no
owner that can be asked, it says so.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..members.roster import roster
from ..members.wire import Member
from ..runtime.ports import Ports
from .options import DONE, FAILED, USAGE, log_file
from .output import Output, tell
from .tables import Column, Table, numbers

__all__ = ["add_parser"]

_SECONDS: Final = 5.0
"""How long the owner may take to answer."""

_DESCRIPTION = """\
List the processes that share a log (engines with join=True): the owner, which decides and writes,
and the members that are connected with it."""

_EPILOG = f"""\
JSON fields: process, role, seconds (since when it is that), commands (that it has sent to the
owner), waiting (those without an answer yet)

exit status:
  {DONE}    shown, also if nobody shares the log
  {FAILED}    the owner does not answer, or the socket cannot be opened
  {USAGE}    wrong arguments
  130  interrupted"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "members",
        help="list the processes that share a log",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=log_file, metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    outside = options.file.outside(Ports())
    found = asyncio.run(roster(outside.meeting(), _SECONDS))
    if found is None:
        tell(_nobody(outside.writer()))
        return DONE
    output = Output(utf8=options.json)
    output.show(_lines(found) if options.json else [_table(found)])
    output.flush()
    return DONE


def _nobody(writer: int | None) -> str:
    if writer is None:
        return "no engine has this log open"
    return f"process {writer} has this log open, and lets nobody join"


def _lines(members: Sequence[Member]) -> Iterator[str]:
    return (msgspec.json.encode(member).decode() for member in members)


def _table(members: Sequence[Member]) -> Table:
    table = Table(Column("PROCESS"), Column("ROLE"), *numbers(SECONDS=0, COMMANDS=0, WAITING=0))
    for one in members:
        table.add(
            f"{one.process}", one.role, f"{one.seconds:.0f}", f"{one.commands}", f"{one.waiting}"
        )
    return table
