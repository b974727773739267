"""`foldline log FILE`: pages through a log, whoever has it open.

Rules: it reads and writes nothing else; it ends with the page, and says how to go on. A damaged
event ends it after everything before has been shown.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import Damaged
from ..model.stored import StoredEvent
from ..runtime.ports import Ports
from .layout import FIELDS, Layout
from .options import DONE, FAILED, USAGE, add_common, layout_of, moment, selection_of, some, whole
from .output import Output, tell
from .search import Search, strange_names

__all__ = ["add_parser"]

_FLUSH_EVENTS = 1_000

_DESCRIPTION = """\
Show the events of a log, oldest first, a page at a time. The file may be in use by its engine, be
left behind by one that was killed, or be closed: it is opened read-only. If there is more, the
error stream says how to continue."""

_EPILOG = f"""\
JSON fields: {FIELDS}

exit status:
  {DONE}    shown, also if nothing matches
  {FAILED}    the file cannot be read, or an event is damaged. The reason is on the error stream,
       and the events before it have been shown
  {USAGE}    wrong arguments
  130  interrupted"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "log",
        help="page through a log",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_common(parser)
    parser.add_argument(
        "--until", type=moment, metavar="T", help="only events recorded at T or earlier"
    )
    parser.add_argument(
        "--limit", type=some, default=50, metavar="N", help="most events of a page (default: 50)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--after", type=whole, default=0, metavar="P", help="begin after this position"
    )
    where.add_argument(
        "--last", action="store_true", help="show the last page, not the first: --limit N of them"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    output = Output(utf8=options.json)
    with options.file.outside(Ports()).log_reader() as reader:
        search = Search(reader, selection_of(options))
        if options.last:
            found = iter(search.last(options.limit))
        else:
            search.begin(options.after)
            found = search.forward()
        shown = itertools.islice(found, options.limit)
        last = _show(shown, layout_of(options), output)
        if last is None:
            tell("no event matches" + strange_names(reader, options.name))
        elif _goes_on(found):
            tell(f"more after position {last.position}: --after {last.position}")
    return DONE


def _goes_on(found: Iterator[StoredEvent]) -> bool:
    try:
        return next(found, None) is not None
    except Damaged:
        # It is not on this page: the next one has to say so.
        return True


def _show(events: Iterable[StoredEvent], layout: Layout, output: Output) -> StoredEvent | None:
    """Write events; give the last one."""
    last: StoredEvent | None = None
    try:
        for count, last in enumerate(events, 1):
            output.show(layout.lines(last))
            if count % _FLUSH_EVENTS == 0:
                output.flush()
    finally:
        output.flush()
    return last
