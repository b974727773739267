"""What one transaction of projectors writes: rows, what is parked, and checkpoints.

Rules: rows and checkpoint are in one transaction, and the checkpoint moves only from where the
writer believes that it stands; so every event counts once, whoever else writes. In the tables of a
sliced projection no row of another slice is changed. Everything here runs inside the caller's
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ....errors import RowRefused, StoreFailed, StoreRefused
from ....model.rows import Flat, Scalar
from ...contract.builds import moved_elsewhere
from ...contract.views import Changes, Checkpoint, Part, row_of_another
from ..failures import described_failure, sqlstate_of
from .catalog import Catalog
from .link import Link, Place, is_unfit, limited, transaction
from .stands import Stands
from .tables import TableSql

__all__ = ["UNSYNCED", "Writes"]

UNSYNCED: Final = "BEGIN; SET LOCAL synchronous_commit = off"
"""Begins what can be folded again."""
_CHECKPOINT: Final = (
    "SELECT position, checksum FROM {s}.checkpoints "
    "WHERE projection = $1 AND build = $2 AND slice = $3"
)
_TOO_LARGE: Final = "54"


class Writes:
    """The writes of one catalog's builds."""

    def __init__(
        self,
        catalog: Catalog,
        stands: Stands,
        place: Place,
        reach: Callable[[str], None],
    ) -> None:
        """Take where they are, and what is told of each step.

        A catalog without a fence is that of who has no log: a process that builds beside it.
        """
        self._begin = limited(UNSYNCED, place.address)
        self._log_schema = place.log_schema
        self._catalog = catalog
        self._stands = stands
        self._name = place.name
        self._reach = reach

    async def checkpoint(self, link: Link, part: Part) -> Checkpoint:
        """Give how far a part has come; raise StoreRefused for a build that was dropped.

        A batch whose line broke may still be on its way to its commit: it is waited for.
        """
        async with transaction(link, self._begin):
            return await self._read_checkpoint(link, part, _CHECKPOINT + " FOR SHARE")

    async def _read_checkpoint(
        self, link: Link, part: Part, query: str = _CHECKPOINT
    ) -> Checkpoint:
        at = part.definition.name, part.build, part.slice
        rows = await self._catalog.books.run(link, query, *at)
        if not rows:
            raise StoreRefused(
                f"build {part.build} of projection {part.definition.name!r} is not in the views "
                f"{self._name} any more: somebody dropped it"
            )
        return Checkpoint(*rows[0])

    async def fetch(
        self, link: Link, part: Part, keys: Mapping[str, Sequence[Scalar]]
    ) -> Mapping[str, Sequence[Flat]]:
        """Give the rows of these keys, by table attribute."""
        found: dict[str, Sequence[Flat]] = {}
        for attribute, wanted in keys.items():
            sql = self._catalog.tables(part.definition.name, part.build)[attribute]
            if sql.sliced:
                await self._refuse_others(link, sql, part, wanted)
            query, values = sql.fetch(wanted)
            found[attribute] = [tuple(row) for row in await link.run(query, *values)]
        return found

    async def _refuse_others(
        self, link: Link, sql: TableSql, part: Part, keys: Sequence[Scalar]
    ) -> None:
        """Raise StoreRefused where a row of these keys belongs to another slice."""
        query, values = sql.of_others(keys, part.slice)
        others = await link.run(query, *values)
        if others:
            raise row_of_another(part, sql.definition.name, *others[0])

    async def rows(self, link: Link, changes: Changes) -> None:
        """Write the rows of a part; raise RowRefused for one that its table does not take."""
        part = changes.part
        for attribute, rows in changes.rows.items():
            sql = self._catalog.tables(part.definition.name, part.build)[attribute]
            try:
                await self._write_rows(link, sql, part, rows)
            except Exception as error:
                if not is_unfit(error):
                    raise
                state = sqlstate_of(error)
                why = described_failure(error) if state else "SQL has no such value"
                if state.startswith(_TOO_LARGE):
                    why += ". A key, or a field in an index, has at most some 2,700 bytes there"
                raise RowRefused(sql.definition.name, why) from None

    async def _write_rows(
        self, link: Link, sql: TableSql, part: Part, rows: Mapping[Scalar, Flat | None]
    ) -> None:
        # In the order of the keys, so that neighbours in the index are written together.
        keys: list[Any] = sorted(key for key, flat in rows.items() if flat is not None)
        flats = [flat for flat in map(rows.get, keys) if flat is not None]
        if flats:
            query, values = sql.upsert(flats, part.slice)
            put = await link.run(query, *values)
            if sql.sliced and put[0][0] != len(flats):
                await self._refuse_others(link, sql, part, keys)
        gone = [key for key, flat in rows.items() if flat is None]
        if gone:
            if sql.sliced:
                await self._refuse_others(link, sql, part, gone)
            query, values = sql.delete(gone)
            await link.run(query, *values)

    async def settle(self, link: Link, changes: Changes) -> None:
        """Write, behind its rows, what a transaction parks and how far it has come."""
        if changes.parked or changes.released:
            await self._catalog.books.move_parked(link, changes)
        self._reach("views.inserted")
        await self._move_checkpoint(link, changes)
        self._reach("views.checkpointed")

    async def _move_checkpoint(self, link: Link, changes: Changes) -> None:
        part, before, after = changes.part, changes.before, changes.after
        definition, catalog = part.definition, self._catalog
        assert after.position >= before.position, "a checkpoint never goes back"
        made_as = catalog.made_as(definition.name, part.build)
        move = (
            "UPDATE {s}.checkpoints SET position = $1, checksum = $2 "
            "WHERE projection = $3 AND build = $4 AND slice = $5 AND position = $6 AND EXISTS ("
            "SELECT 1 FROM {s}.builds WHERE projection = $3 AND number = $4 AND version = $7 "
            "AND definition = $8 AND log_id = $9 AND state <> 'former' "
            "AND builder IS NOT DISTINCT FROM $10 FOR SHARE)"
        )
        fence = catalog.fence
        by: Sequence[int] = ()
        if fence is not None:
            move += f" AND EXISTS ({fence.query.replace('$1', '$11').replace('$2', '$12')})"
            by = fence.values
        moved = await catalog.books.run(
            link,
            move.replace("{log}", self._log_schema) + " RETURNING 1",
            *(after.position, after.checksum, definition.name, part.build, part.slice),
            *(before.position, definition.version, made_as),
            *(catalog.log_id, catalog.builder, *by),
        )
        if len(moved) != 1:
            there = await self._read_checkpoint(link, part)
            if fence is not None and tuple(fence.values) != tuple(by):
                raise fence.fell(self._name)  # the members were heeded between two statements
            await self._catalog.refuse_former(link)
            if there.position < before.position and self._stands.had(part, before.position):
                # Nobody but this writer moves it, and it never goes back: the server was killed.
                raise StoreFailed(
                    f"the views in {self._name} have lost the last changes of projection "
                    f"{definition.name!r}, as a server that was killed may: they are at position "
                    f"{there.position} again, and are folded on from there",
                    written=False,
                    passes=True,
                )
            builds, swapped = await catalog.books_of.read(link), catalog.swapping
            raise moved_elsewhere(part, before.position, builds, swapped.get(definition.name))
