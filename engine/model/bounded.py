"""What a function that takes boundaries may leave unsaid: whose an event is, and which field names.

Rules: an event that is given to nobody is for the first boundary that folds it. A boundary of
several tags finds their values in the fields of their names. It knows no function and no actor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import DefinitionError
from .aggregate import Aggregate
from .annotations import Signature
from .boundary import selects
from .messages import Command, Event
from .tags import is_fixed

__all__ = ["assigned", "check_fields", "first_to_fold", "is_by_tags"]


def assigned(
    found: Sequence[object], states: Sequence[Aggregate], to: Callable[..., object]
) -> Sequence[object]:
    """Give events that were given to nobody to the boundaries that apply them, in their order.

    `to` makes what gives events to one. What no boundary applies is left as it is.
    """
    plain: dict[int, list[Event]] = {}
    for event in found:
        if isinstance(event, Event):
            place = first_to_fold(states, event)
            if place is None:
                return found
            plain.setdefault(place, []).append(event)
    given = [to(states[place], *events) for place, events in plain.items()]
    return [*given, *(each for each in found if not isinstance(each, Event))]


def first_to_fold(states: Sequence[Aggregate], event: Event) -> int | None:
    """Give the place of the first boundary that folds an event, or else of one that applies it."""
    applying: int | None = None
    for place, state in enumerate(states):
        definition = type(state).__definition__
        if definition.tags and type(event) in definition.appliers:
            if selects(definition, state.id, event):
                return place
            applying = place if applying is None else applying
    return applying


def is_by_tags(tags: Sequence[str]) -> bool:
    """Tell whether a boundary of these tags has another number of values than one."""
    return bool(tags) and sum(not is_fixed(tag) for tag in tags) != 1


def check_fields(
    signature: Signature,
    command: type[Command],
    parameter: str,
    tags: Sequence[str],
    fields: Mapping[str, Any],
) -> None:
    """Raise DefinitionError where a command has no field for a tag of a boundary."""
    for tag in tags:
        if not is_fixed(tag) and fields.get(tag) != "one":
            raise DefinitionError(
                f"{signature.where} takes `{parameter}`, whose boundary has the tag {tag!r}, and "
                f"{command.__name__} has no field for it: write `{tag}: Id` in {command.__name__}"
            )
