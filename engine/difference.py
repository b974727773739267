"""What differs between two states: pure, for time travel, tests and people.

Rules: both states are read and neither is changed. Structs are compared field by field, mappings
key by key, sequences place by place behind what they begin and end with alike, sets by their
members; everything else as a whole. The order of the changes follows the fields and the insertion
of keys, so that the same two states always give the same list. Nothing is encoded or guessed:
1 and 1.0 and True are three values. This file imports nothing of the engine.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final, TypeAlias

import msgspec

__all__ = ["ABSENT", "Absent", "Change", "Path", "difference"]

Path: TypeAlias = tuple[Any, ...]
"""Names of fields, keys of mappings, places in sequences: ("lines", "A@250", "quantity")."""

_SHOWN_MAX: Final = 120
"""Characters of a value in the text of a change."""


class Absent(enum.Enum):
    """The type of ABSENT."""

    ABSENT = "nothing"

    def __repr__(self) -> str:
        """Be written as it is named."""
        return "ABSENT"


ABSENT: Final = Absent.ABSENT
"""Stands where a state has nothing: `before` of what was added, `after` of what was removed."""


class Change(msgspec.Struct, frozen=True):
    """One place at which two states differ."""

    path: Path
    """Where: in `before` for what was removed, in `after` for what was added, else in both."""
    before: Any
    after: Any

    @property
    def where(self) -> str:
        """The path as one would write it: `lines['A@250'].quantity`."""
        text = ""
        for number, step in enumerate(self.path):
            if isinstance(step, _Field):
                text += f".{step}" if number else str(step)
            else:
                text += f"[{step!r}]"
        return text

    def __str__(self) -> str:
        """Give a line for people: `+` added, `-` removed, `~` changed; long values are cut."""
        if self.before is ABSENT:
            return f"+ {self.where}: {_shown(self.after)}"
        if self.after is ABSENT:
            return f"- {self.where}: {_shown(self.before)}"
        return f"~ {self.where}: {_shown(self.before)} -> {_shown(self.after)}"


class _Field(str):
    """A step of a path that is a field's name; equal to the plain string."""

    __slots__ = ()


def difference(before: object, after: object) -> tuple[Change, ...]:
    """Give all changes that lead from one state to the other; empty where they are the same.

    The states are msgspec structs, or anything built of structs, mappings, sequences, sets and
    values that can be compared.
    """
    return tuple(_compare((), before, after))


def _compare(path: Path, before: Any, after: Any) -> Iterator[Change]:
    alike = type(before) is type(after)
    if alike and _are(msgspec.Struct, before):
        for name in before.__struct_fields__:
            field = (*path, _Field(name))
            yield from _compare(field, getattr(before, name), getattr(after, name))
    elif _are(Mapping, before, after):
        yield from _compare_mappings(path, before, after)
    elif alike and _are(Sequence, before) and not _is_text(before):
        yield from _compare_sequences(path, before, after)
    elif _are(Set, before, after):
        yield from _compare_sets(path, before, after)
    elif not _same(before, after):
        yield Change(path, before, after)


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes | bytearray)


def _are(kind: type, *values: object) -> bool:
    return all(isinstance(value, kind) for value in values)


def _compare_mappings(
    path: Path, before: Mapping[Any, Any], after: Mapping[Any, Any]
) -> Iterator[Change]:
    for key, value in before.items():
        if key in after:
            yield from _compare((*path, key), value, after[key])
        else:
            yield Change((*path, key), value, ABSENT)
    for key, value in after.items():
        if key not in before:
            yield Change((*path, key), ABSENT, value)


def _compare_sequences(path: Path, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Change]:
    """Leave out what both begin and end with, so that one more in the middle is one change."""
    shorter = min(len(before), len(after))
    begin = 0
    while begin < shorter and _equal(before[begin], after[begin]):
        begin += 1
    end = 0
    while end < shorter - begin and _equal(before[-1 - end], after[-1 - end]):
        end += 1
    pairs = shorter - end
    for place in range(begin, pairs):
        yield from _compare((*path, place), before[place], after[place])
    for place in range(pairs, len(before) - end):
        yield Change((*path, place), before[place], ABSENT)
    for place in range(pairs, len(after) - end):
        yield Change((*path, place), ABSENT, after[place])


def _compare_sets(path: Path, before: Set[Any], after: Set[Any]) -> Iterator[Change]:
    # A set has no order of its own that would be the same in every process.
    for member in sorted(before - after, key=repr):
        yield Change((*path, member), member, ABSENT)
    for member in sorted(after - before, key=repr):
        yield Change((*path, member), ABSENT, member)


def _equal(before: Any, after: Any) -> bool:
    return next(_compare((), before, after), None) is None


def _same(before: Any, after: Any) -> bool:
    if before is after:
        return True
    if type(before) is not type(after):
        return False
    # A value that is not equal to itself, a NaN, has not changed by that.
    return bool(before == after or (before != before and after != after))


def _shown(value: Any) -> str:
    text = str(value.value) if isinstance(value, enum.Enum) else repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
