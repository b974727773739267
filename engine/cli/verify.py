"""`foldline verify FILE`: looks for damage in a log, its views, or a backup, and names all of it.

Rules: it only reads, by itself or with others (`verify_helpers`), and rests beside an engine. What
is wrong goes to the output, a line each, and a summary at the end; how far it is, to the error
stream. What could not be looked at is said and never called sound.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

import msgspec

from ..backups.pace import BESIDE_PERCENT, Pace
from ..backups.places import FolderPlace
from ..backups.reading import BackupLog, BackupSource, look_at_files
from ..engine import Engine
from ..errors import EngineError
from ..model.aggregate import definitions_of
from ..outside.copying import CopyProgress
from ..outside.stretches import SingleInspector
from ..outside.verifying import FINDINGS_MAX, Verified, verify_log
from ..outside.verifying_code import Code, verify_code
from ..running import calm_collector, run
from ..runtime.folder import Folder
from ..runtime.ports import Ports
from ..stores.contract.backend import Outside
from ..stores.contract.outside import NoLog
from ..stores.contract.verifying import Finding, Report
from ..stores.urls import backend_of_text
from .application import APP_HELP, engine_of
from .options import DONE, FAILED, USAGE, some
from .output import say
from .printing import counted
from .progress import Shown, ending_tidily
from .verify_child import Task
from .verify_helpers import LARGE, Helpers

__all__ = ["add_parser"]

_PERCENT_MAX: Final = 100
_JOBS_MAX: Final = 64

_DESCRIPTION = """\
Look for damage in a log and its views, while the engine runs or not, or in the folder of a backup.
Each event is compared with its checksum and its place. Versions, times and keys are compared with
those before. Claims are folded and compared with their table,
snapshots with their events and checksums, and each stream with its index.

In files, SQLite looks at each page and index of the log, of its views and of its cold file. The
write-ahead log is read. In PostgreSQL the extension amcheck looks at the indexes, if it is there.

The rows of views have no checksums. With --app the code of the application folds them again in
memory, and snapshots too, and compares. Rows that differ are mended by `projections reset`.

A large log is looked at by several processes. Beside an engine it is one, which lets all others of
the machine go first and rests most of the time.

It names all that it finds: nothing is changed. `repair` mends events from a backup."""

_EPILOG = f"""\
JSON fields of a line: wrong, text, position, name (the last two if there is one). The last line has
"wrong": "nothing" or "something", and findings, position, events, streams, claims, timers,
tags, snapshots, unlooked.
{APP_HELP}
wrong is one of: event, missing, version, time, key, claim, timer, tag, snapshot, index, page, wal,
schema, type, checkpoint, views, archive, backup, unread

exit status:
  {DONE}    nothing is wrong
  {FAILED}    something is wrong, or could not be read
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "verify",
        help="look for damage in a log, its views, or a backup",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", metavar="FILE", help="the log, as in sqlite:FILE, or the folder of a backup"
    )
    parser.add_argument("--app", metavar="APP", help="the application, as module:attribute")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--percent",
        type=some,
        metavar="N",
        help=f"of the time that is worked, the rest is rested (default: 100, and {BESIDE_PERCENT} "
        "if an engine has the log open)",
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="processes that look at once, of a log (default: one, or one for each core from "
        f"{LARGE:,} events on if no engine has it open)",
    )
    parser.set_defaults(run=_run)


def _jobs(text: str) -> int:
    if (number := some(text)) > _JOBS_MAX:
        raise argparse.ArgumentTypeError(f"{text} processes are too many: {_JOBS_MAX} at most")
    return number


class _Lane:
    """Shows how far it is, and rests."""

    def __init__(self, shown: Shown, pace: Pace) -> None:
        self._shown = shown
        self._pace = pace

    def progress(self, position: int, end: int) -> None:
        """Show it."""
        self._shown.show(CopyProgress("verified", position, end))

    def rest(self) -> None:
        """Rest as long as the pace says."""
        self._pace.rest()


def _run(options: argparse.Namespace) -> int:
    ports = Ports()
    shown = Shown(ports)

    def report(finding: Finding) -> None:
        shown.end()
        say(_line(finding) if not options.json else msgspec.json.encode(finding).decode())

    with ending_tidily(), calm_collector():
        try:
            done = _verified(options, ports, shown, report)
        finally:
            shown.end()
    _tell(done, as_json=options.json)
    return FAILED if done.findings else DONE


def _verified(options: argparse.Namespace, ports: Ports, shown: Shown, report: Report) -> Verified:
    engine = None if options.app is None else engine_of(options.app, options.file)
    kinds = () if engine is None else definitions_of(engine.aggregates)
    window = {d.kind: d.key_window for d in kinds}.get
    if "manifest.json" in Folder(options.file).names():
        place = FolderPlace(options.file)
        look_at_files(place, report)
        pace = Pace(min(options.percent or _PERCENT_MAX, _PERCENT_MAX), ports.clock.monotonic)
        backup = BackupSource(BackupLog(place))
        return verify_log(backup, None, report, _Lane(shown, pace), window=window)
    outside = backend_of_text(options.file).outside(ports)
    _check_there(outside)
    is_beside = outside.writer() is not None
    percent = min(options.percent or (BESIDE_PERCENT if is_beside else _PERCENT_MAX), _PERCENT_MAX)
    lane = _Lane(shown, Pace(percent, ports.clock.monotonic))
    now = ports.clock.now()
    source, structure = outside.copy_source(), outside.structure()
    single = SingleInspector(source.log, structure, lane.rest)
    task = Task(options.file, percent, is_beside)
    with Helpers(single, task, options.jobs) as inspector:
        done = verify_log(
            source, structure, report, lane, window=window, now=now, inspector=inspector
        )
    if engine is not None:
        _compare_code(engine, outside, done, report, lane)
    return done


def _check_there(outside: Outside) -> None:
    """Refuse a name of no log, by which each file would be called unreadable."""
    try:
        with outside.log_reader():
            return
    except NoLog:
        raise
    except EngineError:
        return  # what is wrong is told when it is looked at


def _compare_code(
    engine: Engine, outside: Outside, done: Verified, report: Report, lane: _Lane
) -> None:
    code = Code(definitions_of(engine.aggregates), engine.declared, engine.registry)

    def found(finding: Finding) -> None:
        done.findings += 1
        report(finding)

    async def compare() -> None:
        await verify_code(outside, code, found, done.unlooked.append, lane.rest)

    run(compare)


def _line(finding: Finding) -> str:
    return f"{finding.wrong}: {finding.text}"


def _tell(done: Verified, *, as_json: bool) -> None:
    if as_json:
        about = {"wrong": "something" if done.findings else "nothing"}
        say(msgspec.json.encode(about | msgspec.structs.asdict(done)).decode())
        return
    for what in done.unlooked:
        say(f"not looked at: {what}")
    looked = (
        f"{counted(done.events, 'event')} of {counted(done.streams, 'stream')} up to position "
        f"{done.position:,}, {counted(done.claims, 'claim')}, {counted(done.snapshots, 'snapshot')}"
    )
    if not done.findings:
        say(f"nothing is wrong: {looked}")
        return
    more = done.findings - FINDINGS_MAX
    left = f", of which {more:,} are not shown" if more > 0 else ""
    say(f"{counted(done.findings, 'finding')}{left}. Looked at: {looked}")
