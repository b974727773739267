"""`foldline members LOG`: lists the processes that share a log, and which of them owns it.

Rules: it asks the owner, through the socket at which members of this machine meet it, and changes
nothing. Of a log in PostgreSQL the database says who the owner is, and how long its lease lasts.
Where there is no owner that can be asked, it says so.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..members.roster import who_shares
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
owner), waiting (those without an answer yet), release (what it runs), lease (seconds that are left
of an owner's lease, null for a log in a file)

exit status:
  {DONE}    shown, also if nobody shares the log
  {FAILED}    the owner does not answer, or the socket or the server cannot be reached
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
    parser.add_argument(
        "file", type=log_file, metavar="LOG", help="sqlite:FILE, or the URL of a PostgreSQL server"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    found, nobody = asyncio.run(who_shares(options.file.outside(Ports()), _SECONDS))
    if not found:
        tell(nobody)
        return DONE
    output = Output(utf8=options.json)
    output.show(_lines(found) if options.json else [_table(found)])
    output.flush()
    return DONE


def _lines(members: Sequence[Member]) -> Iterator[str]:
    return (msgspec.json.encode(member).decode() for member in members)


def _table(members: Sequence[Member]) -> Table:
    leased = any(one.lease is not None for one in members)
    lease = numbers(LEASE=0) if leased else ()
    columns = numbers(SECONDS=0, COMMANDS=0, WAITING=0)
    table = Table(Column("PROCESS"), Column("ROLE"), Column("RELEASE"), *columns, *lease)
    for one in members:
        cells = [f"{one.process}", one.role, one.release, f"{one.seconds:.0f}"]
        cells += [f"{one.commands}", f"{one.waiting}"]
        if leased:
            cells.append("" if one.lease is None else f"{one.lease:.1f}")
        table.add(*cells)
    return table
