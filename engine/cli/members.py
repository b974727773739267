"""`foldline members LOG`: lists the processes that share a log, and which of them owns it.

Rules: it asks the owner, through the socket at which members of this machine meet it, and changes
nothing. Of a log in PostgreSQL the database says who the owner is, and how long its lease lasts; of
one with several owners, who all of them are. It says also which members run projections, and how
far these have come. Where there is no owner that can be asked, it says so.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..members.duties.shown import Duty, who_runs
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
and the members that are connected with it. With join="spread" all owners are listed, also those of
other machines, of which the database knows slots, lease and views."""

_EPILOG = f"""\
JSON fields: process, role, seconds (since when it is that), commands (that it has sent to the
owner, or to other owners), waiting (those without an answer yet), release (what it runs), lease
(seconds that are left of an owner's lease, null for a log in a file), machine (where that is
another one); where several own a log, else null: slots (of 256), behind (views of the members that
it has not heeded), decided (commands), moved (commands that went another way), position (up to
which its projections and feeds have read the log), lag (events that they had not read when it was
asked). What a process of another machine does not tell is null.

Where members run the projections (share_projections=True), a line for each projection: duty (its
name), holder (the process), member (its number), lease (seconds left), state, position,
lag_events, lag_seconds

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
    ports = Ports()
    outside = options.file.outside(ports)
    found, nobody = asyncio.run(who_shares(outside, _SECONDS))
    duties = who_runs(outside, ports.clock)
    if not found:
        with outside.log_reader():  # a slip of the name is no log that nobody has open
            tell(nobody)
    output = Output(utf8=options.json)
    if options.json:
        output.show(_lines([*found, *duties]))
    else:
        output.show(([_table(found)] if found else []) + ([_runners(duties)] if duties else []))
    output.flush()
    return DONE


def _lines(shown: Sequence[Member | Duty]) -> Iterator[str]:
    return (msgspec.json.encode(one).decode() for one in shown)


def _runners(duties: Sequence[Duty]) -> Table:
    columns = numbers(MEMBER=0, LEASE=0, LAG=0, SECONDS=0)
    table = Table(Column("PROJECTION"), Column("STATE"), Column("RUN BY"), *columns)
    for one in duties:
        lag = "" if one.lag_events is None else f"{one.lag_events}"
        seconds = "" if one.lag_seconds is None else f"{one.lag_seconds:.1f}"
        cells = [one.duty, one.state, one.holder, f"{one.member}", f"{one.lease:.1f}"]
        table.add(*cells, lag, seconds)
    return table


def _table(members: Sequence[Member]) -> Table:
    leased = any(one.lease is not None for one in members)
    several = any(one.slots is not None for one in members)
    elsewhere = any(one.machine for one in members)
    columns = [Column("PROCESS"), *([Column("MACHINE")] if elsewhere else [])]
    columns += [Column("ROLE"), Column("RELEASE"), *numbers(SECONDS=0, COMMANDS=0, WAITING=0)]
    columns += numbers(LEASE=0) if leased else ()
    columns += numbers(SLOTS=0, BEHIND=0, DECIDED=0, MOVED=0, LAG=0) if several else ()
    table = Table(*columns)
    for one in members:
        cells = [f"{one.process}", *([one.machine] if elsewhere else [])]
        cells += [one.role, one.release, f"{one.seconds:.0f}"]
        cells += [_known(one.commands), _known(one.waiting)]
        if leased:
            cells.append("" if one.lease is None else f"{one.lease:.1f}")
        if several:
            cells += map(_known, (one.slots, one.behind, one.decided, one.moved, one.lag))
        table.add(*cells)
    return table


def _known(number: int | None) -> str:
    return "" if number is None else f"{number}"
