"""Where the keys of personal data are kept: one for each subject, and what became of it.

Rules: keys are kept apart from the log, and never in a copy of it: whoever has only the log, or an
old backup of it, reads nothing of a subject that was erased. A key has a number, which is never
used again, also after its secret is destroyed: so what was erased is told from what is lost.
`find` and `current` are called in the event loop, and answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from ...runtime.ports import Ports

__all__ = ["CopiedKeys", "Erasure", "KeyStore", "KeysInFile", "PlacedKeys", "SubjectKey"]


class SubjectKey(msgspec.Struct, frozen=True, gc=False):
    """A key, or what is left of one that was destroyed."""

    number: int
    """From 1 on; what is encrypted names it."""
    subject: str
    """The person whose data it encrypts."""
    secret: bytes | None
    """32 bytes; None if it was destroyed."""


class Erasure(msgspec.Struct, frozen=True):
    """One person's data that was erased, or is being erased: an entry of the audit."""

    number: int
    """In the order of the erasures."""
    subject: str
    """The person that was erased."""
    asked: int
    """When, in µs since 1970-01-01 UTC. The key was destroyed with it."""
    keys: int
    """How many keys were destroyed; 0 if there was none."""
    reason: str = ""
    """Why, as it was given."""
    principal: str | None = None
    """The principal that asked."""
    finished: int | None = None
    """When views and memory had nothing of the person any more; None while they may."""
    waits_for: tuple[str, ...] = ()
    """Projections and sinks that may have the person still, where this engine waits for them."""
    not_asked: tuple[str, ...] = ()
    """Sinks that the views know and this engine does not declare: nobody has asked them, and what
    they have written may have the person."""


class KeyStore(Protocol):
    """The keys of one log.

    - `ports`: what it uses of the world. `log_id`: whose keys they are. `only_reads`: see `open`.
    - `number`: of a key, or of an erasure for `finish`. `subject`: whose key, or whose erasures.
    - `keys`: new ones, whose numbers are larger than all others.
    - `erasure`: as it is to be kept; its number and its count of keys are the store's to fill in.
    - `at`: when, in µs since 1970-01-01 UTC.
    """

    async def open(self, ports: Ports, log_id: str, *, only_reads: bool = False) -> int:
        """Open it, or make an empty one; give the largest number of a key, 0 for none.

        With `only_reads` nothing is made or changed, and `add`, `erase` and `finish` are not
        called. Raises StoreRefused where it has the keys of another log, or is not there.
        """
        ...

    async def close(self) -> None:
        """Close it; a second call does nothing."""
        ...

    def find(self, number: int) -> SubjectKey | None:
        """Give the key of a number; None where there never was one."""
        ...

    def current(self, subject: str) -> SubjectKey | None:
        """Give the key of a subject that is not destroyed; None where there is none."""
        ...

    async def add(self, keys: Sequence[SubjectKey]) -> None:
        """Keep new keys; they are durable when it returns."""
        ...

    async def erase(self, erasure: Erasure) -> Erasure:
        """Destroy all keys of a subject, and keep the erasure, in one step; give it as it is kept.

        When it returns, no file of the store has the secrets any more.
        """
        ...

    async def unfinished(self) -> Sequence[Erasure]:
        """Give the erasures of which views or memory may still have something."""
        ...

    async def finish(self, number: int, at: int) -> None:
        """Note that an erasure is finished, in µs since 1970-01-01 UTC."""
        ...

    async def erasures(self, subject: str | None = None) -> Sequence[Erasure]:
        """Give all erasures, or those of a subject, the oldest first."""
        ...

    def change_count(self) -> int:
        """Give a number that changes when another process or connection has changed the store."""
        ...


@runtime_checkable
class PlacedKeys(Protocol):
    """A store of keys that can be looked for where it is, or was opened."""

    async def missing(self, ports: Ports) -> str | None:
        """Give where it would be made by `open`; None where it is there."""
        ...

    def check(self) -> None:
        """Raise StoreFailed where another one is there now, or none; before each append.

        What is kept here would be found by nobody after a restart.
        """
        ...


@runtime_checkable
class CopiedKeys(Protocol):
    """A store of keys of which a copy is asked, which may be some moments old."""

    async def catch_up(self, *, anew: bool = False) -> None:
        """Let the copy have all that was kept when this was called.

        With `anew` somebody begins to write by it, and nothing that he had of it before.
        """
        ...


@runtime_checkable
class KeysInFile(Protocol):
    """A store of keys that is one file, of which a copy of one moment can be made."""

    def is_there(self) -> bool:
        """Tell whether there is such a file."""
        ...

    def copy(self, to: str) -> None:
        """Copy it into a new file, while it is in use or not; raise StoreRefused if it cannot."""
        ...
