"""`foldline backup URL TO`: a backup of a log, made beside its engine, that grows by what is new.

Rules: the log is only read, and its writers are hardly slowed: beside an engine a part of the time
is rested. What is there of a former backup is not written again. How far it is stands on the error
stream. To the output goes a tar of the same files, for a command that takes it.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from ..backups.format import Manifest
from ..backups.pace import BESIDE_PERCENT, Pace
from ..backups.places import FolderPlace, Place, StreamPlace
from ..backups.reading import BackupLog
from ..backups.writing import BackupTarget
from ..errors import UsageError
from ..outside.copying import transfer
from ..runtime.ports import Ports
from .options import DONE, FAILED, USAGE, log_file, path, some
from .output import say, tell
from .personal import tell_of_keys
from .printing import counted
from .progress import Shown, ending_tidily

__all__ = ["STREAM", "add_parser"]

STREAM: Final = "-"
"""In place of a folder: the output, or the input."""
_PERCENT_MAX: Final = 100
_PAGE_EVENTS: Final = 5_000

_DESCRIPTION = """\
Back a log up into a folder, while its engine runs or not. The first backup has all events; the next
one into the same folder adds what is new. Each is the log as it was at one position, with its id,
keys, times and checksums. Snapshots, decisions, requests, and the checkpoints and parked events of
sinks come along. The tables of other projections do not: an engine folds them from the log.

The folder has files of events and a manifest with a SHA-256 of each. They are written once, so that
any tool may copy the folder elsewhere. If TO is -, one tar of them goes to the output, for another
command's input.

`restore` makes a log of a backup, up to any position or time. `verify` reads one back. If a backup
is interrupted, run the same command again: it continues."""

_EPILOG = f"""\
exit status:
  {DONE}    backed up
  {FAILED}    it could not be, and why is on the error stream. The backup of before is as it was
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "backup",
        help="back a log up into a folder, or add what is new to a backup",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=log_file, metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument("to", type=path, metavar="TO", help="a folder, or - for the output")
    parser.add_argument(
        "--check", action="store_true", help="read the whole backup back, with all checksums"
    )
    parser.add_argument(
        "--percent",
        type=some,
        metavar="N",
        help=f"of the time that is worked, the rest is rested (default: 100, and {BESIDE_PERCENT} "
        "if an engine has the log open)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    ports = Ports()
    place = _place(options)
    source = options.file.outside(ports).copy_source()
    with ending_tidily():
        with source:
            beside = source.is_in_use()
        percent = options.percent or (BESIDE_PERCENT if beside else _PERCENT_MAX)
        pace = Pace(min(percent, _PERCENT_MAX), ports.clock.monotonic)
        target = BackupTarget(place, options.file.name, ports.clock.now, pace.rest)
        shown = Shown(ports)
        try:
            done = transfer(source, target, shown.show, page_events=_PAGE_EVENTS, compared=False)
        except (KeyboardInterrupt, SystemExit):
            shown.end()
            tell("interrupted: run it again, it continues where it was")
            raise
        finally:
            shown.end()
        assert target.manifest is not None, "a backup that was made has a manifest"
        _tell(place, target.manifest, done.resumed_at)
        tell_of_keys(options.file)
        if options.check:
            _check(place)
    return DONE


def _place(options: argparse.Namespace) -> Place:
    if options.to != STREAM:
        return FolderPlace(options.to)
    if options.check:
        raise UsageError("what went to the output cannot be read back: check it where it arrives")
    if sys.stdout.isatty():
        raise UsageError("the output is a terminal: send it to a file or to a command")
    return StreamPlace(sys.stdout.buffer)


def _tell(place: Place, manifest: Manifest, before: int) -> None:
    said = say if place.keeps else tell
    new = counted(manifest.position - before, "new event") if before else "all of it"
    files = len(manifest.segments) + len(manifest.beside)
    said(
        f"backed up to position {manifest.position:,} ({new}) in "
        f"{place.name}: {counted(files, 'file')}"
    )


def _check(place: Place) -> None:
    """Read everything; raise what is wrong."""
    with BackupLog(place) as log:
        after, end = 0, log.head().position
        while after < end:
            after = log.read_feed(after, events_max=_PAGE_EVENTS, bytes_max=2**23)[-1].position
        for _ in log.beside():
            pass
        manifest = log.manifest
    say(f"checked: {counted(manifest.position, 'event')}, each file and each event by its checksum")
