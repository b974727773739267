"""What stands outside of a simulated engine with personal data: systems that sinks reach, and keys.

Rules: it outlives the engine's processes. A system loses people when it is asked to, if it can, and
fails or hangs while the world says so. The store of keys is that of every day, in a file of the
simulated disk, behind one that fails too, and that tells the world which secrets there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from random import Random
from typing import Protocol, TypeAlias

from engine import Delivery, Meta, Sink, StoreFailed
from engine.runtime.ports import Ports
from engine.stores.contract.keys import Erasure, SubjectKey
from engine.stores.sqlite.keys import SqliteKeys

from .hostel import Booked, Registered

__all__ = ["Friends", "Letters", "Outside", "Post", "ToldKeys"]

Friends: TypeAlias = Registered | Booked


class Outside:
    """Two systems, over all lives of a seed."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.erasable: dict[str, dict[int, str]] = {}
        """By person and position, what the one keeps that can erase."""
        self.kept: dict[int, str] = {}
        """By position, what the other one keeps for ever."""
        self.failures = 0.0
        """The chance of each call to fail."""
        self.hangs = 0.0
        """The chance of each call to take very long."""

    async def trouble(self) -> None:
        """Take a while; fail or hang now and then."""
        await asyncio.sleep(self._random.expovariate(1 / 0.002))
        drawn = self._random.random()
        if drawn < self.hangs:
            await asyncio.sleep(self._random.choice((1.0, 100.0)))
        elif drawn < self.hangs + self.failures:
            error = self._random.choice((ConnectionError, ValueError))
            raise error("the system outside has a bad day")


class Post(Sink, name="post", version=1, on_poison="park"):
    """Delivers to the system that can erase."""

    async def deliver(self, batch: Sequence[Delivery[Friends]], outside: Outside) -> None:
        """Keep each text."""
        for each in batch:
            await outside.trouble()
            guest = each.event.guest if isinstance(each.event, Booked) else each.meta.stream
            outside.erasable.setdefault(guest, {})[each.position] = each.event.text

    async def erase(self, subjects: Sequence[str], outside: Outside) -> None:
        """Keep nothing of these people."""
        for subject in subjects:
            await outside.trouble()
            outside.erasable.pop(subject, None)


def text_of(event: Registered, meta: Meta) -> str:
    """Give what is personal as the key of a sequence."""
    return event.text


class Letters(Sink, name="letters", version=1, on_poison="park", sequence=text_of):
    """Delivers to a system that keeps all, in lanes that are named by what is personal."""

    is_ailing = False

    async def deliver(self, batch: Sequence[Delivery[Registered]], outside: Outside) -> None:
        """Keep each text, or fail and quote it."""
        for each in batch:
            await outside.trouble()
            if Letters.is_ailing and each.position % 3 == 1:
                raise ValueError(f"no letter for {each.event.text}")
            outside.kept[each.position] = each.event.text


class Keyring(Protocol):
    """Who is told of keys."""

    keys: dict[int, SubjectKey]

    def keys_of(self, subject: str) -> list[int]:
        """Give the numbers of a subject's keys."""
        ...

    def are_destroyed(self, numbers: Iterable[int]) -> None:
        """Take that some are no more."""
        ...


class ToldKeys:
    """Keys in a file, which fail and hang now and then, and are told to the world."""

    def __init__(
        self,
        path: str,
        book: Keyring,
        random: Random,
    ) -> None:
        """Take who is told which keys there are, and which were destroyed."""
        self._keys = SqliteKeys(path)
        self._book = book
        self._random = random
        self.failures = 0.0
        self.hangs = 0.0

    def __repr__(self) -> str:
        return repr(self._keys)

    async def open(self, ports: Ports, log_id: str, *, only_reads: bool = False) -> int:
        """Open it."""
        return await self._keys.open(ports, log_id, only_reads=only_reads)

    async def close(self) -> None:
        """Close it."""
        await self._keys.close()

    def check(self) -> None:
        """Look whether it is there."""
        self._keys.check()

    def find(self, number: int) -> SubjectKey | None:
        """Give a key."""
        return self._keys.find(number)

    def current(self, subject: str) -> SubjectKey | None:
        """Give the key of a subject."""
        return self._keys.current(subject)

    def change_count(self) -> int:
        """Tell whether anybody has changed it."""
        return self._keys.change_count()

    async def add(self, keys: Sequence[SubjectKey]) -> None:
        """Keep new ones."""
        await self._trouble("kept")
        await self._keys.add(keys)
        self._book.keys.update((key.number, key) for key in keys)
        await self._trouble("kept")

    async def erase(self, erasure: Erasure) -> Erasure:
        """Destroy some."""
        await self._trouble("destroyed")
        known = self._book.keys_of(erasure.subject)
        done = await self._keys.erase(erasure)
        self._book.are_destroyed(known)
        await self._trouble("destroyed")
        return done

    async def unfinished(self) -> Sequence[Erasure]:
        """Give what is not finished."""
        await self._trouble("read")
        return await self._keys.unfinished()

    async def finish(self, number: int, at: int) -> None:
        """Note that one is."""
        await self._trouble("written")
        await self._keys.finish(number, at)
        await self._trouble("written")

    async def erasures(self, subject: str | None = None) -> Sequence[Erasure]:
        """Give all."""
        return await self._keys.erasures(subject)

    async def _trouble(self, what: str) -> None:
        drawn = self._random.random()
        if drawn < self.hangs:
            await asyncio.sleep(self._random.choice((0.5, 20.0)))
        elif drawn < self.hangs + self.failures:
            raise StoreFailed(f"the keys could not be {what}", written=False, passes=True)
