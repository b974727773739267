"""Which of the callbacks that are ready runs next: three ways to choose, all from a seed.

`Uniform` mixes everything, or delays a few of what otherwise runs in order. `Priorities` gives each
task a rank and runs the highest, but for a few moments at which the running one falls to the
bottom: a bug that needs d such moments is met with a known chance (PCT: Burckhardt et al., "A
Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). `InOrder` changes
nothing, for worlds in which something else is tried at every place.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final, Protocol

__all__ = ["InOrder", "Priorities", "Schedule", "Uniform", "draw_schedule"]


_FAIR_EVERY: Final = 16


class Schedule(Protocol):
    """A way to choose."""

    def pick(self, ready: Sequence[Any]) -> int:
        """Give the place of the next one of at least two `asyncio.Handle`s."""
        ...


class InOrder:
    """First come, first served, as asyncio does it."""

    def pick(self, ready: Sequence[Any]) -> int:
        """Give the first."""
        return 0


class Uniform:
    """Leaves the order alone but for this share of the picks, which take any of them."""

    def __init__(self, random: Random, mixed: float) -> None:
        self._random = random
        self._mixed = mixed

    def pick(self, ready: Sequence[Any]) -> int:
        """Give the first, or any."""
        if self._random.random() >= self._mixed:
            return 0
        return self._random.randrange(len(ready))


class Priorities:
    """PCT: the highest rank first, with `changes` moments at which the one that runs falls.

    asyncio lets nobody starve, so every so often the one that has waited longest runs.
    """

    def __init__(self, random: Random, changes: int, picks: int) -> None:
        self._random = random
        self._ranks: dict[object, float] = {}
        self._falls = {random.randrange(picks) for _ in range(changes)}
        self._picks = 0
        self._lowest = 0.0

    def pick(self, ready: Sequence[Any]) -> int:
        """Give the first one of the highest rank."""
        self._picks += 1
        if self._picks % _FAIR_EVERY == 0:
            return 0
        place = max(range(len(ready)), key=lambda n: (self._rank(ready[n]), -n))
        if self._picks in self._falls:
            self._lowest -= 1.0
            self._ranks[_owner(ready[place])] = self._lowest
        return place

    def _rank(self, handle: Any) -> float:
        owner = _owner(handle)
        rank = self._ranks.get(owner)
        if rank is None:
            rank = self._ranks[owner] = self._random.random()
        return rank


def _owner(handle: Any) -> object:
    """Give whose step it is: the number of its task, or the function's name."""
    callback = handle._callback
    task = getattr(callback, "__self__", None)
    number = getattr(task, "number", None)
    return number if number is not None else getattr(callback, "__qualname__", "")


def draw_schedule(random: Random) -> Schedule:
    """Give a schedule by chance."""
    mixed = random.choice((0.0, 0.05, 0.3, 1.0, None))
    if mixed is None:
        return Priorities(random, random.randrange(1, 8), random.choice((300, 3_000)))
    return Uniform(random, mixed)
