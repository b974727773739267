"""What a trial is made of, and what it leaves behind for the judge. Plain data."""

from __future__ import annotations

import msgspec


class Place(msgspec.Struct, frozen=True):
    """Where a process dies: a failpoint, a call of SQLite on a file, or an acknowledgement."""

    name: str
    """`store.began`, `write cells.db-wal`, `acknowledgement`."""
    moment: str = ""
    """Of a call: `before`, `during` (half is written) or `after` it; empty for the others."""
    often: int = 1
    """About how often a life comes by."""

    def __str__(self) -> str:
        return f"{self.moment} {self.name}".lstrip()


class Death(msgspec.Struct, frozen=True):
    """At which of the times that a process comes by a place it dies there."""

    place: Place
    nth: int

    def __str__(self) -> str:
        return f"{self.place} #{self.nth}"


class Operation(msgspec.Struct, frozen=True):
    """One keyed command of one client."""

    number: int
    client: int
    cell: str
    amount: int
    """To add; below zero it is taken away, which may be rejected."""
    parts: int
    filler: int
    """Bytes that make its events large."""

    @property
    def key(self) -> str:
        return f"k{self.number}"


class Life(msgspec.Struct, frozen=True):
    """What one process is to do."""

    number: int
    seed: int
    store: str
    death: Death | None
    """What it does to itself; None where somebody else ends it, or nobody."""
    operations: list[Operation]
    wal_bytes: int
    """Above which the write-ahead logs are folded into their files."""
    quiet: bool = False
    """The last life: it sends everything, and tells all that it sees."""
    cut: bool = False
    """Its disk will fail under it, and its engine with it."""
    lying: bool = False
    """Syncs do nothing: the disk lies, as a proof that a loss of power is one."""


class Told(msgspec.Struct, frozen=True):
    """One answer, as it came through the pipe."""

    life: int
    what: str
    """`receipt`, `rejected` (with the state it was decided on), `not run`, `unknown`, or any other
    error."""
    operation: int
    """0 for a look at a cell."""
    cell: str
    version: int = 0
    position: int = 0
    total: int = 0
    trail: int = 0
    error: str = ""
    at: float = 0.0
    """When it was told, by the machine's monotonic clock."""


class Logged(msgspec.Struct, frozen=True):
    """One event of the log."""

    position: int
    stream: str
    version: int
    operation: int
    amount: int
    part: int
    parts: int
    key: str | None


class View(msgspec.Struct, frozen=True):
    """The rows of both views; `cells` gives total, events and trail."""

    cells: dict[str, tuple[int, int, int]]
    operations: dict[int, int]


class Image(msgspec.Struct, frozen=True):
    """The files as another process with another SQLite finds them."""

    life: int
    journal_modes: list[str]
    complaints: list[str]
    """What `PRAGMA integrity_check` says that is not ok."""
    log: list[Logged]
    checkpoints: dict[str, int]
    view: View
    snapshots: int
    parked: list[int] = []
    """Positions of events that are not in the view of the operations."""


class Seen(msgspec.Struct, frozen=True):
    """What the last life saw through the engine."""

    log: list[Logged]
    view: View


class Story(msgspec.Struct):
    """All that is known of a trial."""

    seed: int
    cut: bool = False
    """Whether the disk was made to fail: then some commands are answered by an error."""
    operations: list[Operation] = []
    told: list[Told] = []
    images: list[Image] = []
    """One for each life."""
    seen: Seen | None = None
    ends: list[str] = []
    """How each life ended, in words."""
    problems: list[str] = []
    """What went wrong outside: a life that hung, or ended by itself with an error."""
