"""Cases of views: what a write does, refuses and shares, and what stays of one that was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from ...errors import StoreRefused, UsageError
from ...limits import Limits
from ...model.rows import Scalar
from ...model.sql_projection import AsyncSql, SqlSession
from ...stores.contract.views import Changes, Checkpoint
from .given_views import (
    BOOKS,
    BackendCases,
    Book,
    Opened,
    Page,
    Shelf,
    SlicedShelf,
    Tally,
    Thing,
    a_parked,
    part,
)

__all__ = ["WritingCases"]

COUNT = "INSERT INTO {rows} VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = {rows}.count + 1"
ALL_TALLIES = "SELECT name, count FROM tally_rows ORDER BY name"


def counts(name: str, sql: AsyncSql) -> Callable[[], Awaitable[None]]:
    """Give what counts a name."""

    async def call() -> None:
        await sql.run(COUNT, (name,))

    return call


class WritingCases(BackendCases):
    """Writes of projectors."""

    async def test_a_write_puts_rows_and_moves_the_checkpoint(self, opened: Opened) -> None:
        """Of several tables at once; what is put again is replaced, what is None is gone."""
        await opened.write(
            Shelf, 0, 1, {"books": [Book("a", 1), Book("b", 2)], "pages": [Page(1, "x")]}
        )
        await opened.write(
            Shelf, 1, 3, {"books": [Book("a", 9)]}, gone={"books": ["b"], "pages": [1, 77]}
        )

        assert await opened.find(BOOKS) == [Book("a", 9)]
        assert await opened.find(Shelf.pages.definition) == []
        assert await opened.views.checkpoint(part(Shelf)) == opened.at(3)

    async def test_a_write_may_move_nothing_but_the_checkpoint(self, opened: Opened) -> None:
        """Events that change no row are passed all the same, and a position may be passed over."""
        assert await opened.write(Shelf, 0, 5) is True
        assert await opened.write(Shelf, 5, 5, parked=[a_parked(5)]) is True

        assert await opened.views.checkpoint(part(Shelf)) == opened.at(5)

    async def test_a_projector_reads_the_rows_of_its_keys(self, opened: Opened) -> None:
        """By table; a key without a row gives none."""
        await opened.put({"books": [Book(f"b{n}", n) for n in range(5)], "things": [Thing("t")]})
        keys: dict[str, Sequence[Scalar]] = {
            "books": ["b3", "none", "b1"],
            "things": ["t"],
            "pages": [1],
        }
        found = await opened.views.fetch(part(Shelf), keys)

        shape = BOOKS.shape
        books = sorted(tuple(flat) for flat in found["books"])
        assert books == [shape.flatten(Book("b1", 1)), shape.flatten(Book("b3", 3))]
        assert [tuple(flat) for flat in found["things"]] == [("t", "")]
        assert list(found["pages"]) == []

    @pytest.mark.parametrize("before", [0, 2, 4])
    async def test_a_checkpoint_that_is_elsewhere_refuses_the_write(
        self, opened: Opened, before: int
    ) -> None:
        """Another worker writes the tables: rows, parked events and checkpoint stay as they are."""
        kept = a_parked(1)
        await opened.write(Shelf, 0, 3, {"books": [Book("a", 1)]}, parked=[kept])
        with pytest.raises(StoreRefused, match=r"another worker writes them\. Nothing was written"):
            await opened.write(
                Shelf,
                before,
                6,
                {"books": [Book("a", 2), Book("b")]},
                parked=[a_parked(4)],
                released=[1],
            )

        assert await opened.find(BOOKS) == [Book("a", 1)]
        assert await opened.views.parked("shelf") == [kept]
        assert await opened.views.checkpoint(part(Shelf)) == opened.at(3)
        assert await opened.write(Shelf, 3, 4) is True

    async def test_parts_have_checkpoints_of_their_own(self, opened: Opened) -> None:
        """Projections, slices and builds move apart from each other."""
        views = await opened.open(Shelf, SlicedShelf)
        build = await views.begin_build(Shelf.__definition__)
        parts = [
            part(Shelf),
            part(Shelf, build.number),
            part(SlicedShelf, 1, 0),
            part(SlicedShelf, 1, 1),
        ]
        for position, where in enumerate(parts, start=1):
            await opened.write(where, 0, position)

        assert [(await views.checkpoint(where)).position for where in parts] == [1, 2, 3, 4]
        assert [b.position for b in await views.builds("sliced")] == [3]

    async def test_a_build_that_is_not_there_has_no_checkpoint_and_takes_no_write(
        self, opened: Opened
    ) -> None:
        """Whoever still writes it is told that it was dropped."""
        build = await opened.views.begin_build(Shelf.__definition__)
        gone = part(Shelf, build.number)
        await opened.views.drop("shelf", build.number)

        with pytest.raises(StoreRefused, match=r"is not in the views.* any more"):
            await opened.views.checkpoint(gone)
        with pytest.raises(StoreRefused):
            await opened.write(gone, 0, 1)

    # -- together

    async def test_writes_are_made_in_the_order_of_the_calls(self, opened: Opened) -> None:
        """Whoever is awaited first; of those that shared a transaction one was its first."""
        writes = [
            opened.views.write(opened.changes(Shelf, n, n + 1, {"books": [Book("a", n)]}))
            for n in range(6)
        ]
        found = await asyncio.gather(*reversed(writes), return_exceptions=True)

        assert [type(each) for each in found] == [bool] * 6
        assert await opened.find(BOOKS) == [Book("a", 5)]
        assert await opened.views.checkpoint(part(Shelf)) == opened.at(6)
        assert found[-1] is True

    async def test_a_row_that_is_put_and_taken_in_writes_that_wait_is_what_the_last_says(
        self, opened: Opened
    ) -> None:
        """However many of them share a transaction."""
        await asyncio.gather(
            opened.write(Shelf, 0, 1, {"books": [Book("a"), Book("b")], "things": [Thing("t")]}),
            opened.write(Shelf, 1, 2, gone={"books": ["a", "b"]}),
            opened.write(Shelf, 2, 3, {"books": [Book("b", 3)]}),
        )

        assert await opened.find(BOOKS) == [Book("b", 3)]
        assert await opened.find(Shelf.things.definition) == [Thing("t")]

    async def test_a_write_that_is_refused_costs_the_others_nothing(self, opened: Opened) -> None:
        """Those of other parts that wait with it are written."""
        await opened.open(Shelf, SlicedShelf)
        found = await asyncio.gather(
            opened.write(SlicedShelf, 4, 5, {"books": [Book("no")]}),
            opened.write(Shelf, 0, 1, {"books": [Book("a")]}),
            opened.write(part(SlicedShelf, 1, 1), 0, 2),
            opened.write(Shelf, 1, 2, {"books": [Book("b")]}),
            return_exceptions=True,
        )

        assert isinstance(found[0], StoreRefused)
        assert all(isinstance(each, bool) for each in found[1:])
        assert await opened.books() == ["a", "b"]
        assert await opened.find(SlicedShelf.books.definition) == []

    async def test_a_caller_that_is_cancelled_leaves_a_whole_write_or_none(
        self, opened: Opened
    ) -> None:
        """Its row and its checkpoint are both there, or neither is; the views go on."""
        waiting = asyncio.ensure_future(opened.write(Shelf, 0, 1, {"books": [Book("a")]}))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        at = (await opened.views.checkpoint(part(Shelf))).position

        assert await opened.books() == ["a"] * at
        await opened.write(Shelf, at, at + 1, {"books": [Book("b")]})
        assert (await opened.books())[-1] == "b"

    @pytest.mark.parametrize("count", [1, 2, 3, 33, 100, 1_025, 2_500])
    async def test_any_number_of_rows_is_written_and_taken_away(
        self, opened: Opened, count: int
    ) -> None:
        """No number falls between the statements that a store may have prepared."""
        await opened.put({"books": [Book(f"b{n}", n) for n in range(count)]})
        assert await opened.views.count(BOOKS, ()) == count
        await opened.write(Shelf, 1, 2, gone={"books": [f"b{n}" for n in range(1, count)]})

        assert await opened.find(BOOKS) == [Book("b0", 0)]

    # -- slices

    async def test_a_row_belongs_to_the_slice_that_put_it(self, opened: Opened) -> None:
        """Another one may not put, take or read it; queries see the rows of all."""
        await opened.open(SlicedShelf)
        one, two = part(SlicedShelf, 1, 0), part(SlicedShelf, 1, 1)
        await opened.write(one, 0, 1, {"books": [Book("a", 1)], "things": [Thing("t", "lamp")]})
        await opened.write(two, 0, 1, {"books": [Book("b", 2)]})
        for changes in (
            opened.changes(two, 1, 2, {"books": [Book("c"), Book("a", 9)]}),
            opened.changes(two, 1, 2, {"things": [Thing("t", "dark")]}),
            opened.changes(two, 1, 2, gone={"books": ["a"]}),
        ):
            with pytest.raises(StoreRefused, match=r"belongs to slice 0.*Nothing was written"):
                await opened.views.write(changes)
        with pytest.raises(StoreRefused, match="belongs to slice 0"):
            await opened.views.fetch(two, {"books": ["b", "a"]})

        found = await opened.find(SlicedShelf.books.definition)
        assert found == [Book("a", 1), Book("b", 2)]
        assert await opened.find(SlicedShelf.things.definition) == [Thing("t", "lamp")]
        assert await opened.views.checkpoint(two) == opened.at(1)

    async def test_a_row_that_its_slice_has_taken_away_is_free_for_another(
        self, opened: Opened
    ) -> None:
        """Who puts it next has it."""
        await opened.open(SlicedShelf)
        one, two = part(SlicedShelf, 1, 0), part(SlicedShelf, 1, 1)
        await opened.write(one, 0, 1, {"books": [Book("a", 1)]})
        await opened.write(one, 1, 2, gone={"books": ["a"]})
        await opened.write(two, 0, 1, {"books": [Book("a", 2)]})

        assert await opened.find(SlicedShelf.books.definition) == [Book("a", 2)]
        with pytest.raises(StoreRefused, match="belongs to slice 1"):
            await opened.write(one, 2, 3, {"books": [Book("a", 3)]})

    # -- by SQL

    def count(self, opened: Opened, before: int, after: int, *names: str) -> Any:
        """Give a call that counts names, and moves the checkpoint of the tally."""

        async def call(sql: SqlSession) -> Changes:
            for name in names:
                await sql.run(COUNT, (name,))
            return opened.changes(Tally, before, after, everything=True)

        return call

    async def test_sql_writes_its_tables_in_the_transaction_of_the_checkpoint(
        self, opened: Opened
    ) -> None:
        """Queries see the plain name; statements name tables in braces and bind values."""
        views = await opened.open(Tally)
        changes = await views.write_by(part(Tally), self.count(opened, 0, 2, "a", "b", "a"))
        found = await views.sql(ALL_TALLIES, (), 10)

        assert changes is not None
        assert changes.after == opened.at(2) == await views.checkpoint(part(Tally))
        assert found.rows == [("a", 2), ("b", 1)]
        assert found.tables == {"tally_rows"}

    async def test_sql_whose_checkpoint_is_elsewhere_is_taken_back(self, opened: Opened) -> None:
        """Nothing of its statements stays."""
        views = await opened.open(Tally)
        await views.write_by(part(Tally), self.count(opened, 0, 2, "a"))
        with pytest.raises(StoreRefused, match="another worker writes them"):
            await views.write_by(part(Tally), self.count(opened, 1, 3, "a", "b"))

        assert (await views.sql(ALL_TALLIES, (), 10)).rows == [("a", 1)]
        assert await views.checkpoint(part(Tally)) == opened.at(2)

    async def test_a_call_that_gives_none_or_raises_has_written_nothing(
        self, opened: Opened
    ) -> None:
        """What it raises comes out as it was raised."""
        views = await opened.open(Tally)

        async def nothing(sql: SqlSession) -> None:
            await sql.run(COUNT, ("a",))

        async def raises(sql: SqlSession) -> None:
            await sql.run(COUNT, ("a",))
            raise LookupError("the handler's")

        assert await views.write_by(part(Tally), nothing) is None
        with pytest.raises(LookupError, match="the handler's"):
            await views.write_by(part(Tally), raises)

        assert (await views.sql(ALL_TALLIES, (), 10)).rows == []
        assert await views.checkpoint(part(Tally)) == Checkpoint()

    async def test_an_attempt_that_fails_takes_back_what_it_did_and_no_more(
        self, opened: Opened
    ) -> None:
        """The events before it stay in the transaction, and the next go on."""
        views = await opened.open(Tally)
        raised: list[Exception | None] = []

        async def call(sql: SqlSession) -> Changes:
            async def fails() -> None:
                await sql.run(COUNT, ("a",))
                raise LookupError

            # Kept from the last time: it may be run once more.
            raised[:] = [
                await sql.attempt(each) for each in (counts("a", sql), fails, counts("b", sql))
            ]
            return opened.changes(Tally, 0, 3, everything=True)

        await views.write_by(part(Tally), call)

        assert [type(each) for each in raised] == [type(None), LookupError, type(None)]
        assert (await views.sql(ALL_TALLIES, (), 10)).rows == [("a", 1), ("b", 1)]

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT * FROM {books}",
            "SELECT id FROM shelf_books",
            "DELETE FROM shelf_books",
            "DROP TABLE {rows}",
            "CREATE TABLE mine (a INTEGER)",
        ],
    )
    async def test_sql_of_a_projection_keeps_to_its_own_tables(
        self, opened: Opened, statement: str
    ) -> None:
        """Whatever the refusal is called, what else was written goes on."""
        views = await opened.open(Shelf, Tally)
        await opened.put({"books": [Book("a")]})

        async def call(sql: SqlSession) -> Changes:
            async def strays() -> None:
                await sql.run(statement)

            error = await sql.attempt(strays)
            assert error is not None
            await sql.run(COUNT, ("b",))
            return opened.changes(Tally, 0, 1, everything=True)

        await views.write_by(part(Tally), call)

        assert await opened.books() == ["a"]
        assert (await views.sql(ALL_TALLIES, (), 10)).rows == [("b", 1)]

    async def test_sql_gives_so_many_rows_and_ends_with_its_transaction(
        self, opened: Opened
    ) -> None:
        """More than `Limits.query_rows` is refused, and so is whoever keeps the session."""
        views = await opened.open(Tally, limits=Limits(query_rows=3))
        kept: list[AsyncSql] = []

        async def call(sql: SqlSession) -> Changes:
            async def all_of_them() -> None:
                await sql.run("SELECT * FROM {rows}")

            kept.append(sql)
            for name in "abcd":
                await sql.run(COUNT, (name,))
            assert len(await sql.run("SELECT * FROM {rows} LIMIT 3")) == 3
            assert isinstance(await sql.attempt(all_of_them), UsageError)
            return opened.changes(Tally, 0, 1, everything=True)

        await views.write_by(part(Tally), call)
        with pytest.raises(UsageError, match="after the transaction"):
            await kept[0].run(COUNT, ("e",))

    # -- how often

    async def test_transactions_are_counted_for_what_queries_see(self, opened: Opened) -> None:
        """By projection: a write, a reset and a swap count; one that was refused does not."""
        views = await opened.open(Shelf, Tally)
        assert views.transactions("shelf") == (0, 0)
        await opened.write(Shelf, 0, 1, {"books": [Book("a")]})
        seen, may = views.transactions("shelf")
        assert seen == may > 0
        with pytest.raises(StoreRefused):
            await opened.write(Shelf, 0, 1)
        certain, most = views.transactions("shelf")

        assert certain >= seen
        assert views.transactions("tally") == (0, 0)
        await opened.write(Shelf, 1, 2)
        assert views.transactions("shelf")[0] > certain
        assert views.transactions("shelf")[1] >= most
