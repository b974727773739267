"""Cases of views: values that are hard to keep, SQL that reads, and one state for one answer."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from ...errors import RowRefused, UsageError
from ...model.columns import INTEGER_MAX, INTEGER_MIN
from ...stores.contract.views import Changes, Search, ViewsState
from .given_views import (
    ALL_ROWS,
    BOOKS,
    PAGES,
    BackendCases,
    Book,
    Opened,
    Page,
    Shelf,
    Tally,
    Thing,
    a_decision,
    a_parked,
    flats,
    keys_of,
    part,
)

__all__ = ["HoldingCases"]

TEXTS = (
    *("", " ", "x" * 300_000, "\u65e5\u672c", "e\u0301", "\u00e9", "\U0001f4e6", "a\r\nb\t"),
    *("it's", '"quoted"', "\\", "%s %d", "?", "\u2028", "\ufeff", "\uffff"),
    *("\x7f\x01", "null"),
)
INDEXED = 500
"""Characters of a text that every store can keep in an index."""
FLOATS = (0.1, -0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -1e-300, 2.0**53 + 2, math.pi * 1e100)
ALIKE = (
    *("x", "X", "x ", " x", "\u00e9", "e\u0301", "E\u0301", "\uff11", "1", "01"),
    *("ss", "\u00df"),
)


class HoldingCases(BackendCases):
    """What is kept, and what an answer sees."""

    # -- values

    async def test_every_value_comes_back_exactly(self, opened: Opened) -> None:
        """Whichever way it is read: got, found, fetched for its projector, or by SQL."""
        rows: list[Book] = [
            *(
                Book(f"t{n}", author=text[:INDEXED], tags=[text, ""], blurb=text)
                for n, text in enumerate(TEXTS)
            ),
            *(Book(f"f{n}", weight=number) for n, number in enumerate(FLOATS)),
            *(Book(f"i{n}", number) for n, number in enumerate((INTEGER_MIN, -1, INTEGER_MAX))),
            Book("bytes", cover=bytes(range(256)) * 4, lent=True),
            Book("large", cover=b"\0" * 2_000_000, tags=["x" * 100] * 5_000),
        ]
        await opened.put({"books": rows})
        by_key = {row.id: row for row in rows}
        keys = list(by_key)

        assert {row.id: row for row in await opened.find(BOOKS)} == by_key
        fetched = await opened.views.fetch(part(Shelf), {"books": keys})
        assert {flat[0]: tuple(flat) for flat in fetched["books"]} == flats(BOOKS, rows)
        for key in ("t8", "f3", "i0", "i2", "bytes", "large"):
            assert await opened.views.get(BOOKS, key) == by_key[key]
        statement = "SELECT id, weight, price, cover FROM shelf_books"
        found = (await opened.views.sql(statement, (), 99)).rows
        assert {r[0]: r[1:] for r in found} == {
            row.id: (row.weight, row.price, row.cover) for row in rows
        }

    async def test_keys_that_look_alike_are_apart(self, opened: Opened) -> None:
        """Texts are compared by their characters, not by case, accents or width, nor cut."""
        await opened.put({"books": [Book(key, n) for n, key in enumerate(ALIKE)]})
        await opened.put({"things": [Thing(key, f"w{n}") for n, key in enumerate(ALIKE)]})

        assert await opened.views.count(BOOKS, ()) == len(ALIKE)
        for number, key in enumerate(ALIKE):
            assert await opened.views.get(BOOKS, key) == Book(key, number)
            assert await opened.views.get(Shelf.things.definition, key) == Thing(key, f"w{number}")
        await opened.write(Shelf, 2, 3, gone={"books": ["X"], "things": ["x"]})
        assert await opened.books() == sorted(set(ALIKE) - {"X"})

    async def test_numbers_are_keys_to_their_bounds(self, opened: Opened) -> None:
        """In their order as numbers."""
        numbers = [INTEGER_MIN, -10, -9, 0, 2, 10, 2**53 + 1, INTEGER_MAX]
        await opened.put({"pages": [Page(n, f"w{n}") for n in reversed(numbers)]})

        assert keys_of(await opened.find(PAGES)) == numbers
        assert (await opened.views.get(PAGES, 2**53 + 1)).words == f"w{2**53 + 1}"
        found = await opened.views.search(PAGES, Search((f"w{INTEGER_MAX}",), limit=5))
        assert keys_of(found) == [INTEGER_MAX]

    async def test_a_number_that_is_none_is_refused_and_nothing_is_written(
        self, opened: Opened
    ) -> None:
        """RowRefused names the table, and nobody's rows are lost for it."""
        await opened.put({"books": [Book("a", weight=1.5)]})
        (flat,) = flats(BOOKS, [Book("b")]).values()
        assert flat is not None
        bad = (*flat[:2], math.nan, *flat[3:])
        rows: dict[str, Any] = {"books": {"a": None, "b": bad}}
        with pytest.raises(RowRefused) as refused:
            await opened.views.write(Changes(part(Shelf), opened.at(1), opened.at(2), rows))

        assert refused.value.table == BOOKS.name
        assert await opened.find(BOOKS) == [Book("a", weight=1.5)]
        assert await opened.views.checkpoint(part(Shelf)) == opened.at(1)

    async def test_everything_that_is_hard_is_there_when_views_are_opened_again(
        self, opened: Opened
    ) -> None:
        """Byte for byte."""
        rows = [Book(text[:50], blurb=text, weight=FLOATS[2]) for text in TEXTS]
        await opened.put({"books": rows})
        await self.reopened(opened)

        found = {row.id: row for row in await opened.find(BOOKS)}
        assert found == {row.id: row for row in rows}

    # -- sql

    async def test_sql_gives_names_rows_and_the_tables_that_it_reads(self, opened: Opened) -> None:
        """Values are bound; the tables are told by their declared names, once each."""
        await opened.put({"books": [Book("a", 1), Book("b", 2)], "pages": [Page(1, price=2)]})
        found = await opened.views.sql(
            "SELECT b.id AS book, p.number AS page FROM shelf_books AS b "
            "JOIN shelf_pages AS p ON p.price = b.price WHERE b.id <> ?",
            ("it's",),
            5,
        )

        assert (list(found.names), found.rows) == (["book", "page"], [("b", 1)])
        assert found.tables == {"shelf_books", "shelf_pages"}
        again = await opened.views.sql("SELECT 1 AS one, NULL AS none", (), 5)
        assert (list(again.names), again.rows, again.tables) == (
            ["one", "none"],
            [(1, None)],
            frozenset(),
        )

    async def test_the_tables_that_sql_reads_are_told_each_time(self, opened: Opened) -> None:
        """Also of a statement that was asked before, and after another build serves."""
        statement = "SELECT count(*) AS n FROM shelf_books WHERE price > ?"
        for _ in range(2):
            assert (await opened.views.sql(statement, (0,), 5)).tables == {"shelf_books"}
        build = await opened.views.begin_build(Shelf.__definition__)
        await opened.views.swap(Shelf.__definition__, build.number, a_decision("swap"))

        assert (await opened.views.sql(statement, (0,), 5)).tables == {"shelf_books"}

    async def test_sql_has_so_many_rows_and_is_never_cut(self, opened: Opened) -> None:
        """As many as are allowed come; one more is refused by UsageError."""
        await opened.put({"books": [Book(f"b{n}") for n in range(4)]})
        statement = "SELECT id FROM shelf_books"

        assert len((await opened.views.sql(statement, (), 4)).rows) == 4
        with pytest.raises(UsageError, match="more than 3 rows"):
            await opened.views.sql(statement, (), 3)

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM shelf_books",
            "INSERT INTO shelf_books (id) VALUES ('z')",
            "UPDATE shelf_books SET price = 9",
            "DROP TABLE shelf_books",
            "CREATE TABLE mine (a INTEGER)",
            "BEGIN",
            "COMMIT",
            "SELECT FROM WHERE",
            "SELECT nothing FROM shelf_books",
            "SELECT * FROM nowhere",
            "SELECT ?",
            "",
            "-- nothing",
        ],
    )
    async def test_sql_that_does_more_than_read_or_cannot_be_run_is_refused(
        self, opened: Opened, statement: str
    ) -> None:
        """By UsageError; the views stay as they are, and the next statement runs."""
        await opened.put({"books": [Book("a", 1)]})
        with pytest.raises(UsageError):
            await opened.views.sql(statement, (), 9)

        assert (await opened.views.sql("SELECT id, price FROM shelf_books", (), 9)).rows == [
            ("a", 1)
        ]
        await opened.put({"books": [Book("b")]})
        assert await opened.books() == ["a", "b"]

    # -- one state

    async def read_all(self, state: ViewsState) -> list[Any]:
        """Read in every way; give what shows the state."""
        books = keys_of(await state.find(BOOKS, ALL_ROWS))
        pages = keys_of(await state.search(PAGES, Search(("lamp",), limit=99)))
        got = await state.get(BOOKS, "b1")
        rows = (await state.sql("SELECT id FROM shelf_books ORDER BY id", (), 99)).rows
        tallied = (await state.sql("SELECT count(*) AS n FROM tally_rows", (), 9)).rows
        return [len(books), len(pages), int(got is not None), len(rows), *tallied[0]]

    async def test_an_answer_sees_one_state_while_others_write(self, opened: Opened) -> None:
        """Of all projections; where it may have seen two, it says that it is torn."""
        views = await opened.open(Shelf, Tally)

        async def both(number: int) -> None:
            rows = {"books": [Book(f"b{number}")], "pages": [Page(number, "lamp")]}
            await opened.write(Shelf, number, number + 1, rows)
            await opened.tally(f"n{number}", number)

        await both(0)
        state = views.state()
        await state.find(BOOKS, ALL_ROWS)
        await both(1)
        seen = await self.read_all(state)
        torn = state.is_torn
        state.end()
        state.end()

        assert torn or seen == [1, 1, 0, 1, 1]
        behind = views.state()
        assert await self.read_all(behind) == [2, 2, 1, 2, 2]
        assert not behind.is_torn
        behind.end()

    async def test_an_answer_that_holds_sees_one_state(self, opened: Opened) -> None:
        """Writes wait for it where they must, for a moment at most, and are then made."""
        views = await opened.open(Shelf, Tally)
        await opened.put({"books": [Book("b0")]})
        state = views.state(holding=0.5)
        await state.find(BOOKS, ALL_ROWS)
        writing = asyncio.ensure_future(opened.write(Shelf, 1, 2, {"books": [Book("b1")]}))
        for _ in range(20):
            await asyncio.sleep(0)
        seen = keys_of(await state.find(BOOKS, ALL_ROWS))
        torn = state.is_torn
        state.end()
        await writing

        assert (seen, torn) == (["b0"], False)
        assert await opened.books() == ["b0", "b1"]

    async def test_a_reader_beside_a_writer_sees_whole_transactions(self, opened: Opened) -> None:
        """Never half of one, and never an older state after a newer one."""
        done = asyncio.Event()
        seen: list[int] = []

        async def write() -> None:
            for number in range(10):
                rows = [Book(f"b{number}-{n}", number) for n in range(20)]
                await opened.write(Shelf, number, number + 1, {"books": rows})
                await asyncio.sleep(0)
            done.set()

        async def read() -> None:
            while not done.is_set():
                count = await opened.views.count(BOOKS, ())
                assert count % 20 == 0, "half of a transaction was seen"
                seen.append(count)

        await asyncio.gather(write(), read())

        assert await opened.views.count(BOOKS, ()) == 200
        assert seen == sorted(seen)

    async def test_a_write_is_seen_by_whoever_asks_after_it_returned(self, opened: Opened) -> None:
        """Also where other answers have begun before, and still read."""
        states: list[ViewsState] = []
        for number in range(8):
            await opened.write(Shelf, number, number + 1, {"books": [Book(f"b{number}")]})
            assert await opened.views.count(BOOKS, ()) == number + 1
            states.append(opened.views.state())
            assert await states[-1].count(BOOKS, ()) == number + 1
        for state in states:
            state.end()

    async def test_a_state_that_was_given_back_is_not_read(self, opened: Opened) -> None:
        """What is read later fails, unless it is read in memory, where nothing was held."""
        state = opened.views.state()
        await state.count(BOOKS, ())
        state.end()

        try:
            count = await state.count(BOOKS, ())
        except UsageError:
            return
        assert count == 0

    async def test_parked_events_and_rows_are_written_together_or_not_at_all(
        self, opened: Opened
    ) -> None:
        """A row that is refused leaves nothing parked."""
        (flat,) = flats(BOOKS, [Book("b")]).values()
        assert flat is not None
        rows: dict[str, Any] = {"books": {"b": (*flat[:2], math.nan, *flat[3:])}}
        changes = Changes(part(Shelf), opened.at(0), opened.at(1), rows, parked=(a_parked(1),))
        with pytest.raises(RowRefused):
            await opened.views.write(changes)

        assert list(await opened.views.parked("shelf")) == []
