"""`foldline copy FILE TO`: a copy of a log and its views, whole, while the engine runs.

Rules: it writes over nothing, and what it could not copy whole it takes away. The log is only read.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from ..runtime.ports import Ports
from .options import DONE, FAILED, USAGE, log_file
from .output import say

__all__ = ["add_parser"]

_DESCRIPTION = """\
Copy a log, and its views if there are any, to new files. The log may be in use by its engine, be
left behind by one that was killed, or be closed. Each file is copied as it is at one moment,
synced, and read again: all events are compared with their checksums. Until then it is called
TO.partial; one that is there already was left by a copy that was killed, or is being made. Copied
with cp or rsync, the files of a running log are of several moments, and an engine refuses them."""

_EPILOG = f"""\
exit status:
  {DONE}    copied, and the copy was verified
  {FAILED}    nothing was copied. The reason is on the error stream
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "copy",
        help="copy a log and its views, while the engine runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=log_file, metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument(
        "to", metavar="TO", type=log_file, help="the new file, which must not be there"
    )
    parser.add_argument(
        "--damaged",
        action="store_true",
        help="of a damaged write-ahead log, take what stands before the damage; the rest is lost",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with _ending_tidily():
        outside = options.file.outside(Ports())
        copied = outside.copy(options.to.name, damaged=options.damaged)
    beside = "" if copied.views is None else f", with its views in {copied.views}"
    say(f"copied to position {copied.head.position:,}{beside}")
    return DONE


@contextmanager
def _ending_tidily() -> Generator[None]:
    """Take what is not whole away also where a timer or a service manager ends the copying."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    former = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
