"""Aggregates that other processes write to as well: what is told of them is proven first.

Where several processes own a log, the owner of the first aggregate of a joint decision makes it,
and writes to aggregates of other owners too. So the memory of an owner may be old. Rules:

- Events are stored only where each stream that they were decided on is at the version that it was
  read at, those that get no events too.
- What writes nothing is told only behind a look into the store that comes after it was decided: it
  goes with the next batch as an entry without events, and is told if its streams are where they
  were. It follows an entry that gathers, and none that the store has: it was looked at before.
- Where one is not, all that was decided on it is void, and its commands are run again.
- Nothing is written to aggregates of others while a process lives that does not do the same.

It decides nothing, and never touches a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from ..errors import EngineError, Voided, WrongVersion
from ..model.joint import JointHandler
from ..stores.contract.log import Write
from ..stores.contract.membership import Overtaken
from ..stores.contract.traits import TakingTurns
from .entries import Entry, EntryPart, Owner, decided_on_void
from .mailbox import Mail

__all__ = ["Shared", "Standing", "proof_of", "shared_by", "standing", "voided_by", "wrong_version"]


class Standing(Owner, Protocol):
    """An actor that stands at a version, with nothing undurable."""

    version: int

    @property
    def shown_version(self) -> int:
        """The version that callers are told, and that they may expect."""
        ...


class Shared(msgspec.Struct, eq=False):
    """The kinds of one engine that others write to."""

    kinds: frozenset[str]
    lacking: str = ""
    """Who of the members would answer for such an aggregate out of memory alone."""
    attempts: int = 20
    """How often a joint decision is made, where each time a stream was not where it was read."""

    def refusal(self, streams: str) -> Voided | None:
        """Give why nothing may be written to others' aggregates now, if that is so."""
        if not self.lacking:
            return None
        return Voided(
            f"{self.lacking} makes joint decisions of other kinds of aggregates than this process, "
            f"or has other tags, so it would not see what is written to {streams}. Nothing was "
            f"written. Send again when all processes run one release."
        )


def shared_by(store: object, decisions: Iterable[JointHandler]) -> Shared | None:
    """Give what others write to of this store, where they do: all that decide together."""
    parties = [party for decision in decisions for party in decision.parties]
    if not parties or not isinstance(store, TakingTurns):
        return None
    return Shared(frozenset(party.aggregate.__definition__.kind for party in parties))


def standing(owners: Iterable[Standing]) -> list[EntryPart]:
    """Give what asks of each whether it is where it was read, and adds nothing to it."""
    return [
        EntryPart(o, o.incarnation, Write(o.stream, o.version, ()), o.version, None) for o in owners
    ]


def proof_of(
    owners: Sequence[Standing],
    mail: Mail,
    error: EngineError | None,
    parties: Sequence[tuple[str, int, int]] = (),
) -> Entry:
    """Give the entry behind which a command is told what was decided, and wrote nothing.

    That is `error`, or a receipt.
    """
    first, *others = standing(owners)
    place = first.owner, first.incarnation, first.write, first.version
    return Entry(*place, None, mail, 0, 0, None, others, parties, error=error)


def wrong_version(owners: Iterable[Standing], expected: Mapping[str, int]) -> WrongVersion | None:
    """Give which of several aggregates is at another version than its caller expects."""
    for owner in owners:
        actual = owner.shown_version
        version = expected.get(owner.stream, actual)
        if version != actual:
            return WrongVersion(owner.stream, version, actual)
    return None


def voided_by(shared: Shared | None, stream: str) -> Voided:
    """Say that a command is void; where others write too, it is sent again behind that."""
    error = Voided(decided_on_void(stream))
    if shared is not None:
        error.__cause__ = Overtaken(stream)
    return error
