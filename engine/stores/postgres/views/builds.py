"""The builds of projections in a schema of views: which there are, made, swapped, emptied, dropped.

Rules: a build's tables have names of their own, and an SQL view of the plain name shows the one
that serves: a swap points the views elsewhere, in one transaction, and moves no row. The schema
lets one build serve and one be built, for each projection. A table that is not known to be a
projection's is never dropped. Everything here runs inside the caller's transaction.
"""

# ruff: noqa: S608 - names in the SQL here come from definitions or the books, and are quoted

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from ....errors import StoreRefused
from ....model.projection import ProjectionDefinition, slice_of
from ...contract.outside import Found
from ...contract.planning import Plan
from ...contract.views import BuildState, Checkpoint
from ..driver import Record
from ..failures import described_failure, sqlstate_of
from .books import Books, kept, shown
from .link import Link, Place
from .names import quoted, real_name
from .schema import SCHEMA_VERSION
from .sql_tables import make_own
from .tables import TableSql

__all__ = ["Builds"]

_OTHER_COLUMNS: Final = "42P16"
_OTHERS_DEPEND: Final = "2BP01"
_FOUND: Final = (
    "b.projection, b.number, b.version, b.definition, b.slices, b.log_id, b.tables, b.state, "
    "b.builder, b.own, c.slice, c.position, c.checksum"
)
_REACHED: Final = (
    "LEFT JOIN {s}.checkpoints AS c ON c.projection = b.projection AND c.build = b.number "
    "ORDER BY b.projection, b.number, c.slice"
)
_COLUMNS: Final = (
    "SELECT c.relname::text, a.attname::text FROM pg_catalog.pg_attribute AS a "
    "JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid "
    "JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE n.nspname = $1 AND c.relname = ANY ($2::text[]) AND a.attnum > 0 "
    "AND NOT a.attisdropped ORDER BY c.relname, a.attnum"
)


