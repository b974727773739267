"""What an instrument of OpenTelemetry is, as the tables of them are written.

Rules: an instrument says how its numbers are read from an engine's statistics. Attributes are names
of the code. Nothing here calls the SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

import msgspec

from ..statistics import EngineStatistics

__all__ = ["Attributes", "Instrument", "Read", "Reading", "by", "one"]

Attributes: TypeAlias = Mapping[str, str | bool | int | float]
Reading: TypeAlias = tuple[int | float, Attributes]
Read: TypeAlias = Callable[[EngineStatistics], Iterable[Reading]]


class Instrument(msgspec.Struct, frozen=True):
    """A count or a level."""

    make: Literal["counter", "level", "gauge"]
    name: str
    unit: str
    description: str
    read: Read


def one(read: Callable[[EngineStatistics], int | float]) -> Read:
    """Read one number."""
    return lambda numbers: [(read(numbers), {})]


def by(label: str, read: Callable[[EngineStatistics], Mapping[str, int | float | None]]) -> Read:
    """Read numbers by name; what is not known is not told."""

    def readings(numbers: EngineStatistics) -> Iterator[Reading]:
        for name, number in read(numbers).items():
            if number is not None:
                yield number, {f"foldline.{label}": name}

    return readings
