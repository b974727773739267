"""The end of a store that may end by itself: the engine hears of it at once, and ends too.

Rules: it waits for the store's own word, and raises it into the engine's task group. It asks the
store nothing, and changes nothing. Without it an engine at rest would be called running for hours,
on a store that takes nothing any more.
"""

from __future__ import annotations

import asyncio

from ..stores.contract.traits import EndsByItself

__all__ = ["StoreEnd"]


class StoreEnd:
    """Waits for the end of one store, until `stop`."""

    def __init__(self, store: EndsByItself) -> None:
        self._store = store
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Return after `stop`; raise the StoreFailed of a store that has ended before."""
        ended = asyncio.ensure_future(self._store.ended())
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not stopped.done():
                raise ended.result()
        finally:
            ended.cancel()
            stopped.cancel()

    def stop(self) -> None:
        """Let `run` return."""
        self._stopped.set()
