"""What a sink was given, as the log says: asked by a sink whose receiver tells how far it is.

Rules: an event counts where the projector would deliver it: of the sink's classes, of its slice,
neither skipped nor parked. What cannot be decoded was never delivered. Nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from ...limits import Limits
from ...log.reader import FeedSource
from ...model.codec import EventRegistry, decode_meta
from ...model.messages import Event, Meta
from ...model.personal import sealed_of
from ...model.sink import Delivery
from ...model.stored import StoredEvent
from ...runtime.contained import contained
from ...stores.contract.acts import is_parked_there
from ...stores.contract.views import ViewsStore
from ..scope import Scope

__all__ = ["DeliveredEvents"]

PER_TURN: Final = 50
"""Events after which the event loop gets its turn."""


class DeliveredEvents:
    """The events of one part of a sink."""

    def __init__(
        self,
        store: FeedSource,
        scope: Scope,
        registry: EventRegistry,
        views: ViewsStore,
        limits: Limits,
        log_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._scope = scope
        self._registry = registry
        self._views = views
        self._limits = limits
        self._log_id = log_id

    @property
    def log_id(self) -> str:
        """See `Delivered.log_id`."""
        return self._log_id()

    async def at(self, position: int) -> tuple[Meta, Collection[str]] | None:
        """See `Delivered.at`."""
        page = await self._store.read_feed(position - 1, events_max=1, bytes_max=1)
        if not page:
            return None
        names = {page[0].name}
        try:
            event = self._registry.decode(page[0])
        except BaseException as raised:
            contained(raised)
            event = None
        if event is not None:
            names.add(type(event).event_name)
        return decode_meta(page[0]), names

    async def again(
        self, after: int, subjects: Collection[str] | None = None
    ) -> tuple[Sequence[Delivery[Any]], int | None]:
        """See `Delivered.again`."""
        page = await self._store.read_feed(
            after, events_max=self._limits.page_events, bytes_max=self._limits.page_bytes
        )
        found: list[Delivery[Any]] = []
        for index, stored in enumerate(page, 1):
            if subjects is None or self._subject_of(stored) in subjects:
                event = self._scope.pick(stored)
                if event is not None and not await self._is_parked_event(event, stored):
                    found.append(Delivery(event, decode_meta(stored), self._log_id()))
            if index % PER_TURN == 0:
                await asyncio.sleep(0)
        return found, page[-1].position if page else None

    def _subject_of(self, stored: StoredEvent) -> str | None:
        """Give whose personal data an event has, if it has some."""
        sealed = sealed_of(stored)
        sealer = self._registry.sealer
        return (
            None if sealed is None or sealer is None else sealer.subject_of(sealed, stored.position)
        )

    async def _is_parked_event(self, event: Event, stored: StoredEvent) -> bool:
        keys = self._scope.parking.keys
        return bool(keys) and (
            self._scope.key_of(event, stored) in keys and await self._is_parked(stored.position)
        )

    async def missed(self, after: int, before: int) -> int | None:
        """See `Delivered.missed`."""
        while after < before - 1:
            page = await self._store.read_feed(
                after,
                events_max=min(self._limits.page_events, before - 1 - after),
                bytes_max=self._limits.page_bytes,
            )
            if not page:
                return None
            for stored in page:
                if self._is_picked(stored) and not await self._is_parked(stored.position):
                    return stored.position
            after = page[-1].position
        return None

    def _is_picked(self, stored: StoredEvent) -> bool:
        try:
            return self._scope.pick(stored) is not None
        except BaseException as raised:
            contained(raised)
            return False

    async def _is_parked(self, position: int) -> bool:
        if not self._scope.parking.keys:
            return False
        name = self._scope.definition.name
        found = await self._views.parked(name, after=position - 1, limit=1)
        return is_parked_there(position, found)
