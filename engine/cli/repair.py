"""`foldline repair FILE TO --from BACKUP`: a sound log out of a damaged one and a backup of it.

Rules: the damaged log is only read, and stays. Each event that cannot be used is taken from the
backup, if its checksum and what stands around it prove that it is the one; nothing else is. What
was taken is told, and kept in the new log. Nothing is written over.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..backups.places import FolderPlace
from ..backups.reading import BackupLog, BackupSource
from ..backups.repairing import MendedSource
from ..errors import UsageError
from ..outside.copying import transfer
from ..runtime.folder import Folder
from ..runtime.ports import Ports
from ..stores.contract.copying import CopySource
from ..stores.urls import backend_of_text
from .options import DONE, FAILED, USAGE, log_file
from .output import say, tell
from .printing import counted
from .progress import Shown, ending_tidily

__all__ = ["add_parser"]

_DESCRIPTION = """\
Make a sound log of a damaged one. Events that are sound are copied as they are. Each one that is
damaged or missing is taken from a backup, or from a copy of the log. It must match its checksum,
and the backup must have the same events as the log on both sides of the damage. Claims are made
again from the events, and indexes with them. Snapshots that are not sound are left out.

Nothing is invented: if an event is sound in neither, the command fails and names it. Then restore
the backup, up to a position before it if need be. The damaged log is not changed. The new one keeps
what was repaired in its table repairs, which copies and backups of it keep too."""

_EPILOG = f"""\
exit status:
  {DONE}    repaired and verified, or nothing was damaged
  {FAILED}    it could not be, and why is on the error stream. Nothing was written over
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "repair",
        help="make a sound log of a damaged one and a backup",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=log_file, metavar="FILE", help="the damaged log")
    parser.add_argument(
        "to", type=log_file, metavar="TO", help="a file that is not there, or postgresql://..."
    )
    parser.add_argument(
        "--from",
        dest="spare",
        required=True,
        metavar="BACKUP",
        help="the folder of a backup, or a copy of the log",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    ports = Ports()
    if options.file.name == options.to.name:
        raise UsageError(f"{options.to.name} is the damaged log itself: name another place")
    damaged = options.file.outside(ports).copy_source()
    source = MendedSource(damaged, _spare(options.spare, ports), ports.clock.now)
    shown = Shown(ports)
    with ending_tidily():
        try:
            done = transfer(source, options.to.outside(ports).copy_target(), shown.show)
        finally:
            shown.end()
            for note in source.notes:
                tell(note)
    for one in source.log.repaired.values():
        say(
            f"repaired: position {one.position:,}, {one.stream} version {one.version}, from "
            f"{one.source}: {one.cause}"
        )
    say(
        f"{counted(len(source.log.repaired), 'event')} repaired; {options.to.name} is sound up to "
        f"position {done.position:,}, and {options.file.name} is as it was"
    )
    if done.in_use:
        tell("an engine has the damaged log open: what it writes from now on is not in the new one")
    return DONE


def _spare(text: str, ports: Ports) -> CopySource:
    if "manifest.json" in Folder(text).names():
        return BackupSource(BackupLog(FolderPlace(text)))
    return backend_of_text(text).outside(ports).copy_source()
