"""The process in which `foldline verify` looks at stretches of a log: it is asked and answers.

Rules: it reads one question from its input, answers it, and reads the next. It ends where the input
does, which is when the command has ended, also in the middle of a long look. Beside an engine it
lets every other process go first, and rests as the command says. It writes nothing to any file.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Sequence
from typing import IO, Final

import msgspec

from ..backups.pace import Pace
from ..errors import EngineError
from ..outside.stretches import Shape, Stretch, look_at, shape_of
from ..running import calm_collector
from ..runtime.interpreter import give_way
from ..runtime.ports import Ports
from ..stores.contract.backend import Outside
from ..stores.contract.outside import LogReader
from ..stores.contract.tags import TagForm
from ..stores.urls import backend_of_text

__all__ = ["Answer", "Question", "Task", "main", "read_message", "write_message"]

_LENGTH_BYTES: Final = 8


class Task(msgspec.Struct, frozen=True):
    """What a process is for; the first that it is told."""

    file: str
    percent: int
    """Of the time that it works."""
    gives_way: bool


class Question(msgspec.Struct, frozen=True):
    """Look at a stretch; where it has no events, at the structure."""

    after: int = 0
    end: int = 0
    forms: Sequence[TagForm] = ()


class Answer(msgspec.Struct, frozen=True):
    """One of these."""

    stretch: Stretch | None = None
    shape: Shape | None = None
    failed: str | None = None
    """Why it could not be looked at."""


def read_message(stream: IO[bytes]) -> bytes | None:
    """Give the next message; None at the end of what comes."""
    head = stream.read(_LENGTH_BYTES)
    size = int.from_bytes(head)
    data = stream.read(size)
    return data if len(head) == _LENGTH_BYTES and len(data) == size else None


def write_message(stream: IO[bytes], message: object) -> None:
    """Write a message whole."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(_LENGTH_BYTES) + data)
    stream.flush()


def main() -> None:
    """Answer until nobody asks any more."""
    told = read_message(sys.stdin.buffer)
    if told is None:
        return
    task, ports = msgspec.msgpack.decode(told, type=Task), Ports()
    if task.gives_way:
        give_way()
    pace = Pace(task.percent, ports.clock.monotonic)

    def rest() -> None:
        # Nothing is asked meanwhile: what can be read is the end.
        if select.select([sys.stdin], [], [], 0)[0]:
            sys.exit(1)
        pace.rest()

    outside = backend_of_text(task.file).outside(ports)
    question = msgspec.msgpack.Decoder(Question).decode
    with calm_collector(), outside.log_reader() as log:
        while (asked := read_message(sys.stdin.buffer)) is not None:
            write_message(sys.stdout.buffer, _answered(question(asked), log, outside, rest))


def _answered(
    asked: Question, log: LogReader, outside: Outside, rest: Callable[[], None]
) -> Answer:
    try:
        if asked.after == asked.end:
            return Answer(shape=shape_of(outside.structure(), rest))
        return Answer(look_at(log, asked.after, asked.end, asked.forms, rest))
    except EngineError as error:
        return Answer(failed=str(error))
