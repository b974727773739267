"""The record of answers: what the engine's process writes down and the parent reads.

Rules: an answer is written before anything else is done with it, into memory that both processes
share and the parent owns: that outlives `kill -9`, and costs no system call and no wait, as a pipe
or a file on the disk that is measured would. Records have one size and are counted when they are
whole, so that a torn last one is not taken for an answer: its command counts as unanswered.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

__all__ = ["PUT_OFF", "Answer", "Record", "Recorder", "Shared", "cost_us", "records_in"]

_LAYOUT = struct.Struct("<QBdffQI")
_COUNT = struct.Struct("<Q")
_GROWS_BY = 1 << 26


class Answer(IntEnum):
    """What a command was told; nothing is no answer."""

    NOTHING = 0
    RECEIPT = 1
    REJECTED = 2
    OVERLOADED = 3
    """Not run, since something was full."""
    OTHER = 4
    """Anything else; none is expected here."""


PUT_OFF = 255
"""Stands in the place of an answer: the engine was full, and the command is sent again later."""


class Record(NamedTuple):
    """One answer."""

    number: int
    answer: int
    at: float
    """When it came, by `time.monotonic()`."""
    latency: float
    """Seconds since the command was due."""
    service: float
    """Seconds since it was given to the engine."""
    position: int = 0
    version: int = 0


class Recorder:
    """Writes records, in the process that gets the answers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._count = 0

    def add(self, record: Record) -> None:
        """Write a record down."""
        place = _COUNT.size + self._count * _LAYOUT.size
        if place + _LAYOUT.size > len(self._map):
            self._grow()
        _LAYOUT.pack_into(self._map, place, *record)
        self._count += 1
        _COUNT.pack_into(self._map, 0, self._count)

    def _grow(self) -> None:
        size = len(self._map) + _GROWS_BY
        self._map.close()
        os.ftruncate(self._descriptor, size)
        self._map = mmap.mmap(self._descriptor, size)


class Shared:
    """The parent's side of one life's record."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self.descriptor = os.memfd_create("answers")
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        os.ftruncate(self.descriptor, _GROWS_BY)
        self._read = 0

    def records(self) -> Iterator[Record]:
        """Give what came since the last call."""
        (count,) = _COUNT.unpack(os.pread(self.descriptor, _COUNT.size, 0))
        some = os.pread(
            self.descriptor,
            (count - self._read) * _LAYOUT.size,
            _COUNT.size + self._read * _LAYOUT.size,
        )
        self._read = count
        yield from map(Record._make, _LAYOUT.iter_unpack(some))

    def close(self, kept: Path) -> None:
        """Let go of it, and leave a copy of its records."""
        size = self._read * _LAYOUT.size
        kept.write_bytes(os.pread(self.descriptor, size, _COUNT.size))
        os.close(self.descriptor)


def records_in(kept: Path) -> Iterator[Record]:
    """Give the records of a copy that was left."""
    yield from map(Record._make, _LAYOUT.iter_unpack(kept.read_bytes()))


def cost_us() -> float:
    """Measure what a record costs the engine's process, in µs, its clock included."""
    shared = Shared()
    recorder = Recorder(shared.descriptor)
    began = time.perf_counter()
    for number in range(100_000):
        recorder.add(Record(number, Answer.RECEIPT, time.monotonic(), 0.0, 0.0, 1, 1))
    os.close(shared.descriptor)
    return (time.perf_counter() - began) / 100_000 * 1e6
