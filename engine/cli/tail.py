"""`foldline tail FILE`: follows a log from another process, as its engine writes it.

Rules: it asks the store whether anything was committed, ten times a second and for some µs, and
reads only then. It does not mind the engine's end and its next start. From time to time it opens
the file again, so that another log put in its place is noticed and not mixed with this one. A
damaged event ends it, after everything before has been shown.
"""

from __future__ import annotations

import argparse
import signal
from typing import Any, Final

from ..errors import StoreRefused
from ..log.selection import Selection
from ..model.stored import StoredEvent
from ..runtime.ports import Ports
from ..stores.contract.backend import Backend
from .layout import FIELDS, Layout
from .options import DONE, FAILED, USAGE, add_common, layout_of, selection_of, whole
from .output import Output, tell
from .search import Search, strange_names

__all__ = ["add_parser"]

POLL_SECONDS: Final = 0.1
"""A tenth of a second is quick for a person, and its cost, 2 µs, is nothing."""
CHECKS_EVERY: Final = 10
"""Rests between two looks at whether the file is still the same."""
LAST: Final = 10

_DESCRIPTION = f"""\
Show the last {LAST} events of a log, and each new one as it is committed, until stopped. The file
is opened read-only, beside its engine, which may end and start again."""

_EPILOG = f"""\
JSON fields: {FIELDS}

exit status:
  {DONE}    it was stopped: by Ctrl-C, by SIGTERM, or because the reader of its output has gone
  {FAILED}    the file cannot be read, is another log now, or an event is damaged. The reason is on
       the error stream, and the events before it have been shown
  {USAGE}    wrong arguments"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "tail",
        help="follow a log",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--after", type=whole, metavar="P", help="begin after this position")
    where.add_argument(
        "--last",
        type=whole,
        metavar="N",
        help=f"begin with the last N events (default: {LAST}, or with --since all from there)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    # Asked to end is asked to end, by whichever signal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output = Output(utf8=options.json)
    tail = _Tail(options.file, selection_of(options), layout_of(options), output)
    try:
        tail.begin(options.after, options.last)
        while True:
            tail.follow()
            output.rest(POLL_SECONDS)
    except KeyboardInterrupt:
        return DONE
    finally:
        tail.close()


class _Tail:
    """One log as it grows."""

    def __init__(self, log: Backend, selection: Selection, layout: Layout, output: Output) -> None:
        self._log = log
        self._layout = layout
        self._output = output
        self._selection = selection
        self._reader = log.outside(Ports()).log_reader()
        self._search = Search(self._reader, selection)
        self._changes = -1
        self._rests = 0
        self._seen: tuple[int, int] | None = None
        """Position and checksum of the log's last event, as it was last seen."""

    def begin(self, after: int | None, last: int | None) -> None:
        """Open the log, and go where the arguments say."""
        self._reader.open()
        if told := strange_names(self._reader, self._selection.names):
            tell(told.removeprefix(": "))
        self._note_head()
        if after is not None or (self._selection.since is not None and last is None):
            self._search.begin(after or 0)
            return
        for stored in self._search.last(LAST if last is None else last):
            self._show(stored)
        self._output.flush()

    def follow(self) -> None:
        """Show what was committed since the last time."""
        self._rests += 1
        if self._rests % CHECKS_EVERY == 0:
            self._check_same()
        # Read before the pages are: what is committed meanwhile changes it again.
        changes = self._reader.change_count()
        if changes == self._changes:
            return
        self._changes = changes
        try:
            for stored in self._search.forward():
                self._show(stored)
        finally:
            self._output.flush()
        self._note_head()

    def close(self) -> None:
        """Close the log."""
        self._reader.close()

    def _show(self, stored: StoredEvent) -> None:
        self._output.show(self._layout.lines(stored))

    def _note_head(self) -> None:
        head = self._reader.head()
        self._seen = (head.position, head.checksum) if head.position else None

    def _check_same(self) -> None:
        """Refuse to go on where the path leads to another log than the one that is open."""
        with self._log.outside(Ports()).log_reader() as now:
            same = now.log_id == self._reader.log_id
            if same and self._seen is not None:
                position, checksum = self._seen
                found = now.read_feed(position - 1, events_max=1, bytes_max=1)
                same = bool(found) and found[0].checksum == checksum
        if not same:
            raise StoreRefused(
                f"{self._log.name} is another log now than the one that was followed, or an older "
                f"copy of it was put in its place: start again to follow that one"
            )
