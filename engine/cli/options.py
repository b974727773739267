"""The arguments that commands over a log share, and how they are read.

Rules: a wrong argument is told with the usage, before any file is opened. A time without a zone is
UTC, since UTC is what the commands print.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from ..errors import DefinitionError
from ..log.selection import Selection
from ..stores.contract.backend import Backend
from ..stores.urls import backend_of_text, path_of_text
from .layout import JsonLines, Layout, TableLines

__all__ = [
    "DONE",
    "FAILED",
    "USAGE",
    "NamedLog",
    "add_common",
    "instant",
    "layout_of",
    "log_file",
    "moment",
    "named_log",
    "path",
    "seconds",
    "selection_of",
    "shortened",
    "some",
    "stream",
    "whole",
]

DONE, FAILED, USAGE = 0, 1, 2

NUMBER_MAX: Final = 2**63 - 1
NUMBER_DIGITS_MAX: Final = 100
SECONDS_MAX: Final = 7 * 86_400
SHOWN_MAX: Final = 60

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the file, the filters and the forms."""
    parser.add_argument("file", type=log_file, metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument(
        "--stream", type=stream, metavar="KIND:ID", help="only this stream, as order:536365"
    )
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


def log_file(text: str) -> Backend:
    """Read which log is meant: a path, or the URL that its engine has."""
    try:
        return backend_of_text(text)
    except DefinitionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class NamedLog(msgspec.Struct, frozen=True):
    """A log as it was named, and what that opens."""

    text: str
    backend: Backend


def named_log(text: str) -> NamedLog:
    """Give a log by its name on a command line."""
    return NamedLog(text, log_file(text))


def path(text: str) -> str:
    """Read the path of a file or a folder, or `-`; a URL would make a folder of its name."""
    try:
        return path_of_text(text)
    except DefinitionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(text: str) -> int:
    """Read a number from 0 on, of 64 bits, which is all that a log can count to."""
    # Python makes no number of thousands of digits.
    if not text.isascii() or not text.isdigit() or len(text) > NUMBER_DIGITS_MAX:
        raise argparse.ArgumentTypeError(f"{shortened(text)} is not a whole number from 0 on")
    if (number := int(text)) > NUMBER_MAX:
        raise argparse.ArgumentTypeError(f"{text} is more than 64 bits hold: {NUMBER_MAX} at most")
    return number


def some(text: str) -> int:
    """Read a number from 1 on."""
    if (number := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return number


def seconds(text: str) -> int:
    """Read a time to wait, of at most a week."""
    if (number := whole(text)) > SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text} s is more than a week: {SECONDS_MAX} at most")
    return number


def shortened(text: str) -> str:
    """Give an argument as an error shows it."""
    return repr(text) if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]!r}..."


def instant(text: str) -> datetime:
    """Read a time, which is UTC where it has no zone; give it in UTC."""
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.utcoffset() is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{shortened(text)} is not a time in ISO 8601 from the year 1 to 9999 in UTC, as "
            f"2026-01-31 or 2026-01-31T08:05:00Z"
        ) from None


def stream(text: str) -> str:
    """Read the name of a stream."""
    if ":" not in text:
        raise argparse.ArgumentTypeError(f"{text!a:.60} is no stream: write KIND:ID")
    return text


def moment(text: str) -> int:
    """Read a time; give µs since 1970-01-01 UTC."""
    return (instant(text) - _EPOCH) // timedelta(microseconds=1)
