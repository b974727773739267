"""What an actor hands to the journal: one command's events, and who waits for them.

Rules: an entry is undurable until it is settled. What follows it has its answer right behind its
own. It knows neither journal nor actor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..errors import EngineError, OutcomeUnknown
from ..model.stored import StoredEvent
from ..stores.contract.log import AppendRequest, Extra, Write
from ..stores.contract.tags import Unchanged
from .keys import KeyRecord
from .mailbox import Mail
from .snapshot import Frozen

__all__ = [
    "Entry",
    "EntryPart",
    "Follower",
    "Owner",
    "TagFeed",
    "decided_on_void",
    "outcome_unknown",
    "tags_moved",
]


class Owner(Protocol):
    """The actor behind an entry, as far as the journal knows it."""

    stream: str
    position: int
    """Of its last durable event."""
    incarnation: int
    """Counts up when the actor's undurable events are voided."""

    def settled(self, entry: Entry, position: int) -> None:
        """The entry is durable, its last event at `position`."""
        ...

    def seal(self, frozen: Frozen, event: StoredEvent) -> None:
        """The state that was frozen with an entry is durable; `event` is its last one."""
        ...

    def voided(self) -> None:
        """Nothing that is undurable of this actor will be stored: drop the state, load again."""
        ...


class Follower(msgspec.Struct):
    """An answer that must not leave before the events that it was decided on are durable."""

    mail: Mail
    error: EngineError | None = None
    """A refusal; where there is none, the answer is a receipt."""
    repeated: KeyRecord | None = None
    """The first command with the same key, whose receipt this is."""


class EntryPart(msgspec.Struct):
    """A command's events for one aggregate."""

    owner: Owner
    incarnation: int
    write: Write
    version: int
    """Of the stream after it."""
    frozen: Frozen | None
    """The state after it, where a snapshot is due."""


class Entry(EntryPart):
    """One command's events on their way to the store; *undurable* until it is settled."""

    mail: Mail
    size: int
    """Bytes of its payloads and metadata."""
    events: int
    """How many it has, for all its aggregates."""
    record: KeyRecord | None = None
    """What the actor remembers of the command's key; gets its position here."""
    others: Sequence[EntryPart] = ()
    """Of a joint decision: its events for further aggregates."""
    parties: Sequence[tuple[str, int, int]] = ()
    """Of a joint decision: the streams that it is about, as its metadata has them."""
    followers: list[Follower] | None = None
    extras: Sequence[Extra] = ()
    """What is stored with the events: the command's claims, in their order, and its timers. Where
    the store may refuse it for one of them, it has no followers: nothing is decided on it before it
    is settled."""

    conditions: Sequence[Unchanged] = ()
    """What must hold of boundaries where it is stored."""
    readers: Sequence[Owner] = ()
    """Of a joint decision: the boundaries without events of their own, which have folded these."""
    error: EngineError | None = None
    """What its command is told where it has no events, and asks whether its streams are there."""
    end: int = 0
    """Of a joint decision: a position behind all that it was decided on, and its own events."""
    is_sent: bool = False
    """Whether the store has it, so that it may have looked already where its streams are."""

    @property
    def owners(self) -> list[Owner]:
        """The actors of all aggregates that it has events for, and of boundaries that fold them."""
        return [self.owner, *(other.owner for other in self.others), *self.readers]

    def request(self) -> AppendRequest:
        """Give what is stored all or none."""
        extras = [*self.extras, *self.conditions] if self.conditions else self.extras
        if not self.others:
            return AppendRequest((self.write,), extras)
        return AppendRequest([self.write, *[each.write for each in self.others]], extras)

    def follow(self, follower: Follower) -> None:
        """Let an answer leave right after this entry's own."""
        if self.followers is None:
            self.followers = []
        self.followers.append(follower)


class TagFeed(Protocol):
    """Brings durable events to the boundaries in memory that fold them; see `tagged`."""

    def deliver(self, entry: Entry, events: Sequence[StoredEvent]) -> None:
        """Bring the events of an entry, which are about to be settled."""
        ...

    def forget(self) -> None:
        """Let all boundaries be read again: somebody else has written to the log."""
        ...


def tags_moved(stream: str) -> str:
    """Say why a command is void that was decided on tags, again and again."""
    return (
        f"events that this command of {stream} was decided on came again and again while it was. "
        f"Nothing was written; send again."
    )


def decided_on_void(stream: str) -> str:
    """Say why a command is void that looked at events which were then not stored."""
    return (
        f"an earlier command of {stream} was not stored, and this one was decided on it. "
        f"Nothing was written; send again."
    )


def outcome_unknown(entry: Entry, failure: BaseException) -> OutcomeUnknown:
    """Say of a command that nobody knows whether its events are durable."""
    error = OutcomeUnknown(
        f"the store failed while it wrote {entry.owner.stream} version {entry.version} "
        f"({type(failure).__name__}): it may or may not be durable. Start the engine again and "
        f"send the same command with the same key; without a key, read first."
    )
    error.__cause__ = failure
    return error
