"""What read models in other databases have in common.

Rules: a model goes on only where it stands where it was left: on the log's own event, with all that
was delivered before. Nothing of a database is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, cast

from ..errors import DefinitionError
from ..model.messages import Event, Meta
from ..model.sink import Delivered, Delivery
from ..runtime.package import COMMAND

__all__ = ["DIGITS", "ERASE_TIMES", "batch_of", "events_of", "named", "refusal_of"]

DIGITS: Final = 32
"""Of what names an event."""
ERASE_TIMES: Final = 60
"""How many times as long as other sinks a model may erase: it may have to write all rows again."""


def named(delivery: Delivery[Event]) -> str:
    """Name an event, so that another one at its position is told from it."""
    return _named(delivery.meta, type(delivery.event).event_name)


def _named(meta: Meta, name: str) -> str:
    text = f"{meta.stream} {meta.version} {meta.recorded} {name}"
    return blake2b(text.encode(), digest_size=DIGITS // 2).hexdigest()


async def refusal_of(
    delivered: Delivered | None, position: int, event: str, before: int
) -> str | None:
    """Give why a model that says how far it is cannot go on before a position; None if it can.

    `event` names the one that it has at its own `position`. Raises StoreFailed.
    """
    if delivered is None:
        return None
    if position:
        there = await delivered.at(position)
        if there is None or event not in [_named(there[0], name) for name in there[1]]:
            return (
                f"has another event at position {position} than the log: the log went back, as to "
                f"a backup. Raise the version of the model, which makes it anew"
            )
    missed = await delivered.missed(position, before)
    if missed is None:
        return None
    return (
        f"has lost rows: it is at position {position} and lacks the event at {missed}, which was "
        f"delivered. It went back, as to a backup, or events= has another class since. Have all "
        f"delivered again, as by `{COMMAND} projections reset`, which counts none twice, or raise "
        f"the version of the model"
    )


def events_of(name: str, events: Sequence[type[Event]]) -> Sequence[Any]:
    """Give the classes of a model's events; raise DefinitionError for what is none."""
    found: list[Any] = [] if isinstance(events, type) else list(events)
    if not found or not all(isinstance(cls, type) and issubclass(cls, Event) for cls in found):
        raise DefinitionError(f"read model {name!r}: events= is a list of classes of events")
    return found


def batch_of(events: Sequence[Any]) -> Any:
    """Give the annotation of a batch that has events of these classes."""
    union, delivery, sequence = events[0], cast("Any", Delivery), cast("Any", Sequence)
    for cls in events[1:]:
        union = union | cls
    return sequence[delivery[union]]
