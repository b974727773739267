"""Gives actors their turn: one task, round robin, in slices, with the event loop in between.

Rules: an actor that has more commands than its slice goes to the end of the queue, so that a hot
aggregate cannot starve the others; after a turn's worth of commands the event loop gets its turn,
so that the engine cannot starve its host. While the journal has no room nobody decides, and the
mailboxes fill. Nobody decides either while another engine may have the log: a command that is
answered by an old state would be told what is not true. It knows nothing of commands or events.
"""

from __future__ import annotations

import asyncio
from collections import deque

from ..errors import StoreFailed, Voided
from ..limits import Limits
from ..runtime.bell import Bell
from ..stores.contract.traits import Leased
from .actor import Actor
from .journal import Journal

__all__ = ["Dispatcher"]


class Dispatcher:
    """The queue of actors that have commands."""

    def __init__(self, limits: Limits, lease: Leased | None = None) -> None:
        """Take the store where it has the log for a time only."""
        self._limits = limits
        self._lease = lease
        self._ready: deque[Actor] = deque()
        self._wake = Bell()

    def ready(self, actor: Actor) -> None:
        """Put an actor that has commands at the end of the queue, or raise RecursionError."""
        # In this order: where the caller's stack has no room to wake anybody, nothing was changed.
        # Whoever finds others in the queue need not ring: its turns go on, or wait for `wake`.
        if not self._ready:
            self._wake.set()
        self._ready.append(actor)

    def wake(self) -> None:
        """Look again: the journal has room."""
        if self._ready:
            self._wake.set()

    async def run(self, journal: Journal) -> None:
        """Give turns until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._ready and journal.has_room:
                # Once a turn is enough: what is decided in it came before it began.
                if self._lease is not None and not self._lease.is_held():
                    await self._wait_for(self._lease)
                    continue
                self._turn(journal)
                journal.kick()
                await asyncio.sleep(0)

    async def _wait_for(self, lease: Leased) -> None:
        """Wait until the log is surely this engine's; let commands go that would wait for long."""
        try:
            await lease.held()
        except StoreFailed as failure:
            error = Voided(f"{failure} Nothing was written; send again.")
            error.__cause__ = failure
            while self._ready:
                actor = self._ready.popleft()
                actor.queued = False
                actor.refuse_waiting(error)

    def _turn(self, journal: Journal) -> None:
        budget, slice_ = self._limits.turn_commands, self._limits.actor_commands
        while self._ready and budget > 0 and journal.has_room:
            actor = self._ready.popleft()
            actor.queued = False
            done = actor.work(min(budget, slice_))
            budget -= done or 1  # without commands too: its turn is never free
            if actor.wants_turn:
                actor.queued = True
                self._ready.append(actor)
