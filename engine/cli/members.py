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

from ..members.roster import roster
from ..members.wire import Member
from ..runtime.ports import Ports
from ..stores.contract.meeting import Roll
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
owner), waiting (those without an answer yet), lease (seconds that are left of an owner's lease,
null for a log in a file)

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
    outside = options.file.outside(Ports())
    place = outside.meeting()
    found: Sequence[Member] | None
    if isinstance(place, str):
        found = asyncio.run(roster(place, _SECONDS))
        nobody = None if found else _nobody(outside.writer())
    else:
        found, nobody = asyncio.run(_of_roll(place))
    if not found:
        tell(nobody or "")
        return DONE
    output = Output(utf8=options.json)
    output.show(_lines(found) if options.json else [_table(found)])
    output.flush()
    return DONE


async def _of_roll(roll: Roll) -> tuple[Sequence[Member] | None, str | None]:
    """Give who shares a log in a database, or what to say where that is not to be had."""
    try:
        owner = await roll.owner()
        if owner is None or owner.seconds_left <= 0:
            return None, _nobody(None)
        if not owner.address:
            return None, f"{owner.holder} has this log open, and lets nobody join"
        found = await roster(roll, _SECONDS)
        if found is None:
            return None, (
                f"{owner.holder} owns this log, and its lease lasts {owner.seconds_left:.1f} s: "
                f"its members are listed on its machine, for the user whose process it is"
            )
        first = msgspec.structs.replace(found[0], lease=owner.seconds_left)
        return [first, *found[1:]], None
    finally:
        await roll.close()


def _nobody(writer: int | None) -> str:
    if writer is None:
        return "no engine has this log open"
    return f"process {writer} has this log open, and lets nobody join"


def _lines(members: Sequence[Member]) -> Iterator[str]:
    return (msgspec.json.encode(member).decode() for member in members)


def _table(members: Sequence[Member]) -> Table:
    leased = any(one.lease is not None for one in members)
    lease = numbers(LEASE=0) if leased else ()
    columns = numbers(SECONDS=0, COMMANDS=0, WAITING=0)
    table = Table(Column("PROCESS"), Column("ROLE"), *columns, *lease)
    for one in members:
        cells = [f"{one.process}", one.role, f"{one.seconds:.0f}"]
        cells += [f"{one.commands}", f"{one.waiting}"]
        if leased:
            cells.append("" if one.lease is None else f"{one.lease:.1f}")
        table.add(*cells)
    return table
