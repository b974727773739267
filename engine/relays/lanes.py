"""Which commands wait for each other: those that name an aggregate together, in their order.

Rules: an id stands for an aggregate, of whatever kind; two that share one only wait more. A command
that several aggregates decide is behind what came before it for each of them, and before what came
later. What names none, or names it by no text, waits for nobody: the engine says what is wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast, get_args

from ..errors import DefinitionError
from ..model.annotations import fields_of
from ..model.messages import Command, is_id

__all__ = ["ids_of", "lanes_of"]


def ids_of(command: Any) -> frozenset[str]:
    """Give the ids of aggregates that a command names; none of what is no command."""
    kind: Any = command.__class__
    found: list[Any] = []
    for field in _fields_of(kind):
        value: Any = getattr(command, field, None)
        found += value if isinstance(value, list | tuple) else [value]
    return frozenset(each for each in found if isinstance(each, str))


@functools.lru_cache(maxsize=1_000)
def _fields_of(kind: Any) -> tuple[str, ...]:
    """Give the fields that hold an id, or several, or perhaps one."""
    is_command = issubclass(kind, Command)
    try:
        fields = fields_of(cast("type[Any]", kind)) if is_command else ()
    except DefinitionError:
        return ()
    return tuple(f.name for f in fields if any(map(is_id, (f.type, *get_args(f.type)))))


def lanes_of(named: Sequence[frozenset[str]]) -> Sequence[Sequence[int]]:
    """Give the places of commands that wait for each other, lane by lane, each in order."""
    parents = list(range(len(named)))
    last: dict[str, int] = {}

    def root_of(place: int) -> int:
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place

    for place, names in enumerate(named):
        for name in names:
            parents[root_of(last.get(name, place))] = root_of(place)
            last[name] = place
    lanes: dict[int, list[int]] = {}
    for place in range(len(named)):
        lanes.setdefault(root_of(place), []).append(place)
    return list(lanes.values())
