"""Who shares a log at one moment, and what of it is whose: pure functions of one number's members.

Rules: the members of a log stand under a number, the *view*, which is another one whenever a member
comes or goes. Who owns a thing follows from its name and the members alone, by rendezvous hashing:
each member has a weight for each name, and the heaviest owns it. So all who know a view agree, and
where one member comes or goes, only that moves which it gets or had. Nobody acts by a view that all
members of it have not seen: `is_seen_by_all` tells. Streams stand in SLOTS slots, by their names.
Both hashes are the same in every release and on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Protocol, TypeAlias

import msgspec

from ...errors import StoreFailed

__all__ = [
    "SLOTS",
    "Attending",
    "Heed",
    "LeaderChanged",
    "LedBy",
    "NotGathered",
    "Overtaken",
    "Present",
    "Right",
    "View",
    "ViewChanged",
    "owner_of",
    "owners_of",
    "projection_of",
    "slice_name",
    "slot_of",
]

SLOTS: Final = 256
"""Parts of the streams of a log: each has one owner at a time."""
_STREAMS_MAX: Final = 1_024
"""Whose slots are remembered: one command has its slot looked for at each step of its way."""
_VIEWS_MAX: Final = 16
"""Sets of members whose slots are remembered."""


class Present(msgspec.Struct, frozen=True):
    """A member whose lease is not known to be over."""

    member: int
    """Its number, which no other one has before or after it."""
    holder: str
    """What people call the process."""
    address: str
    """Where others meet it; empty where nobody can."""
    view_seen: int
    """The view by which it acts now: of earlier ones it keeps nothing."""
    seconds_left: float
    """Of its lease; 0 and less: it may be declared dead."""
    shares: str = ""
    """Of which kinds its joint decisions are, as a short text; empty where it makes none."""


class View(msgspec.Struct, frozen=True):
    """The members of a log at one moment."""

    number: int = 0
    members: tuple[Present, ...] = ()
    """In the order in which they came."""

    def owner(self, name: str) -> int | None:
        """Give the member that owns what has this name; None where there is no member."""
        return owner_of(name, tuple(one.member for one in self.members))

    def slots(self) -> Sequence[int]:
        """Give the owner of each slot; empty where there is no member."""
        return owners_of(tuple(one.member for one in self.members))

    def find(self, member: int) -> Present | None:
        """Give a member by its number, if it is there."""
        return next((one for one in self.members if one.member == member), None)

    def is_seen_by_all(self, number: int, *, but: int = 0) -> bool:
        """Tell whether all members act by view `number` or a later one; `but` is not asked."""
        return all(one.view_seen >= number or one.member == but for one in self.members)


class ViewChanged(StoreFailed):
    """What was done by a view that is none any more: nothing of it was written."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(
            f"{name}: its members have changed since view {number}, by which this was decided.",
            written=False,
            passes=True,
        )


class LeaderChanged(ViewChanged):
    """A batch has a command of who leads no more: nothing of it was written."""

    def __init__(self, name: str) -> None:
        StoreFailed.__init__(
            self,
            f"{name}: another process leads, and makes what this one's timers and reactors gave.",
            written=False,
            passes=True,
        )


class Overtaken(ViewChanged):
    """A stream has gone on by a joint decision of another owner: nothing of it was told."""

    def __init__(self, stream: str) -> None:
        StoreFailed.__init__(
            self,
            f"{stream} has gone on by a joint decision of another process.",
            written=False,
            passes=True,
        )


class NotGathered(ViewChanged):
    """What needs all slices of a projection, where members run some each: nothing was done."""

    def __init__(self, projection: str) -> None:
        self.projection = projection
        StoreFailed.__init__(
            self,
            f"projection {projection!r}: its slices are run by several members, and this needs all "
            f"of them. The member that has its first slice gathers them. Nothing was written.",
            written=False,
            passes=True,
        )


class LedBy(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Write the request only while this session leads: its successor has not begun."""

    session: int
    stream: str = ""
    """Of none: as all that stands beside events has one."""


Heed: TypeAlias = Callable[[View], None]
"""Told of a view. When it returns, nothing is kept that is another member's by that view."""


class Attending(Protocol):
    """The part of one process in the membership of a log."""

    @property
    def member(self) -> int:
        """The number by which it stands there; 0 before it has joined."""
        ...

    @property
    def view(self) -> View:
        """The members, as they were seen last."""
        ...

    def is_held(self) -> bool:
        """Tell whether nobody has declared this one dead yet, by this process's own clock."""
        ...

    def seconds_left(self) -> float:
        """Give what is left of the lease by this clock; 0 where it is not held."""
        ...

    def look(self) -> None:
        """Look at the members at once, and not at the next turn."""
        ...

    async def join(self) -> None:
        """Become a member, and be told of the first view. Raises StoreFailed and StoreRefused."""
        ...

    async def run(self) -> None:
        """Renew the lease and heed each view; return when this one was declared dead."""
        ...

    async def strike(self, member: int) -> None:
        """Note that the process of a member is dead for certain: its lease is not waited for."""
        ...

    async def close(self) -> None:
        """Leave, as far as the server can be reached."""
        ...


class Right:
    """What lets a member run some projections, as long as nobody else may.

    A name is that of a projection, all of it, or of one slice, as `balances/2`.
    """

    def __init__(
        self,
        names: frozenset[str],
        part: Attending,
        gather: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take what is called where all slices of a projection are needed in one process."""
        self.names = names
        self.part = part
        self._gather = gather
        self.member = part.member
        self.is_lost = False
        """Whether one of them is another member's, or may be: nothing is written any more."""

    @property
    def number(self) -> int:
        """The view by which they are its own; no number that is one where they are not."""
        return -1 if self.is_lost else self.part.view.number

    def slices(self, projection: str, slices: int) -> Sequence[int]:
        """Give which of a projection's slices it is for."""
        if projection in self.names:
            return range(slices)
        return [n for n in range(slices) if slice_name(projection, n) in self.names]

    def has_all(self, projection: str) -> bool:
        """Tell whether it is for all slices; else have them gathered, if it is for the first."""
        if slice_name(projection, 0) in self.names:
            self._gather(projection)
        return projection in self.names


def slice_name(projection: str, number: int) -> str:
    """Give the name of the duty that a slice is."""
    return f"{projection}/{number}"


def projection_of(name: str) -> str:
    """Give the projection whose duty, or whose slice, has this name."""
    return name.partition("/")[0]


@lru_cache(maxsize=_STREAMS_MAX)
def slot_of(stream: str) -> int:
    """Give the slot of a stream."""
    return blake2b(stream.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]


def owner_of(name: str, members: Sequence[int]) -> int | None:
    """Give the owner of what has this name among these members; None where there are none."""
    return max(members, key=lambda member: (_weight(name, member), member), default=None)


@lru_cache(maxsize=_VIEWS_MAX)
def owners_of(members: tuple[int, ...]) -> Sequence[int]:
    """Give the owner of each slot among these members; empty where there are none."""
    if not members:
        return ()
    owners = (owner_of(f"slot:{slot}", members) for slot in range(SLOTS))
    return tuple(owner for owner in owners if owner is not None)


def _weight(name: str, member: int) -> bytes:
    text = f"{member} {name}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=8).digest()
