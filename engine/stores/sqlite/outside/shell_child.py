"""The process in which a statement of `foldline sql` runs, with bounds on what it takes.

Rules: a statement, or a view of a file that somebody gave, may take any time in one step and any
memory. So it runs in a process of its own, which the system ends: it has so many seconds, so much
memory, and so large a file for what it sorts, also where nobody waits for it any more. It opens
the files, asks, and writes one answer to its output, which is the pipe of the command that began
it. Its error stream says nothing.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

import apsw
import msgspec

from ....errors import EngineError, StoreRefused
from ....runtime.ports import Ports
from ...contract.outside import Rows
from ..files import files_of
from .shell import LogAndViews

__all__ = ["Question", "Refused", "main"]

HEAP_BYTES: Final = 512 * 1024 * 1024
"""What SQLite may take; more of it is an error of the statement."""
MEMORY_BYTES: Final = 2 * 1024 * 1024 * 1024
"""What the process may, with the answer on its way."""
SORTED_BYTES: Final = 4 * 1024 * 1024 * 1024
"""The largest file that SQLite may make to sort in, which has no name and ends with the process."""

GRACE_SECONDS: Final = 0.5
"""For a statement that ends itself, which can be told better."""

_TOO_MUCH: Final = (
    f"the statement needs more than {HEAP_BYTES // 1024**2} MB of memory and was ended: ask for "
    f"fewer or shorter values"
)


class Question(msgspec.Struct, frozen=True):
    """What is asked; without a statement, what there is to ask."""

    log: str
    views: str
    statement: str | None
    parameters: tuple[str, ...]
    rows_max: int
    seconds: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Why there is no answer."""

    text: str
    by_store: bool


class Given(msgspec.Struct, frozen=True, tag=True):
    """An answer."""

    names: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    more: bool


def main() -> None:
    """Answer the question that stands on the input."""
    # Of Ctrl-C it ends at once, also inside a call; whoever began it says so.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    question = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Question)
    _bound(question.seconds)
    answer = _answered(lambda: _ask(question))
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


def _answered(ask: Callable[[], Rows]) -> bytes:
    answer: Given | Refused
    try:
        rows = ask()
        answer = Given(tuple(rows.names), [tuple(row) for row in rows.rows], rows.more)
        return msgspec.msgpack.encode(answer)
    except (MemoryError, apsw.NoMemError):
        answer = Refused(_TOO_MUCH, by_store=False)
    except EngineError as error:
        answer = Refused(str(error), by_store=isinstance(error, StoreRefused))
        if isinstance(error.__cause__, apsw.NoMemError):
            answer = Refused(_TOO_MUCH, by_store=False)
    return msgspec.msgpack.encode(answer)


def _ask(question: Question) -> Rows:
    ports = Ports()
    with LogAndViews(
        question.log, question.views, files=files_of(ports), stopwatch=ports.stopwatch
    ) as database:
        if question.statement is not None:
            return database.ask(
                question.statement,
                question.parameters,
                rows_max=question.rows_max,
                seconds=question.seconds,
            )
        found = [
            (t.schema, t.name, ", ".join(f"{n} {kind}".rstrip() for n, kind in t.columns))
            for t in database.tables()
        ]
        return Rows(("schema", "table", "columns"), found, more=False)


def _bound(seconds: int) -> None:
    # Whose signal nobody handles ends the process in whatever it is, also in one long call.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    apsw.hard_heap_limit(HEAP_BYTES)
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_FSIZE, SORTED_BYTES)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(what, (most, most))
    except (OSError, ValueError):
        return  # a system that has no such bound has the others, and the one that waits
