"""What a log has of types and kinds, by the first event of each.

Rules: what an append brings for the first time is said with that event, in the same transaction. A
type whose fields are others by the same version is refused with nothing written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ...errors import StoreFailed, StoreRefused
from ...model.stored import EventType
from ..contract.log import Appended, Batch, Plan
from ..contract.tags import TagForm

__all__ = ["Declared", "Known"]


class Declared(msgspec.Struct, frozen=True, array_like=True):
    """What the first event of a type says of it."""

    schema_hash: str
    tags: tuple[tuple[tuple[str, str], ...], tuple[str, ...]] | None
    """Fields and fixed tags by which events of it are found; None for none."""


class Known(msgspec.Struct, frozen=True):
    """What the first events of types and kinds say."""

    types: dict[tuple[str, int], Declared]
    """In the order of their first use."""
    kinds: set[str]

    def event_types(self) -> list[EventType]:
        """Give the types as the contract has them."""
        return [EventType(*key, known.schema_hash) for key, known in self.types.items()]

    def declared(
        self, batch: Batch, planned: Plan, forms: Mapping[tuple[str, int], Any]
    ) -> Mapping[int, Declared | None]:
        """Give the first events of types and kinds; raise StoreFailed for a type that changed."""
        found: dict[int, Declared | None] = {}
        kinds = set(self.kinds)
        types: dict[tuple[str, int], str] = {
            key: known.schema_hash for key, known in self.types.items()
        }
        events = iter(planned.events)
        for request, outcome in zip(batch.requests, planned.outcomes, strict=True):
            if not isinstance(outcome, Appended):
                continue
            for data in (data for write in request.writes for data in write.events):
                event, type_ = next(events), data.type
                kind = event.stream.partition(":")[0]
                if kind not in kinds:
                    kinds.add(kind)
                    found[event.position] = None
                key = type_.name, type_.version
                if _renews(type_, types.get(key)):
                    types[key] = type_.schema_hash
                    found[event.position] = Declared(type_.schema_hash, forms.get(key))
        return found

    def learn(self, planned: Plan, declared: Mapping[int, Declared | None]) -> None:
        """Know what was appended."""
        if not declared:
            return
        for event in planned.events:
            if event.position in declared:
                self.kinds.add(event.stream.partition(":")[0])
                type_ = declared[event.position]
                if type_ is not None:
                    self.types[event.name, event.event_version] = type_

    def check_forms(self, forms: Sequence[TagForm], name: str, instead: str) -> None:
        """Raise StoreRefused for a type whose stored events have other tags than it says now."""
        for form in forms:
            known = self.types.get((form.name, form.version))
            if known is not None and known.tags != (form.fields, form.fixed):
                raise StoreRefused(
                    f"{name} has events of {form.name} version {form.version} that are found by "
                    f"other tags than are declared now. {instead}. Nothing was changed"
                )


def _renews(type_: EventType, stored: str | None) -> bool:
    """Tell whether a type is declared by its event; raise StoreFailed where it does not fit."""
    renews = True if stored is None else type_.renews(stored)
    if renews is None:
        raise StoreFailed(
            f"{type_.name} version {type_.version} is stored with schema {stored} and comes with "
            f"{type_.schema_hash}: nothing was written",
            written=False,
        )
    return renews
