"""Parked events that are tried again: in order, a page at a time, and no further than it goes.

Rules: a page is tried between two batches of its projector, and no further than that has come. Of
a key whose event fails again the later ones are left as they are. What is folded is parked no more,
event by event, so that whatever ends it on the way leaves nothing to undo.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..stores.contract.views import Parked, ViewsStore
from .projector import Projector

__all__ = ["Retried", "Retry"]

PARKED_PAGE: Final = 100
POSITIONS_TOLD_MAX: Final = 10


class Retried(msgspec.Struct, frozen=True):
    """What became of parked events that were tried again."""

    released: int
    """Events that are parked no more: they are in the tables, or skipped."""
    failed: tuple[Parked, ...]
    """Those that failed again, the first of each key; all behind them were left."""

    @property
    def text(self) -> str:
        """Both, in words."""
        text = f"events that are in the tables now: {self.released}"
        if self.failed:
            first = ", ".join(str(p.position) for p in self.failed[:POSITIONS_TOLD_MAX])
            text += f"; keys whose first event failed again: {len(self.failed)}, at {first}"
        return text


class Retry:
    """One page of parked events, tried again between two batches of their projector."""

    def __init__(
        self,
        views: ViewsStore,
        projector: Projector,
        key: str | None,
        after: int,
        given_up: set[str],
    ) -> None:
        self._views = views
        self._projector = projector
        self._key = key
        self._after = after
        self._given_up = given_up
        self.released = 0
        self.failed: list[Parked] = []
        self.next: int | None = None
        """After which position to go on."""

    async def run(self) -> None:
        """Try them."""
        projector = self._projector
        name = projector.definition.name
        # What is parked is asked in memory: after a failed write that may lack what is in the file.
        await projector.make_sure()
        page = await self._views.parked(name, key=self._key, after=self._after, limit=PARKED_PAGE)
        for parked in page:
            if parked.position > projector.position:
                # Of another slice, which is further: behind it, the next page would begin in the
                # middle of what this one parks meanwhile.
                self.next = None
                return
            self.next = parked.position
            if parked.key in self._given_up or parked.key not in projector.parking.keys:
                continue
            if await projector.release(parked) is None:
                self.released += 1
            else:
                self._given_up.add(parked.key)
                self.failed.append(parked)
