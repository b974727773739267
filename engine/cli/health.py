"""`foldline health LOG`: how a log and its engine are, as far as that shows from outside.

Rules: it reads the files or the server, and asks no engine: one that hangs is told of too. It walks
no log. What only an engine has in its memory does not show: ask the engine for that, by its routes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final

import msgspec

from ..errors import Damaged
from ..health.bounds import Health
from ..health.facts import Facts, ProjectionFacts
from ..health.looks import look_at_backup
from ..health.report import Backup, Disk, Found, HealthCheck, HealthReport, judge
from ..log.selection import Selection
from ..outside.standings import Standing, Standings
from ..runtime.ports import Ports
from ..stores.contract.backend import Backend, Outside
from ..stores.contract.copying import CopySource
from ..stores.contract.disk import OnDisk
from ..stores.contract.meeting import OwnerDirectory
from ..stores.contract.outside import LogReader, NoViewsYet, Operations
from .options import DONE, FAILED, USAGE, log_file, path, seconds, whole
from .output import Output, tell, unread
from .printing import escaped
from .search import Search
from .tables import Column, Table

__all__ = ["add_parser"]

NOT_OK, NOT_READY = 3, 4
_TIMERS_MAX: Final = 10_000
_HOUR: Final = 3_600 * 1_000_000

_DESCRIPTION = """\
Show how a log and its engine are, beside the engine: each check with its value and its bound. It
only reads. What an engine has in its memory does not show from here, as how fast its disk fills."""

_EPILOG = f"""\
JSON: one object with live, ready, ok, state ("running" or "at-rest"), position and checks; each
check has name, of, ok, value, bound, unit, decides and says

exit status:
  {DONE}    every check is within its bound
  {FAILED}    the log cannot be read
  {USAGE}    wrong arguments
  {NOT_OK}    a check is beyond its bound
  {NOT_READY}    no engine has the log open
  130  interrupted"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "health",
        help="show how a log and its engine are",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Health()
    parser.add_argument(
        "file", type=log_file, metavar="LOG", help="sqlite:FILE, or the URL of a PostgreSQL server"
    )
    parser.add_argument(
        "--backup", type=path, metavar="FOLDER", help="the folder of the log's backup"
    )
    parser.add_argument(
        "--backup-age",
        type=seconds,
        default=round(usual.backup_seconds_max or 0),
        metavar="S",
        help="most seconds since that was made (default: %(default)s)",
    )
    parser.add_argument(
        "--lag",
        type=seconds,
        default=round(usual.lag_seconds_max or 0),
        metavar="S",
        help="most seconds that a projection or a sink is behind (default: %(default)s)",
    )
    parser.add_argument(
        "--disk",
        type=whole,
        default=usual.disk_bytes_min,
        metavar="BYTES",
        help="least bytes that must be free on the log's disk (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    bounds = Health(
        backup=options.backup,
        backup_seconds_max=options.backup_age,
        lag_seconds_max=options.lag,
        disk_bytes_min=options.disk,
    )
    report = judge(_find(options.file, bounds), bounds)
    output = Output(utf8=options.json)
    encoded = escaped(msgspec.json.encode(report).decode())
    with unread(sys.stdout):
        output.show([encoded] if options.json else [_table(report)])
        output.flush()
    if not report.ready:
        return NOT_READY
    return DONE if report.ok else NOT_OK


def _find(backend: Backend, bounds: Health) -> Found:
    ports = Ports()
    outside = backend.outside(ports)
    now = ports.clock.now()
    with ExitStack() as opened:
        standings: Sequence[Standing] = ()
        source: Operations | CopySource
        try:
            source = operations = opened.enter_context(outside.operations(readonly=True))
            standings = Standings(operations, ports.clock).observe()
        except NoViewsYet as none:
            tell(f"projections are not looked at: {none}")
            source = opened.enter_context(outside.copy_source())
        in_use, log = source.is_in_use(), source.log
        facts = _facts(log, standings, _lease(outside), now)
        disk = _disk(backend, ports, log, now)
        log_id = log.log_id
    backup: Backup | None = None
    if bounds.backup is not None:
        backup = look_at_backup(bounds.backup, log_id, now)
    return Found(
        state="running" if in_use else "at-rest",
        is_live=True,
        facts=facts,
        disk=disk,
        disk_answer=None if disk is None else 0.0,
        backup=backup,
    )


def _facts(log: LogReader, standings: Sequence[Standing], lease: float | None, now: int) -> Facts:
    head = log.head()
    timers = log.read_timers(timers_max=_TIMERS_MAX)
    known = len(timers) < _TIMERS_MAX
    due = [timer.due for timer in timers if not timer.parked and timer.due < now]
    return Facts(
        position=head.position,
        projections=tuple(_projection(one) for one in standings),
        timers_overdue=(now - min(due, default=now)) / 1e6 if known else None,
        timers_parked=sum(timer.parked for timer in timers) if known else None,
        lease_seconds=lease,
        clock_behind=max(0, head.recorded - now) / 1e6,
    )


def _projection(standing: Standing) -> ProjectionFacts:
    failure = standing.failure
    return ProjectionFacts(
        name=standing.name,
        kind="projection",
        state=standing.state,
        position=standing.position,
        lag_events=standing.lag_events,
        lag_seconds=standing.lag_seconds,
        parked=standing.parked,
        failed_at=None if failure is None else failure.position,
    )


def _lease(outside: Outside) -> float | None:
    place = outside.meeting()
    return None if isinstance(place, str) else asyncio.run(_seconds_left(place))


async def _seconds_left(directory: OwnerDirectory) -> float | None:
    try:
        owner = await directory.owner()
        return None if owner is None else owner.seconds_left
    finally:
        await directory.close()


def _disk(backend: Backend, ports: Ports, log: LogReader, now: int) -> Disk | None:
    store = backend.log()
    if not isinstance(store, OnDisk):
        return None
    space = store.disk(ports)
    try:
        per_hour = _bytes_of_the_last_hour(log, space.file_bytes, now)
    except Damaged:
        per_hour = 0.0  # not known: an event on the way cannot be read, and all else is told
    left = space.free_bytes * 3_600 / per_hour if per_hour else None
    return Disk(space.free_bytes, dict(space.wal_bytes), left)


def _bytes_of_the_last_hour(log: LogReader, size: int, now: int) -> float:
    """Give how many bytes the log grew in the last hour, by its events: some twenty are read."""
    head = log.head()
    first = Search(log, Selection(since=now - _HOUR)).begin(0)
    return size * (head.position - first) / head.position if head.position else 0.0


def _table(report: HealthReport) -> Table:
    styles = {"ok": "green", "WRONG": "bold red"}
    table = Table(
        Column("CHECK"), Column("OF"), Column("", styles=styles), Column("VALUE"), Column("BOUND")
    )
    for check in report.checks:
        unit = check.unit.strip("{}")
        value = _shown(check.value, unit)
        cells = check.name, check.of or "-", "ok" if check.ok else "WRONG", value
        table.add(*cells, _shown(check.bound, unit), notes=_notes(check))
    return table


def _notes(check: HealthCheck) -> Iterator[str]:
    if check.says:
        yield check.says


def _shown(value: float | str | None, unit: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    number = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return f"{number} {unit}".rstrip()
