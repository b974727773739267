"""The arguments that commands over a log share, and how they are read.

Rules: a wrong argument is told with the usage, before any file is opened. A time without a zone is
UTC, since UTC is what the commands print.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Final

from .layout import JsonLines, Layout, TableLines
from .search import Selection

__all__ = [
    "DONE",
    "FAILED",
    "USAGE",
    "add_common",
    "layout_of",
    "moment",
    "selection_of",
    "some",
    "whole",
]

DONE, FAILED, USAGE = 0, 1, 2

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the file, the filters and the forms."""
    parser.add_argument("file", metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument("--stream", metavar="S", help="only this stream, as order:536365")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="N",
        help="only events stored under this name; give it again for several",
    )
    parser.add_argument(
        "--since",
        type=moment,
        metavar="T",
        help="only events recorded at T or later; T is ISO 8601, and UTC where it has no zone",
    )
    parser.add_argument(
        "--key", metavar="K", help="only the first event of a command with this key"
    )
    parser.add_argument("--correlation", metavar="C", help="only events of this correlation")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--payload", action="store_true", help="show payloads and headers too: what people wrote"
    )


def selection_of(options: argparse.Namespace) -> Selection:
    """Give what the arguments select."""
    return Selection(
        stream=options.stream,
        names=tuple(options.name),
        since=options.since,
        until=getattr(options, "until", None),
        key=options.key,
        correlation=options.correlation,
    )


def layout_of(options: argparse.Namespace) -> Layout:
    """Give the form that the arguments ask for."""
    return (JsonLines if options.json else TableLines)(payload=options.payload)


def whole(text: str) -> int:
    """Read a number from 0 on."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def some(text: str) -> int:
    """Read a number from 1 on."""
    if (number := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number


def moment(text: str) -> int:
    """Read a time; give µs since 1970-01-01 UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time in ISO 8601, as 2026-01-31 or 2026-01-31T08:05:00Z"
        ) from None
    if time.utcoffset() is None:
        time = time.replace(tzinfo=UTC)
    return (time - _EPOCH) // timedelta(microseconds=1)
