"""What a projector does with a batch: folds it into tables, and writes rows and checkpoint at once.

Rules: a batch is worked on from its first event on, and what is written is written together with
the checkpoint behind it. What stands before an event that cannot be folded is written. A batch is
prepared while those before are being written, on what they left in memory; if one is not written
after all, `open` throws all away. Target of another kind (SQL, deliveries) has a file of its
own. This file knows where events go; where they come from, and when, is the projector's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from ...errors import RowRefused
from ...limits import Limits
from ...model.codec import EventRegistry
from ...model.rows import Flat, Scalar
from ...model.stored import StoredEvent
from ...runtime.ports import Ports
from ...runtime.tracebacks import traceback_text
from ...statistics import ReactionStatistics
from ...stores.contract.views import Changes, Checkpoint, Parked, Part, ViewsStore
from ..parking import Parking
from ..scope import may_pass
from .fold import Fold

__all__ = ["Prepared", "RowTarget", "Target"]

WRITES_MAX: Final = 8
"""Batches on their way, of one part. What gathers while others are written shares a transaction,
in which rows that several batches have changed are written once."""


class Prepared(msgspec.Struct, frozen=True):
    """How far a batch has come, and what is to be written of it."""

    count: int
    """Events from the first on that are to be written."""
    poison: Exception | None
    """What the event after those raised, if it did."""
    changes: Changes | None = None
    """None where nothing is to be written, not even a checkpoint."""


class Target(Protocol):
    """What a projector does with events."""

    parking: Parking
    skipped: dict[int, int]
    """Events that somebody decided to skip: the checksum of each by its position."""
    refused: dict[int, Exception]
    """Why the database does not take the rows of an event, by its position."""
    writes_max: int
    """Batches that may be prepared and not written, while there is a log to catch up with."""
    patience: bool
    """Whether an event that met a failure which may pass is given back instead of being parked."""

    @property
    def retries(self) -> int:
        """How often what may pass is tried again before patience ends."""
        ...

    @property
    def events(self) -> int:
        """Events folded."""
        ...

    @property
    def fetches(self) -> int:
        """Round trips for what was not in memory."""
        ...

    @property
    def rows(self) -> int:
        """Rows in memory."""
        ...

    @property
    def reactions(self) -> ReactionStatistics | None:
        """What a reactor has done."""
        ...

    async def open(self) -> Checkpoint:
        """Forget what is in memory; give where the views stand."""
        ...

    async def prepare(self, events: Sequence[StoredEvent], before: Checkpoint) -> Prepared:
        """Target on a batch, or as much of it as fits in memory."""
        ...

    def write(self, changes: Changes, /) -> Awaitable[bool]:
        """Write what was prepared, in the order of the calls; raise what writing raises.

        Tells whether it has begun a transaction, which others of this part may share.
        """
        ...

    async def release(
        self, parked: Parked, stored: StoredEvent, at: Checkpoint
    ) -> tuple[Exception | None, Changes]:
        """Try a parked event again; give what it raised, if it did, and what was written."""
        ...

    def may_pass(self, error: Exception) -> bool:
        """Tell whether a failure may be over when it is tried again."""
        ...

    def stop(self) -> None:
        """Let the batch in hand end soon, since the engine stops."""
        ...


class RowTarget:
    """Folds into the tables of one part."""

    def __init__(
        self, part: Part, views: ViewsStore, registry: EventRegistry, limits: Limits, ports: Ports
    ) -> None:
        self._part = part
        self._views = views
        self._ports = ports
        self._unwritten: deque[Changes] = deque()
        """What was prepared and is not in the views yet, in its order."""
        definition = part.definition
        self._fold = Fold(
            definition,
            registry,
            limits,
            fetch=self._fetch,
            slice_=part.slice,
            parks=definition.on_poison == "park",
            now=ports.clock.now,
        )
        self.parking = self._fold.scope.parking
        self.skipped = self._fold.scope.skipped
        self.refused = self._fold.refused
        self.writes_max = WRITES_MAX
        self.patience = True
        self.retries = limits.projector_retries

    @property
    def events(self) -> int:
        """Events folded."""
        return self._fold.events

    @property
    def fetches(self) -> int:
        """Round trips for rows that were not in memory."""
        return self._fold.fetches

    @property
    def reactions(self) -> None:
        """Nothing: it is no reactor."""
        return None

    @property
    def rows(self) -> int:
        """Rows in memory."""
        return self._fold.staging.rows

    async def open(self) -> Checkpoint:
        """Forget what is in memory; give where the views stand."""
        self._fold.staging.clear()
        self._unwritten.clear()
        return await self._fold.scope.open(self._views, self._part)

    async def prepare(self, events: Sequence[StoredEvent], before: Checkpoint) -> Prepared:
        """Fold a batch, or as much of it as fits in memory."""
        self._fold.scope.patience = self.patience
        folded = await self._fold.fold(events)
        # The next batch may be prepared before this one is written: it is tried patiently again.
        self.patience = self.patience or folded.count > 0
        if self._ports.failpoint is not None:
            self._ports.failpoint("projector.folded")
        if not folded.count:
            return Prepared(0, folded.poison)
        last = events[folded.count - 1]
        changes = Changes(
            self._part,
            before,
            Checkpoint(last.position, last.checksum),
            self._fold.staging.changes(),
            tuple(self.parking.added),
        )
        self._taken()
        self._unwritten.append(changes)
        return Prepared(folded.count, folded.poison, changes)

    def write(self, changes: Changes) -> Awaitable[bool]:
        """Write what was prepared."""
        return self._note_written(changes, self._views.write(changes))

    async def _note_written(self, changes: Changes, write: Awaitable[bool]) -> bool:
        first = await write
        if any(each is changes for each in self._unwritten):
            # All before it is in the views too, though it may be noted later.
            while self._unwritten.popleft() is not changes:
                pass
        return first

    async def release(
        self, parked: Parked, stored: StoredEvent, at: Checkpoint
    ) -> tuple[Exception | None, Changes]:
        """Fold a parked event and write it; where it fails, note that it was tried."""
        error = await self._fold.fold_parked(stored)
        if error is None:
            rows = self._fold.staging.changes()
            changes = Changes(self._part, at, at, rows, released=(parked.position,))
            self._taken()
            try:
                await self._views.write(changes)
            except RowRefused as refused:
                self._fold.staging.clear()  # which has what the views have not
                error = refused
            else:
                self.parking.released([parked])
                return None, changes
        tried = msgspec.structs.replace(
            parked, attempts=parked.attempts + 1, cause=traceback_text(error)
        )
        changes = Changes(self._part, at, at, {}, (tried,))
        await self._views.write(changes)
        return error, changes

    def may_pass(self, error: Exception) -> bool:
        """Tell whether a failure may be over when it is tried again."""
        return may_pass(error)

    def stop(self) -> None:
        """Do nothing: a fold does not wait for anybody."""

    async def _fetch(self, keys: Mapping[str, Sequence[Scalar]]) -> Mapping[str, Sequence[Flat]]:
        """Give rows as they will be when all that is on its way to the views has arrived."""
        found: dict[str, list[Flat]] = {}
        missing: dict[str, list[Scalar]] = {}
        for attribute, wanted in keys.items():
            found[attribute] = []
            for key in wanted:
                rows = self._on_its_way(attribute, key)
                if rows is None:
                    missing.setdefault(attribute, []).append(key)
                elif (flat := rows[key]) is not None:
                    found[attribute].append(flat)
        if missing:
            for attribute, flats in (await self._views.fetch(self._part, missing)).items():
                found[attribute] += flats
        return found

    def _on_its_way(self, attribute: str, key: Scalar) -> Mapping[Scalar, Flat | None] | None:
        """Give the last change that has this row, if one has that is not in the views yet."""
        for changes in reversed(self._unwritten):
            rows = changes.rows.get(attribute)
            if rows is not None and key in rows:
                return rows
        return None

    def _taken(self) -> None:
        """Note that what is in memory is on its way."""
        self._fold.staging.written()
        self.parking.written()