class Builds:
    """The statements for the builds of one schema."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._schema = place.schema
        self.books = Books(place.schema)

    # -- what there is ------------------------------------------------------------------------

    async def read(self, link: Link) -> Sequence[Found]:
        """Read which builds there are, of each projection by number."""
        rows = await self.books.run(link, f"SELECT {_FOUND} FROM {{s}}.builds AS b {_REACHED}")
        return _found_of(rows)

    async def read_known(self, link: Link) -> Sequence[Found] | None:
        """Do the same in one statement with a look at the schema; None if it is none of ours."""
        rows = await self.books.run(
            link,
            f"SELECT {_FOUND}, a.schema_version FROM {{s}}.about AS a "
            f"LEFT JOIN {{s}}.builds AS b ON true {_REACHED}",
        )
        if not rows or rows[0][13] != SCHEMA_VERSION:
            return None
        return _found_of(row for row in rows if row[0] is not None)

    async def relations(self, link: Link) -> frozenset[str]:
        """Give the names of all tables and views of the schema."""
        query = (
            "SELECT c.relname::text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace "
            "AS n ON n.oid = c.relnamespace WHERE n.nspname = $1"
        )
        return frozenset(str(name) for (name,) in await link.run(query, self._schema))

    def real(self, table: str, build: Found) -> str:
        """Give what a build calls a table."""
        return real_name(table, build.number, build.definition)

    def lacks_a_table(self, there: frozenset[str], build: Found) -> bool:
        """Tell whether a table of a build has gone."""
        return any(self.real(table, build) not in there for table in build.tables)

    # -- one build ----------------------------------------------------------------------------

    async def make(
        self,
        link: Link,
        definition: ProjectionDefinition,
        definition_hash: str,
        number: int,
        state: BuildState,
        log_id: str,
        tables: Sequence[TableSql],
    ) -> Found:
        """Make a build's tables, empty, and its checkpoints, at 0."""
        made = [statement for sql in tables for statement in sql.create()]
        if made:
            await link.do("; ".join(made))
        names = definition.table_names
        build = Found(
            definition.name,
            number,
            definition.version,
            definition_hash,
            definition.slices,
            log_id,
            names,
            state,
            {slice_: Checkpoint() for slice_ in range(definition.slices)},
            None,
            bool(definition.sql_tables),
        )
        await make_own(link, self._place, definition, self.own_names(definition, build))
        await self.books.run(
            link,
            "INSERT INTO {s}.builds VALUES ($1, $2, $3, $4, $5, $6, $7, $8, NULL, $9)",
            *(build.projection, number, build.version, definition_hash, build.slices, log_id),
            *(msgspec.json.encode(names).decode(), state, build.own),
        )
        await self._begin(link, build, definition.slices, Checkpoint())
        if state == "serving":
            await self.show(link, build)
        return build

    async def _begin(self, link: Link, build: Found, slices: int, at: Checkpoint) -> None:
        await self.books.run(
            link,
            "INSERT INTO {s}.checkpoints SELECT $1, $2, n, $3, $4 "
            "FROM generate_series(0, $5::integer - 1) AS n",
            *(build.projection, build.number, at.position, at.checksum, slices),
        )

    def own_names(self, definition: ProjectionDefinition, build: Found) -> Mapping[str, str]:
        """Give what a build calls the tables that its projection makes by SQL, by attribute."""
        tables = definition.sql_tables.values()
        return {table.attribute: self.real(table.name, build) for table in tables}

    async def empty(
        self, link: Link, build: Found, definition: ProjectionDefinition | None
    ) -> None:
        """Take all rows and parked events of a build away, and put its checkpoints back to 0.

        Without a definition the tables must not be of the projection's own making.
        """
        assert definition is not None or not build.own
        if build.own and definition is not None:
            # Made anew, since nobody here knows what deleting its rows would set off.
            serves = build.state == "serving"
            if serves:
                await self.hide(link, build.tables)
            await self._drop_tables(link, build)
            await make_own(link, self._place, definition, self.own_names(definition, build))
            if serves:
                await self.show(link, build)
        else:
            for table in build.tables:
                await link.do(f"DELETE FROM {self._named(self.real(table, build))}")
        await self._forget(link, build)
        await self.books.run(
            link,
            "UPDATE {s}.checkpoints SET position = 0, checksum = 0 "
            "WHERE projection = $1 AND build = $2",
            *(build.projection, build.number),
        )

    async def drop(self, link: Link, build: Found) -> None:
        """Take a build away, with all that belongs to its tables."""
        if build.state == "serving":
            await self.hide(link, build.tables)
        await self._drop_tables(link, build)
        await self._forget(link, build)
        at = (build.projection, build.number)
        where = "WHERE projection = $1 AND build = $2"
        await self.books.run(link, f"DELETE FROM {{s}}.checkpoints {where}", *at)
        where = "WHERE projection = $1 AND number = $2"
        await self.books.run(link, f"DELETE FROM {{s}}.builds {where}", *at)

    async def _drop_tables(self, link: Link, build: Found) -> None:
        names = [self._named(self.real(table, build)) for table in build.tables]
        if names:
            await link.do(f"DROP TABLE IF EXISTS {', '.join(names)}")

    async def _forget(self, link: Link, build: Found) -> None:
        await self.books.forget_failures(link, build.projection, build.number)
        await self.books.run(
            link,
            "DELETE FROM {s}.parked WHERE projection = $1 AND build = $2",
            *(build.projection, build.number),
        )

    async def swap(self, link: Link, old: Found | None, new: Found) -> None:
        """Let `new` serve instead of `old`; raise StoreRefused where it is not as far as that."""
        if old is not None:
            reached = max((c.position for c in old.checkpoints.values()), default=0)
            if new.position < reached:
                raise StoreRefused(
                    f"build {new.number} of projection {new.projection!r} is at position "
                    f"{new.position}, and build {old.number}, which serves, at {reached}: queries "
                    f"would go back in time. Nothing was changed; swap when it has caught up."
                )
            gone = [table for table in old.tables if table not in new.tables]
            await self.hide(link, gone)
            await self.set_state(link, old, "former")
        await self.set_state(link, new, "serving")
        await self.claim(link, new, None)
        await self.show(link, new)

    async def reslice(self, link: Link, build: Found, slices: int) -> None:
        """Let so many slices go on where the last one stands, with what it has parked."""
        low = min(build.checkpoints.values(), key=lambda checkpoint: checkpoint.position)
        at = (build.projection, build.number)
        where = "WHERE projection = $1 AND build = $2"
        await self.books.run(link, f"DELETE FROM {{s}}.checkpoints {where}", *at)
        await self._begin(link, build, slices, low)
        # What is behind that position comes again.
        await self.books.run(
            link, f"DELETE FROM {{s}}.parked {where} AND position > $3", *at, low.position
        )
        keys = await self.books.run(link, f"SELECT DISTINCT key FROM {{s}}.parked {where}", *at)
        for (key,) in keys:
            await self.books.run(
                link,
                f"UPDATE {{s}}.parked SET slice = $4 {where} AND key = $3",
                *(*at, key, slice_of(shown(key), slices)),
            )
        await self.books.run(
            link,
            "UPDATE {s}.builds SET slices = $3 WHERE projection = $1 AND number = $2",
            *(*at, slices),
        )

    async def claim(self, link: Link, build: Found, builder: str | None) -> None:
        """Say who builds a build from now on: whoever did before can write no more of it."""
        await self.books.run(
            link,
            "UPDATE {s}.builds SET builder = $3 WHERE projection = $1 AND number = $2",
            *(build.projection, build.number, None if builder is None else kept(builder)),
        )

    async def set_state(self, link: Link, build: Found, state: BuildState) -> None:
        """Let a build be in another state."""
        await self.books.run(
            link,
            "UPDATE {s}.builds SET state = $3 WHERE projection = $1 AND number = $2",
            *(build.projection, build.number, state),
        )

    async def show(self, link: Link, build: Found) -> None:
        """Let the plain names show a build's tables: the columns that its rows were declared with.

        Who was granted a plain name keeps that, unless its columns are other ones now.
        """
        reals = {self.real(table, build): table for table in build.tables}
        if not reals:
            return
        columns: dict[str, list[str]] = {}
        for real, name in await link.run(_COLUMNS, self._schema, list(reals)):
            if ":" not in name:
                columns.setdefault(real, []).append(quoted(name))
        views = [
            f"VIEW {self._named(reals[real])} AS SELECT {', '.join(names)} FROM {self._named(real)}"
            for real, names in columns.items()
        ]
        await link.do("SAVEPOINT shown")
        try:
            await link.do("; ".join(f"CREATE OR REPLACE {view}" for view in views))
        except Exception as error:
            if sqlstate_of(error) != _OTHER_COLUMNS:
                raise
            await link.do("ROLLBACK TO SAVEPOINT shown")
            await self.hide(link, build.tables)
            await link.do("; ".join(f"CREATE {view}" for view in views))

    async def hide(self, link: Link, tables: Sequence[str]) -> None:
        """Let plain names show nothing; raise StoreRefused where others have built on them."""
        for table in tables:
            try:
                await link.do(f"DROP VIEW IF EXISTS {self._named(table)}")
            except Exception as error:
                if sqlstate_of(error) != _OTHERS_DEPEND:
                    raise
                raise StoreRefused(
                    f"{table} in {self._place.name} has other columns now, and a view of "
                    f"somebody's own is built on it ({described_failure(error)}): drop that one "
                    f"first. Nothing was changed"
                ) from error

    async def refuse_taken_names(
        self, link: Link, definition: ProjectionDefinition, builds: Sequence[Found]
    ) -> None:
        """Raise StoreRefused where something else in the schema has a table's name already."""
        mine = {table for build in builds for table in build.tables}
        there = await self.relations(link)
        for name in definition.table_names:
            if name in there and name not in mine:
                raise StoreRefused(
                    f"the schema {self._schema} in {self._place.name} has a table {name} already, "
                    f"which is not of projection {definition.name!r}: rename the table's "
                    f"attribute, or that table"
                )

    async def prepare(
        self,
        link: Link,
        plans: Sequence[Plan],
        tables: Mapping[str, Sequence[TableSql]],
        log_id: str,
    ) -> None:
        """Do what was planned; `tables` are those of new builds."""
        for plan in plans:
            for build in plan.drop:
                await self.drop(link, build)
        for plan in plans:
            definition = plan.definition
            if plan.revive is not None:
                await self.set_state(link, plan.revive, "building")
            if plan.reslice is not None:
                await self.reslice(link, plan.reslice, definition.slices)
            if plan.make is not None:
                await self.refuse_taken_names(link, definition, plan.builds)
                number, made = plan.number, tables[definition.name]
                await self.make(link, definition, plan.hash, number, plan.make, log_id, made)
        await self.books.run(link, "UPDATE {s}.about SET log_id = $1", log_id)

    def _named(self, name: str) -> str:
        return f"{quoted(self._schema)}.{quoted(name)}"


def _found_of(rows: Iterable[Record]) -> Sequence[Found]:
    found: dict[tuple[str, int], Found] = {}
    reached: dict[tuple[str, int], dict[int, Checkpoint]] = {}
    for row in rows:
        build = row[0], row[1]
        if build not in found:
            reached[build] = {}
            found[build] = Found(
                projection=row[0],
                number=row[1],
                version=row[2],
                definition=row[3],
                slices=row[4],
                log_id=row[5],
                tables=msgspec.json.decode(row[6], type=list[str]),
                state=row[7],
                checkpoints=reached[build],
                builder=row[8],
                own=row[9],
            )
        if row[10] is not None:
            reached[build][row[10]] = Checkpoint(row[11], row[12])
    return list(found.values())
