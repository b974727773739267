"""`foldline restore FROM TO`: a log out of a backup, whole or up to a position or a time.

Rules: nothing is written over, and no engine opens what is not whole and verified. The manifest is
proved first, then each file and each event; what was written is read again. How far it is stands on
the error stream.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from ..backups.places import FolderPlace, Place, unpack
from ..backups.reading import BackupLog, BackupSource
from ..outside.copying import Transferred, transfer
from ..runtime.folder import Folder
from ..runtime.ports import Ports
from .backup import STREAM
from .options import DONE, FAILED, USAGE, log_file, moment, path, whole
from .output import say, tell
from .printing import counted
from .progress import Shown, ending_tidily

__all__ = ["add_parser", "opened_place"]

_DESCRIPTION = """\
Make a log of a backup: in a file, or in a schema in PostgreSQL, whatever store the backup is of. TO
must be new or empty. The log has the id, the positions, keys, times and checksums that it had, and
an engine starts on it. Claims are made again from the events. Projections are folded by the engine
when it starts; sinks go on behind what they have delivered.

--at ends the log at a position, or behind the last event that was recorded by a time. Later events
are not in it, and new ones get their positions. Receivers of sinks may know the former ones.

While it is not whole the log has no name that an engine opens. If it is interrupted, run the same
command again: it continues. `verify` reads a backup without restoring it."""

_EPILOG = f"""\
exit status:
  {DONE}    restored and verified
  {FAILED}    it could not be, and why is on the error stream. Nothing was written over
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "restore",
        help="make a log of a backup, up to any position or time",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "backup", type=path, metavar="FROM", help="the folder of a backup, or - for the input"
    )
    parser.add_argument(
        "file", type=log_file, metavar="TO", help="a file that is not there, or postgresql://..."
    )
    parser.add_argument(
        "--at",
        type=_end,
        metavar="P|T",
        help="end at position P, or at time T; T is ISO 8601, and UTC where it has no zone",
    )
    parser.set_defaults(run=_run)


def _end(text: str) -> tuple[int | None, int | None]:
    """Read a position, or a time in µs."""
    return (whole(text), None) if text.isdigit() else (None, moment(text))


def _run(options: argparse.Namespace) -> int:
    ports = Ports()
    at, until = options.at or (None, None)
    with ending_tidily(), opened_place(options.backup) as place:
        log = BackupLog(place, at=at, until=until)
        target = options.file.outside(ports).copy_target()
        shown = Shown(ports)
        with log:
            left_out = log.manifest.position - log.head().position
            is_whole = log.manifest.whole
        try:
            done = transfer(BackupSource(log), target, shown.show)
        finally:
            shown.end()
    _tell(done, left_out, options.file.name)
    if not is_whole:
        tell(
            "the backup was interrupted before its end: it has no snapshots, and neither decisions "
            "nor checkpoints of sinks but those of before"
        )
    return DONE


@contextmanager
def opened_place(name: str) -> Generator[Place]:
    """Give the folder of a backup; what comes from the input is put into one first."""
    if name != STREAM:
        yield FolderPlace(name)
        return
    with TemporaryDirectory(prefix="foldline-restore-") as folder:
        unpack(sys.stdin.buffer, Folder(folder))
        yield FolderPlace(folder)


def _tell(done: Transferred, left_out: int, name: str) -> None:
    say(f"restored to position {done.position:,}, and verified: {name}")
    if left_out:
        say(f"{counted(left_out, 'later event')} of the backup left out")
    carried = done.carried
    if carried is not None:
        say(
            f"with {counted(done.snapshots, 'snapshot')}, "
            f"{counted(len(carried.decisions), 'decision')}, and the checkpoints of "
            f"{counted(len(carried.sinks), 'sink')}"
        )
        if carried.folded:
            say(f"the next engine folds these from the log: {', '.join(carried.folded)}")
