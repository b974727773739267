"""Cases of views: which rows a query reads, in which order, and how pages follow each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ...errors import InvalidInput, ProjectionUnserved, UsageError
from ...limits import Limits
from ...model.conditions import (
    Filter,
    above,
    at_least,
    at_most,
    below,
    between,
    filters_of,
    one_of,
)
from ...model.projection import TableDefinition
from ...model.rows import Scalar
from ...stores.contract.views import Search, Selection
from .given_views import (
    BOOKS,
    PAGES,
    THINGS,
    BackendCases,
    Book,
    Opened,
    Page,
    Shelf,
    ShelfWithMore,
    SlicedShelf,
    Thing,
    keys_of,
    part,
)

__all__ = ["AskingCases"]

SOME = [
    Book("a", 5, 0.5, "ann"),
    Book("b", 5, -1.5, "bob", lent=True),
    Book("c", -3, 2.0, None),
    Book("d", 5, 2.0, "ann"),
    Book("e", 8, 1e300, "\u00e9va"),
    Book("f", 0, 0.0, "Ann"),
]
WRITTEN = [
    Page(1, "RED HANGING LANTERN", "glass", 339),
    Page(2, "BLUE LANTERN", None, 339),
    Page(3, "RED LAMP", "no lantern", 100),
    Page(4, "CR\u00c8ME BR\u00dbL\u00c9E DISH", "", 100),
    Page(5, "T-LIGHT HOLDER", "red", 50),
    Page(-6, "lantern lantern lantern", None, 50),
]
ASKED: list[tuple[Mapping[str, Any], str]] = [
    ({}, "abcdef"),
    ({"price": 5}, "abd"),
    ({"price": 5, "author": "ann"}, "ad"),
    ({"author": None}, "c"),
    ({"author": "ANN"}, ""),
    ({"lent": True}, "b"),
    ({"price": at_least(5)}, "abde"),
    ({"price": above(5)}, "e"),
    ({"price": at_most(0)}, "cf"),
    ({"price": below(0)}, "c"),
    ({"price": between(0, 5)}, "abdf"),
    ({"price": above(-3) & below(5)}, "f"),
    ({"weight": above(0.5)}, "cde"),
    ({"author": at_least("a")}, "abde"),
    ({"author": below("b")}, "adf"),
    ({"id": one_of(["a", "e", "nobody"])}, "ae"),
    ({"author": one_of([None, "bob"])}, "bc"),
    ({"author": one_of([None])}, "c"),
    ({"author": one_of([])}, ""),
    ({"price": one_of([5, 5, 8, 0]), "lent": False}, "adef"),
]
SEARCHED: list[tuple[str, set[int]]] = [
    ("lantern", {1, 2, 3, -6}),
    ("Red Lantern", {1, 3}),
    ("lantern red", {1, 3}),
    ("red glass", {1}),
    ("lant", {1, 2, 3, -6}),
    ("lant red", set()),  # the last word alone may be a beginning
    ("red lant", {1, 3}),
    ("creme brulee", {4}),
    ("Br\u00fbl\u00e9e", {4}),
    ("light", {5}),
    ("nothing", set()),
    ("red OR", set()),
    ("NOT", set()),
    ("'", set()),
]


def where(table: TableDefinition, **asked: Any) -> tuple[Filter, ...]:
    """Give what is asked of the rows of a table."""
    return filters_of(table.name, table.shape, asked, 100)


class AskingCases(BackendCases):
    """Queries over rows."""

    async def test_a_row_is_got_by_its_key(self, opened: Opened) -> None:
        """Or None where there is none; a number and a text are no other's keys."""
        await opened.put({"books": SOME, "pages": WRITTEN})
        views = opened.views

        assert await views.get(BOOKS, "b") == SOME[1]
        assert await views.get(PAGES, -6) == WRITTEN[-1]
        assert await views.get(BOOKS, "B") is None
        assert await views.get(BOOKS, "") is None
        assert await views.get(PAGES, 0) is None

    @pytest.mark.parametrize(("asked", "keys"), ASKED)
    async def test_rows_are_found_and_counted_by_what_is_asked(
        self, opened: Opened, asked: Mapping[str, Any], keys: str
    ) -> None:
        """Values compare as Python compares them: text by its characters, None with nothing."""
        await opened.put({"books": SOME})
        filters = where(BOOKS, **asked)
        found = await opened.find(BOOKS, Selection(filters, limit=10))

        assert keys_of(found) == list(keys)
        assert found == [book for book in SOME if book.id in keys]
        assert await opened.views.count(BOOKS, filters) == len(keys)
        held = [b for b in SOME if all(f.holds(BOOKS.shape.flatten(b)) for f in filters)]
        assert keys_of(held) == list(keys)

    @pytest.mark.parametrize(
        ("order_by", "keys"),
        [
            (None, "abcdef"),
            ("id", "abcdef"),
            ("price", "cfabde"),
            ("weight", "bfacde"),
        ],
    )
    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("limit", [1, 2, 5, 6, 9])
    async def test_pages_follow_each_other_in_either_direction(
        self, opened: Opened, order_by: str | None, keys: str, descending: bool, limit: int
    ) -> None:
        """Rows that are equal in the order come by key; no row is twice or missing."""
        await opened.put({"books": SOME})
        expected = list(reversed(keys)) if descending else list(keys)
        field = order_by or "id"
        found: list[Any] = []
        after: tuple[Scalar, Scalar] | None = None
        while page := await opened.find(
            BOOKS, Selection((), order_by, descending, after, limit=limit)
        ):
            assert len(page) <= limit
            assert len(found) < len(SOME), "a page begins where the one before began"
            found += page
            after = (getattr(page[-1], field), page[-1].id)
        assert keys_of(found) == expected

        by_offset: list[Any] = []
        while page := await opened.find(
            BOOKS, Selection((), order_by, descending, limit=limit, offset=len(by_offset))
        ):
            by_offset += page
            assert len(by_offset) <= len(SOME)
        assert keys_of(by_offset) == expected

    async def test_a_page_of_what_is_asked_for_begins_behind_a_row(self, opened: Opened) -> None:
        """Conditions, order, and where it begins hold together; the row need not be there."""
        await opened.put({"books": SOME})
        some = where(BOOKS, price=at_least(0))

        async def ids(descending: bool, after: tuple[Scalar, Scalar], offset: int = 0) -> list[str]:
            selection = Selection(some, "price", descending, after, 2, offset)
            return keys_of(await opened.find(BOOKS, selection))

        assert await ids(False, (5, "a")) == ["b", "d"]
        assert await ids(False, (5, "c")) == ["d", "e"]
        assert await ids(False, (5, "a"), offset=1) == ["d", "e"]
        assert await ids(True, (5, "c")) == ["b", "a"]
        assert await ids(True, (5, "a")) == ["f"]
        assert await ids(False, (8, "e")) == []

    async def test_a_page_of_no_rows_is_empty(self, opened: Opened) -> None:
        """A limit of 0 gives none, and so does an offset behind the last."""
        await opened.put({"books": SOME})

        assert await opened.find(BOOKS, Selection(limit=0)) == []
        assert await opened.find(BOOKS, Selection(limit=5, offset=6)) == []

    async def test_order_is_that_of_characters(self, opened: Opened) -> None:
        """No language's: capitals before small letters, accents behind, by code point."""
        names = [
            "",
            " a",
            "A",
            "B",
            "a",
            "a b",
            "a-b",
            "ab",
            "b",
            "z",
            "\u00e9",
            "\uffff",
            "\U0001f4e6",
        ]
        assert names == sorted(names)
        await opened.put({"books": [Book(n, author=n) for n in reversed(names)]})

        assert await opened.books() == names
        by_author = await opened.find(BOOKS, Selection(order_by="author", limit=99))
        assert keys_of(by_author) == names
        higher = where(BOOKS, id=above("a"))
        assert keys_of(await opened.find(BOOKS, Selection(higher, limit=99))) == names[5:]

    # -- search

    async def search(
        self, opened: Opened, text: str, limit: int = 50, offset: int = 0
    ) -> list[int]:
        """Give the numbers of pages that are found."""
        asked = Search(tuple(text.split()), limit=limit, offset=offset)
        return keys_of(await opened.views.search(PAGES, asked))

    @pytest.mark.parametrize(("text", "numbers"), SEARCHED)
    async def test_a_search_finds_the_rows_that_have_all_words(
        self, opened: Opened, text: str, numbers: set[int]
    ) -> None:
        """In any of the fields that are searched; words are never taken for syntax."""
        await opened.put(
            {"pages": WRITTEN, "things": [Thing(f"t{p.number}", p.words) for p in WRITTEN]}
        )

        assert set(await self.search(opened, text)) == numbers
        only = {p.number for p in WRITTEN if p.note is None}
        asked = Search(tuple(text.split()), where=where(PAGES, note=None), limit=50)
        found = keys_of(await opened.views.search(PAGES, asked))
        assert set(found) == numbers & only

    async def test_the_best_come_first_and_by_key_where_they_are_as_good(
        self, opened: Opened
    ) -> None:
        """Pages of a search follow each other in that order."""
        await opened.put({"pages": [*WRITTEN, *(Page(n, "same words") for n in (30, 10, 20))]})

        assert (await self.search(opened, "lantern"))[0] == -6
        assert await self.search(opened, "same words") == [10, 20, 30]
        whole = await self.search(opened, "lantern")
        pages = [await self.search(opened, "lantern", limit=3, offset=n) for n in (0, 3, 6)]
        assert [*pages[0], *pages[1]] == whole
        assert pages[2] == await self.search(opened, "lantern", limit=0) == []

    async def test_a_search_follows_every_change_of_its_rows(self, opened: Opened) -> None:
        """Words that were put, changed, taken away and put again, also in one write."""
        things = [Thing("t1", "red lamp"), Thing("t2", "lamp")]
        await opened.put({"pages": WRITTEN, "things": things})
        await opened.put(
            {"pages": [Page(1, "GREEN KETTLE", "iron"), Page(2, "BLUE LANTERN", "x", 1)]}
        )
        assert await self.search(opened, "kettle") == [1]
        assert set(await self.search(opened, "lantern")) == {2, 3, -6}
        assert await self.search(opened, "glass") == []
        await opened.write(Shelf, 2, 3, {"things": [Thing("t2", "dark")]}, gone={"pages": [3, -6]})

        assert await self.search(opened, "lantern") == [2]
        found = await opened.views.search(THINGS, Search(("lamp",), limit=9))
        assert found == things[:1]
        await opened.write(Shelf, 3, 4, {"pages": [Page(3, "lantern again")]})
        assert set(await self.search(opened, "lantern")) == {2, 3}

    async def test_a_search_in_a_syntax_that_is_none_is_refused(self, opened: Opened) -> None:
        """It is the caller's mistake, and no failure of the views."""
        await opened.put({"pages": WRITTEN})
        for syntax in ('"red', "(red"):
            with pytest.raises(InvalidInput):
                await opened.views.search(PAGES, Search((), syntax, limit=5))

        assert await self.search(opened, "glass") == [1]

    # -- what serves

    async def test_queries_read_the_rows_of_all_slices(self, opened: Opened) -> None:
        """Whose a row is shows nowhere."""
        views = await opened.open(SlicedShelf)
        table, things = SlicedShelf.books.definition, SlicedShelf.things.definition
        for slice_, rows in enumerate((SOME[::2], SOME[1::2])):
            named = [Thing(row.id, "lamp") for row in rows]
            await opened.write(part(SlicedShelf, 1, slice_), 0, 1, {"books": rows, "things": named})

        assert await opened.find(table) == SOME
        assert await views.get(table, "d") == SOME[3]
        assert await views.count(table, ()) == len(SOME)
        found = await views.search(things, Search(("lamp",), limit=9))
        assert keys_of(found) == list("abcdef")

    async def test_a_build_is_not_seen_before_it_serves(self, opened: Opened) -> None:
        """Its rows are written beside those that queries read, search and sql included."""
        await opened.put({"books": SOME[:1], "pages": WRITTEN[:1]})
        build = await opened.views.begin_build(Shelf.__definition__)
        await opened.write(
            part(Shelf, build.number), 0, 2, {"books": SOME[1:], "pages": WRITTEN[1:]}
        )

        assert await opened.books() == ["a"]
        assert await self.search(opened, "lantern") == [1]
        assert (await opened.views.sql("SELECT id FROM shelf_books", (), 9)).rows == [("a",)]

    async def test_tables_that_do_not_serve_as_they_are_declared_say_so(
        self, opened: Opened
    ) -> None:
        """ProjectionUnserved for a table that is not open here; nothing else is read instead."""
        with pytest.raises(ProjectionUnserved):
            await opened.views.get(SlicedShelf.books.definition, "a")
        with pytest.raises(ProjectionUnserved):
            await opened.find(SlicedShelf.books.definition)

    async def test_rows_of_the_same_tables_are_read_while_another_version_is_built(
        self, opened: Opened
    ) -> None:
        """Its tables can be read as they are declared, so they serve on."""
        await opened.put({"books": SOME})
        views = await self.reopened(opened, ShelfWithMore, rebuild="auto")

        assert views.serves("shelf")
        assert keys_of(await opened.find(ShelfWithMore.books.definition)) == list("abcdef")

    async def test_an_answer_has_so_many_bytes_and_is_never_cut(self, opened: Opened) -> None:
        """More is refused by UsageError, whichever way it is read."""
        views = await opened.open(Shelf, limits=Limits(query_bytes=100_000))
        await opened.put({"books": [Book(str(n), author="x" * 30_000) for n in range(9)]})

        assert len(await opened.find(BOOKS, Selection(limit=2))) == 2
        with pytest.raises(UsageError, match=r"Limits\.query_bytes"):
            await opened.find(BOOKS, Selection(limit=9))
        with pytest.raises(UsageError, match=r"Limits\.query_bytes"):
            await views.sql("SELECT author FROM shelf_books", (), 9)
