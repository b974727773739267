"""`foldline archive FILE --kind K --closed-by N`: closed streams out of a log, into a cold file.

Rules: no engine may have a log in a file open; in PostgreSQL engines go on meanwhile. `--dry-run`
only looks, beside an engine or not. What was moved stays a part of the log for all that reads it.
Where the command is ended, each event is in the log or in the cold file, and the same command goes
on.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, Final

import msgspec

from ..errors import UsageError
from ..outside.copying import CopyProgress
from ..running import run
from ..runtime.package import COMMAND
from ..runtime.ports import Ports
from ..stores.contract.archiving import Archived, Archiver, ArchiveRule
from ..stores.contract.backend import Archives
from ..stores.contract.outside import LogReader, TellsKinds
from .options import DONE, FAILED, USAGE, log_file, whole
from .output import say, tell
from .printing import counted
from .progress import Shown, ending_tidily

__all__ = ["NOT_SHRUNK", "add_parser"]

_DAY: Final = 86_400_000_000
"""In µs."""
_MB: Final = 1_000_000
NOT_SHRUNK: Final = (
    "all of it was moved, and the log's file is not smaller yet: there is no room for a "
    "second one, beside it or in the folder for temporary files (TMPDIR, /var/tmp), or another "
    "process reads it all the time. Run the command again then"
)

_DESCRIPTION = """\
Move the events of closed streams out of a log, into a cold file beside it: shop.archive.db beside
shop.db. A stream is closed if its last event has one of the names given, and is old enough.

The log keeps position, version, type, time and checksum of each event; payload and metadata move.
Feeds, histories, past views, rebuilds, exports, copies, backups and `verify` read both files as one
log. A command to an archived aggregate loads it from there, and its keys and claims stay known.

Each page is copied, synced, read back and compared before it is removed from the log. At the end
SQLite rewrites the log, which takes room for a second one in a folder for temporary files.

Rules that are declared in code, also with a function of the state, are run by `retention`.

Stop the engine first: while one has the log open, this is refused. If it is interrupted, run it
again: it continues.

In PostgreSQL, contents move into the schema shop_archive beside the schema shop, while engines run.
Run it as the owner of the schema. The server gives the room to new rows; VACUUM FULL or pg_repack
make its files smaller."""

_EPILOG = f"""\
example:
  {COMMAND} archive shop.db --kind order --closed-by delivered --closed-by cancelled --days 90

JSON fields: streams, events, bytes (of what was moved), before, after (bytes of the log's file),
cold (the cold file, or the schema), cold_bytes, is_shrunk; in PostgreSQL bytes of the table

exit status:
  {DONE}    moved, or nothing was to be moved
  {FAILED}    not all of it was moved, and why is on the error stream
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "archive",
        help="move closed streams into a cold file beside the log",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=log_file, metavar="FILE", help="the log, a file or a URL")
    parser.add_argument("--kind", required=True, metavar="K", help="the kind of its aggregates")
    parser.add_argument(
        "--closed-by",
        action="append",
        required=True,
        metavar="N",
        help="the stored name of an event that closes a stream; give it again for several",
    )
    parser.add_argument(
        "--days",
        type=whole,
        default=0,
        metavar="D",
        help="how old that event is at least (default: 0)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be moved")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    ports = Ports()
    outside = options.file.outside(ports)
    if not isinstance(outside, Archives):
        raise UsageError(
            f"{options.file.name} cannot be archived: only logs in files and in PostgreSQL can. "
            f"Nothing was changed"
        )
    before = ports.clock.now() - options.days * _DAY
    rule = ArchiveRule(options.kind, tuple(options.closed_by), before)
    shown = Shown(ports)
    with ending_tidily():
        try:
            archiver = outside.archiver()
            done = run(partial(_archived, archiver, rule, shown, dry_run=options.dry_run))
        except (KeyboardInterrupt, SystemExit):
            shown.end()
            tell("interrupted: run it again, it continues where it was")
            raise
        finally:
            shown.end()
    _tell(done, options)
    if not done.streams:
        with options.file.outside(ports).log_reader() as reader:
            _tell_slips(rule, reader)
    return DONE if done.is_shrunk else FAILED


async def _archived(
    archiver: Archiver, rule: ArchiveRule, shown: Shown, *, dry_run: bool
) -> Archived:
    def progress(moved: int, events: int) -> None:
        shown.show(CopyProgress("archived", moved, events))

    if dry_run:
        return await archiver.archive(rule, progress, dry_run=True)
    async with archiver:
        return await archiver.archive(rule, progress)


def _tell_slips(rule: ArchiveRule, log: LogReader) -> None:
    """Name what the log has nothing of."""
    kinds = log.kinds() if isinstance(log, TellsKinds) else [rule.kind]
    if rule.kind not in kinds:
        tell(
            f"the log has no stream of the kind {rule.kind!r}, and has "
            f"{', '.join(map(repr, kinds)) or 'none at all'}: look for a slip of the pen"
        )
    known = {each.name for each in log.event_types()}
    for name in rule.closed_by:
        if name not in known:
            tell(f"the log has no event that is stored as {name!r}: look for a slip of the pen")


def _tell(done: Archived, options: argparse.Namespace) -> None:
    if options.json:
        say(msgspec.json.encode(done).decode())
    else:
        what = f"{counted(done.events, 'event')} of {counted(done.streams, 'stream')}"
        size = f"{done.bytes / _MB:,.1f} MB"
        if options.dry_run:
            say(f"{what} would be moved to {done.cold}, {size} of payloads and metadata")
        else:
            say(f"{what} moved to {done.cold}, {size} of payloads and metadata")
            say(f"{options.file.name} has {done.after / _MB:,.1f} MB of {done.before / _MB:,.1f}")
    if not done.is_shrunk:
        tell(NOT_SHRUNK)
