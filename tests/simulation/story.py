"""What the clients, followers and readers of a seed were told and shown: all that is judged.

Rules: it holds nothing of the engine's inside. Moments are counted, not timed: `now` of the story
goes up by one whenever a call begins or ends, over all lives.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

import msgspec

from engine.errors import EngineError
from engine.model.messages import Receipt

from .swarm import Swarm

__all__ = ["Deed", "Operation", "Seen", "SeenTally", "Sending", "Shown", "Story", "Stranger"]


class Sending(msgspec.Struct):
    """One time that a command was sent."""

    begun: int
    life: int
    ended: int = 0
    """0 where nobody was told how it ended."""
    answer: Receipt | EngineError | None = None
    """None where the client does not know: given up, crashed, or an unknown outcome."""
    left: int = 0
    """When its caller was gone, where it was cancelled."""


class Operation(msgspec.Struct):
    """One command, and all that its client was told about it."""

    number: int
    client: int
    command: Any
    key: str | None
    expected: int | None = None
    sendings: list[Sending] = []

    @property
    def in_doubt(self) -> bool:
        """Whether any sending of it may have been run without its client being told."""
        return any(sending.answer is None for sending in self.sendings)

    @property
    def receipts(self) -> list[Receipt]:
        """The receipts that its client was given."""
        return [s.answer for s in self.sendings if isinstance(s.answer, Receipt)]


class Stranger(msgspec.Struct):
    """One event that somebody else tried to write."""

    number: int
    cell: str
    begun: int
    expected: int
    ended: int = 0
    written: bool | None = None


Shown: TypeAlias = tuple[str, int, str]
"""Stream, version and event, as a follower was shown them."""


class Seen(msgspec.Struct, frozen=True):
    """What a reader was shown of a cell."""

    what: str
    cell: str
    begun: int
    ended: int
    version: int
    total: int
    position: int | None = None
    """For a view: the event that it was folded up to."""


class Deed(msgspec.Struct):
    """One thing that was asked of a projection."""

    what: str
    life: int
    begun: int
    ended: int = 0
    """0 where nobody was told that it is done."""
    refused: bool = False
    """Whether it was told that nothing is done."""
    position: int = 0
    """Of what is skipped."""
    strict: bool = False
    """Whether no build can have folded that before."""
    build: int = 0
    """The one that was begun, or one that came after it."""


class SeenTally(msgspec.Struct, frozen=True):
    """What a reader was shown of a lane of the tallies."""

    lane: str
    life: int
    begun: int
    ended: int
    version: int
    """0 where there was no row."""
    positions: tuple[int, ...]
    asked_at: int = 0
    """The position that it was to contain, if any."""


class Story(msgspec.Struct):
    """What a seed left behind."""

    seed: int
    swarm: Swarm
    operations: list[Operation] = []
    strangers: list[Stranger] = []
    shown: dict[int, Shown] = {}
    """By position, what any follower was shown there."""
    seen: list[Seen] = []
    decided: dict[int, list[int]] = {}
    """By operation, when its handler began, each time that it did."""
    deeds: list[Deed] = []
    paused: bool | None = False
    """Whether the tallies were paused for certain, or resumed; None where nobody was told."""
    seen_tallies: list[SeenTally] = []
    in_line: bool = True
    """Whether commands are run in the order in which one process sends them to an aggregate."""
    problems: list[str] = []
    answers: Counter[str] = msgspec.field(default_factory=Counter)
    """How often each kind of answer was given."""
    now: int = 0
    lives: int = 0
    crashes: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Of virtual time."""
    digest: str = ""
    looked_back: int = 0
    """How often a past was what it had to be."""
    disk_failures: list[str] = []
    # -- what the last, quiet life says ------------------------------------------------------
    log: list[Any] = []
    cells: dict[str, Any] = {}
    """The rows of the view of cells, by cell."""
    found: dict[str, list[str]] = {}
    """The cells that a search finds, by its words."""
    counts: dict[str, Any] = {}
    """The rows of the brittle projection, by cell."""
    journeys: dict[int, Any] = {}
    """The rows of the third one, by operation."""
    brittle_stopped_at: int | None = None
    """The event at which the brittle projection stopped, if it did."""
    tallies: list[Any] = []
    """The rows of the tallies."""
    parked: list[Any] = []
    """What of them is parked."""
    decisions: list[Any] = []
    still_ailing: bool = False
    """Whether the handlers of the tallies fail still."""

    def tick(self) -> int:
        """Give the next moment."""
        self.now += 1
        return self.now
