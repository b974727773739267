"""`foldline copy FROM TO`: a log into another place, of the same kind or another, verified.

Rules: it writes over nothing, and the source is only read. From file to file both files are copied
whole, and what could not be copied whole is taken away. Where a server is at one end, the log is
copied event by event, and what was begun stays and goes on when the command is run again. How far
it is stands on the error stream.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import UsageError
from ..outside.copying import Transferred, transfer
from ..runtime.package import COMMAND
from ..runtime.ports import Ports
from ..stores.contract.backend import CopiesFiles, Outside
from .options import DONE, FAILED, USAGE, log_file
from .output import say, tell
from .personal import tell_of_keys
from .printing import counted
from .progress import Shown, ending_tidily

__all__ = ["add_parser"]

_DESCRIPTION = """\
Copy a log to a new place: a file, or a schema in PostgreSQL. The log may be in use by its engine,
be left behind by one that was killed, or be closed. The copy is as the log is at one position. It
keeps the id of the log, and each event its position, key, time and checksum. At the end the copy is
read again, and all events are compared with their checksums. TO must be new or empty.

From a file to a file, log and views are copied whole. Until the copy is verified it is called
TO.partial. One that is there already was left by a copy that was killed, or is being made. Copied
with cp or rsync, the files of a running log are of several moments, and an engine refuses them.

If FROM or TO is postgresql://..., snapshots, decisions, requests, and the checkpoints and parked
events of sinks come along. The tables of other projections do not: the engine folds them from the
log when it starts on TO. If the copy is interrupted, run the same command again: it continues.
Connect to PostgreSQL as a user who may create schemas there."""

_EPILOG = f"""\
examples:
  {COMMAND} copy bank.db backups/monday.db
  {COMMAND} copy bank.db postgresql://ann@db.example/bank
  {COMMAND} copy "postgresql://ann@db.example/bank?schema=foldline" bank.db

exit status:
  {DONE}    copied, and the copy was verified
  {FAILED}    not copied. The reason is on the error stream
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "copy",
        help="copy a log to a file or to PostgreSQL, while the engine runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", type=log_file, metavar="FROM", help="the log: a file, or postgresql://..."
    )
    parser.add_argument(
        "to", metavar="TO", type=log_file, help="the new place: a file, or postgresql://..."
    )
    parser.add_argument(
        "--damaged",
        action="store_true",
        help="of a damaged write-ahead log, take what stands before the damage; the rest is lost",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    ports = Ports()
    with ending_tidily():
        source: Outside = options.file.outside(ports)
        target: Outside = options.to.outside(ports)
        if isinstance(source, CopiesFiles) and isinstance(target, CopiesFiles):
            copied = source.copy(options.to.name, damaged=options.damaged)
            beside = "" if copied.views is None else f", with its views in {copied.views}"
            say(f"copied to position {copied.head.position:,}{beside}")
            tell_of_keys(options.file)
            return DONE
        if options.file.name == options.to.name:
            raise UsageError(f"{options.to.name} is the log itself: name another place")
        shown = Shown(ports)
        try:
            done = transfer(
                source.copy_source(damaged=options.damaged), target.copy_target(), shown.show
            )
        except (KeyboardInterrupt, SystemExit):
            shown.end()
            tell("interrupted: run it again, it continues where it was")
            raise
        finally:
            shown.end()
    _tell(done)
    tell_of_keys(options.file)
    return DONE


def _tell(done: Transferred) -> None:
    resumed = f", from {done.resumed_at:,} on" if done.resumed_at else ""
    say(f"copied to position {done.position:,}{resumed}, and verified")
    if done.in_use:
        tell("an engine has the source open: what it writes from now on is not in the copy")
    carried = done.carried
    if carried is None:
        tell("there are no views beside the source, so no decisions and no checkpoints of sinks")
        return
    parked = sum(map(len, carried.parked.values()))
    say(
        f"with {counted(done.snapshots, 'snapshot')}, {counted(len(carried.decisions), 'decision')}"
        f", {counted(len(carried.requests), 'request')}, the checkpoints of "
        f"{counted(len(carried.sinks), 'sink')} and {counted(parked, 'parked event')} of theirs"
    )
    if carried.folded:
        say(f"the next engine on the copy folds these from the log: {', '.join(carried.folded)}")
