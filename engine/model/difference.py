"""What differs between two states: pure, for time travel, tests and people.

Rules: both states are read and neither is changed. Structs are compared field by field, mappings
key by key, sequences place by place behind what they begin and end with alike, sets by their
members; everything else as a whole. The order of the changes follows the fields and the insertion
of keys, so that the same two states always give the same list. Nothing is encoded or guessed:
1 and 1.0 and True are three values, also as keys and members. Each value is looked at once, however
deep it lies, so that the work grows with the size of the states and with nothing else. This file
imports nothing of the engine.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from typing import Any, Final, TypeAlias, cast

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
    """The value there; ABSENT where there is none."""
    after: Any
    """The value there; ABSENT where there is none."""

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
    """Give all changes that lead from a state `before` to one `after`; empty if they are equal.

    The states are msgspec structs, or anything built of structs, mappings, sequences, sets and
    values that can be compared.
    """
    return tuple(_Walk().changes(before, after))


Place: TypeAlias = tuple[Path, Any, Any]
"""Where two values are to be compared, and these."""


class _Walk:
    """Goes along two states. Values are the same where they are of one class, a number."""

    def __init__(self) -> None:
        self._classes: dict[object, int] = {}
        self._known: dict[int, tuple[object, int]] = {}
        """By identity, those that have parts: kept, so that no other is taken for one of them."""
        self._unhashable: dict[type, list[tuple[object, int]]] = {}

    def changes(self, before: object, after: object) -> Iterator[Change]:
        """Give what differs, place by place."""
        todo: list[Iterator[Change | Place]] = [iter([((), before, after)])]
        within: dict[tuple[int, int], None] = {(0, 0): None}
        """The pair that each of these is inside of: what is a part of itself is entered once."""
        while todo:
            found = next(todo[-1], None)
            if found is None:
                todo.pop()
                within.popitem()
            elif isinstance(found, Change):
                yield found
            elif self._class_of(found[1]) != self._class_of(found[2]):
                pair = id(found[1]), id(found[2])
                if pair not in within:
                    todo.append(self._inside(*found))
                    within[pair] = None

    def _inside(self, path: Path, before: Any, after: Any) -> Iterator[Change | Place]:
        """Give the places inside two values that differ, or that they do."""
        alike = type(before) is type(after)
        if alike and _are(msgspec.Struct, before):
            for name in before.__struct_fields__:
                yield (*path, _Field(name)), getattr(before, name), getattr(after, name)
        elif _are(Mapping, before, after):
            yield from self._in_mappings(path, before, after)
        elif alike and _are(Sequence, before) and not _is_text(before):
            yield from self._in_sequences(path, before, after)
        elif _are(Set, before, after):
            yield from self._in_sets(path, before, after)
        else:
            yield Change(path, before, after)

    def _in_mappings(
        self, path: Path, before: Mapping[Any, Any], after: Mapping[Any, Any]
    ) -> Iterator[Change | Place]:
        keys = {self._class_of(key) for key in before}
        others = {self._class_of(key): value for key, value in after.items()}
        for key, value in before.items():
            other = others.get(self._class_of(key), ABSENT)
            yield (
                Change((*path, key), value, ABSENT)
                if other is ABSENT
                else (
                    (*path, key),
                    value,
                    other,
                )
            )
        for key, value in after.items():
            if self._class_of(key) not in keys:
                yield Change((*path, key), ABSENT, value)

    def _in_sequences(
        self, path: Path, before: Sequence[Any], after: Sequence[Any]
    ) -> Iterator[Change | Place]:
        """Leave out what both begin and end with, so that one more in the middle is one change."""
        shorter = min(len(before), len(after))
        begin = 0
        while begin < shorter and self._are_same(before[begin], after[begin]):
            begin += 1
        end = 0
        while end < shorter - begin and self._are_same(before[-1 - end], after[-1 - end]):
            end += 1
        pairs = shorter - end
        for place in range(begin, pairs):
            yield (*path, place), before[place], after[place]
        for place in range(pairs, len(before) - end):
            yield Change((*path, place), before[place], ABSENT)
        for place in range(pairs, len(after) - end):
            yield Change((*path, place), ABSENT, after[place])

    def _in_sets(self, path: Path, before: Set[Any], after: Set[Any]) -> Iterator[Change]:
        ours = {self._class_of(member): member for member in before}
        theirs = {self._class_of(member): member for member in after}
        # A set has no order of its own that would be the same in every process.
        for member in sorted((m for c, m in ours.items() if c not in theirs), key=repr):
            yield Change((*path, member), member, ABSENT)
        for member in sorted((m for c, m in theirs.items() if c not in ours), key=repr):
            yield Change((*path, member), ABSENT, member)

    def _are_same(self, before: Any, after: Any) -> bool:
        return self._class_of(before) == self._class_of(after)

    def _class_of(self, value: Any) -> int:
        """Give the class of a value: that of its parts first, without recursion."""
        todo = [value]
        begun: dict[int, Sequence[Any]] = {}
        while todo:
            top = todo[-1]
            parts = begun.get(id(top))
            if parts is None and id(top) not in self._known:
                parts = _parts(top)
                if parts is not None:
                    begun[id(top)] = parts
                    waiting = [part for part in parts if self._must_wait(part, begun)]
                    if waiting:
                        todo += waiting
                        continue
            if parts is not None:
                self._known[id(top)] = top, self._number(_key(top, parts, self._shallow))
            todo.pop()
        return self._shallow(value)

    def _must_wait(self, part: Any, begun: Mapping[int, object]) -> bool:
        return id(part) not in self._known and id(part) not in begun and _parts(part) is not None

    def _shallow(self, value: Any) -> int:
        """Give the class of a value whose parts are known."""
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if _parts(value) is not None:
            return self._number("a circle")  # it is a part of itself
        try:
            # A value that is not equal to itself, a NaN, has not changed by that.
            kind = cast("Any", type(value))
            return self._number((kind, "itself" if value != value else (value,)))
        except Exception:  # it has no hash, or no answer whether it equals itself
            return self._of_unhashable(value)

    def _of_unhashable(self, value: Any) -> int:
        kind = cast("Any", type(value))
        others = self._unhashable.setdefault(kind, [])
        for other, number in others:
            if _same(other, value):
                return number
        others.append((value, self._number(object())))
        return others[-1][1]

    def _number(self, key: object) -> int:
        return self._classes.setdefault(key, len(self._classes))


def _parts(value: Any) -> Sequence[Any] | None:
    """Give what a value is made of; None where it is compared as a whole."""
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    listed = isinstance(value, Sequence | Set) and not isinstance(value, str | bytes | bytearray)
    if listed:
        return list(cast("Collection[Any]", value))
    return None


def _key(value: Any, parts: Sequence[Any], class_of: Callable[[Any], int]) -> object:
    """Give what the same values have in common, of the classes of their parts."""
    classes = [class_of(part) for part in parts]
    if isinstance(value, Mapping) and not isinstance(value, msgspec.Struct):
        half = len(classes) // 2
        return "mapping", frozenset(zip(classes[:half], classes[half:], strict=True))
    if isinstance(value, Set):
        return "set", frozenset(classes)
    kind = cast("Any", type(value))
    return kind, tuple(classes)


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes | bytearray)


def _are(kind: type, *values: object) -> bool:
    return all(isinstance(value, kind) for value in values)


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
