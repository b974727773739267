"""New keys for what is parked: those that events have now, which were made of an erased person.

Rules: a `sequence` may make its key of personal fields, and a parked event keeps that in the views.
Behind an erasure the event is read again, without the person, and stands under the key that it
has then. One that stands under its stream is left there. A key that would belong to another slice
gets a number behind it: what is parked stays with its slice. A key that cannot be made is the
event's stream. Nothing is folded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import msgspec

from ..limits import Limits
from ..model.codec import EventRegistry
from ..model.projection import slice_of
from ..model.stored import StoredEvent
from ..runtime.contained import contained
from ..stores.contract.views import Changes, Parked, ViewsStore
from .projector import Projector
from .retry import PARKED_PAGE
from .scope import Scope

__all__ = ["Rekeying"]


class Rekeying:
    """The parked events of one part, between two batches of their projector."""

    def __init__(
        self, views: ViewsStore, projector: Projector, registry: EventRegistry, limits: Limits
    ) -> None:
        self._views = views
        self._projector = projector
        self._scope = Scope(projector.definition, registry, limits)

    async def run(self) -> bool:
        """Write the new keys; tell whether there are any."""
        projector, name = self._projector, self._projector.definition.name
        await projector.make_sure()
        changed: list[Parked] = []
        after: int | None = 0
        while after is not None:
            page = await self._views.parked(name, after=after, limit=PARKED_PAGE)
            changed += await self._changed(page)
            after = page[-1].position if len(page) == PARKED_PAGE else None
        if changed:
            at = await self._views.checkpoint(projector.part)
            await self._views.write(Changes(projector.part, at, at, {}, tuple(changed)))
            projector.parking.begin(await self._views.parked_keys(projector.part))
        return bool(changed)

    async def _changed(self, page: Sequence[Parked]) -> Sequence[Parked]:
        changed: list[Parked] = []
        for parked in page:
            if parked.key == parked.stream:
                continue  # nobody is in that
            if parked.key in self._projector.parking.keys:  # or else it is another slice's
                key = self._key_of(await self._projector.read(parked.position))
                if key != parked.key:
                    changed.append(msgspec.structs.replace(parked, key=key))
        return changed

    def _key_of(self, stored: StoredEvent) -> str:
        try:
            key = self._scope.key_of(None, stored)
        except BaseException as raised:
            contained(raised)
            key = stored.stream
        part, slices = self._projector.part, self._projector.definition.slices
        names = (f"{key}#{n}" if n else key for n in count())
        return next(name for name in names if slice_of(name, slices) == part.slice)
