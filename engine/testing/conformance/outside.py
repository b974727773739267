"""Cases of a backend for other processes: its log and views read, copied, asked, and built beside.

Rules: the engine's side stays open meanwhile, as it does in the world. Whoever reads sees what was
committed before, takes no lock, and makes nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ...errors import DefinitionError, StoreFailed, StoreRefused, UsageError
from ...limits import Limits
from ...model.projection import Projection
from ...model.stored import EventData, EventType
from ...outside.copying import transfer
from ...runtime.ports import Ports
from ...stores.contract.backend import Backend, Outside
from ...stores.contract.claims import TakeClaim
from ...stores.contract.log import AppendRequest, Batch, Head, StreamRead, Write
from ...stores.contract.outside import NoViewsYet, ViewsReader
from ...stores.contract.tags import TagForm, TagIndex, TagRead
from ...stores.contract.views import Search, Selection
from .given_log import ALL, event
from .given_views import (
    ALL_ROWS,
    BOOKS,
    LOGGER,
    PAGES,
    BackendCases,
    Book,
    Opened,
    Page,
    Shelf,
    ShelfWithMore,
    SlicedShelf,
    Tally,
    WiderShelf,
    a_decision,
    keys_of,
    part,
)

__all__ = ["OutsideCases", "OwnCases"]

SHELF = Shelf.__definition__


def is_empty(folder: Path) -> bool:
    """Tell whether nothing was made in a folder."""
    return not list(folder.iterdir())


def outside_of(opened: Opened) -> Outside:
    """Give what other processes have of a backend."""
    return opened.backend.outside(Ports())


def reader_of(outside: Outside, *projections: type[Projection]) -> ViewsReader:
    """Give the views of some projections to be read, not open yet."""
    return outside.views_reader([p.__definition__ for p in projections], Limits())


class OwnCases(BackendCases):
    """A log that its process keeps to itself has nothing for others."""

    async def test_there_is_nothing_outside(self, opened: Opened) -> None:
        """Whoever asks is told by DefinitionError, before and after it was opened."""
        for backend in (opened.backend, self.same_backend(opened.backend)):
            with pytest.raises(DefinitionError):
                backend.outside(Ports())

    async def test_nobody_else_commits(self, opened: Opened) -> None:
        """So nobody need look for requests."""
        assert await opened.views.change_count() is None


class OutsideCases(BackendCases):
    """Readers, a shell, a copy, and a build beside."""

    @abstractmethod
    def copy_to(self, folder: Path) -> Backend:
        """Give a place where nothing is, to which a log is copied."""

    # -- the log

    async def test_the_log_is_read_beside_its_engine(self, opened: Opened) -> None:
        """All that a store gives, as it is now."""
        log = opened.log
        with outside_of(opened).log_reader() as reader:
            assert reader.name == opened.backend.name
            assert reader.log_id == log.log_id
            assert reader.head() == await log.head()
            assert list(reader.event_types()) == list(await log.event_types())
            assert (reader.version_of("shelf:1"), reader.version_of("shelf:2")) == (10, 0)
            assert list(reader.read_feed(3, events_max=4, bytes_max=ALL)) == list(
                await log.read_feed(3, events_max=4, bytes_max=ALL)
            )
            reads = [StreamRead("shelf:2"), StreamRead("shelf:1", 8)]
            pages = reader.read_streams(reads, events_max=9, bytes_max=ALL)
            theirs = await log.read_streams(reads, events_max=9, bytes_max=ALL)
            assert [(p.stream, list(p.events), p.more) for p in pages] == [
                (p.stream, list(p.events), p.more) for p in theirs
            ]
            assert reader.read_claims(claims_max=9) == []
            more = AppendRequest(
                [Write("shelf:2", 0, [event(1)])], [TakeClaim("x", "1", "shelf:2")]
            )
            await log.append(Batch([more], 9))
            assert reader.read_claims(claims_max=9) == await log.read_claims(claims_max=9) != []
            assert reader.read_claims(("x", "1"), claims_max=9) == []
            assert reader.head() == await log.head() != Head()
            assert reader.version_of("shelf:2") == 1
            assert len(reader.event_types()) == 2
            (last,) = reader.read_feed(10, events_max=4, bytes_max=ALL)
            assert last.stream == "shelf:2"

    async def test_tags_are_read_beside_the_engine(self, opened: Opened) -> None:
        """The forms of the index, its rows in pages, and the events that a query selects."""
        log, kind = opened.log, EventType("tagged", 1, "00ee")
        form = TagForm("tagged", 1, (("a", "a"),), ("x:y",))
        with outside_of(opened).log_reader() as reader:
            assert isinstance(reader, TagIndex)
            assert (list(reader.tag_forms()), list(reader.read_tags(rows_max=9))) == ([], [])
            await log.index_tags([form])
            events = [
                EventData(kind, b'{"a":"%d"}' % (n % 2), tags=(f"a:{n % 2}", "x:y"))
                for n in range(4)
            ]
            await log.append(Batch([AppendRequest([Write("shelf:9", 0, events)])], 9))

            assert list(reader.tag_forms()) == [form]
            rows = list(reader.read_tags(rows_max=3))
            rows += reader.read_tags(rows[-1][:2], rows_max=9)
            assert [(tag, place - 10) for tag, place, _, _ in rows] == [
                *(("a:0", 1), ("a:0", 3), ("a:1", 2), ("a:1", 4)),
                *(("x:y", number) for number in (1, 2, 3, 4)),
            ]
            assert {row[2:] for row in rows} == {("tagged", 1)}
            reads = [TagRead(("x:y", "a:1"), ("tagged",)), TagRead(("x:y",), ("tagged",), 12)]
            pages = reader.read_tagged(reads, events_max=9, bytes_max=ALL)
            theirs = await log.read_tagged(reads, events_max=9, bytes_max=ALL)
            assert [list(page.events) for page in pages] == [list(page.events) for page in theirs]
            assert [len(page.events) for page in pages] == [2, 2]

    async def test_the_changes_of_a_log_are_counted(self, opened: Opened) -> None:
        """The number is another one whenever something was appended, and else the same."""
        with outside_of(opened).log_reader() as reader:
            before = reader.change_count()
            assert reader.change_count() == before
            await opened.log.append(Batch([AppendRequest([Write("b:1", 0, [event(1)])])], 9))
            after = reader.change_count()
            assert after != before
            assert reader.change_count() == after

    async def test_a_log_that_nobody_made_is_refused_and_not_made(self, tmp_path: Path) -> None:
        """Whoever looks leaves nothing there."""
        folder = tmp_path / "none"
        folder.mkdir()
        outside = self.new_backend(folder).outside(Ports())
        for _ in range(2):
            with pytest.raises(StoreRefused):
                outside.log_reader().open()
            with pytest.raises(StoreRefused), outside.operations():
                pass
        with pytest.raises(StoreRefused):
            transfer(outside.copy_source(), self.copy_to(folder).outside(Ports()).copy_target())

        assert outside.writer() is None
        assert is_empty(folder)

    async def test_a_reader_that_is_closed_says_so(self, opened: Opened) -> None:
        """Closing twice does nothing."""
        reader = outside_of(opened).log_reader()
        reader.open()
        reader.close()
        reader.close()
        calls: list[Callable[[], object]] = [
            reader.head,
            reader.event_types,
            reader.change_count,
            lambda: reader.read_feed(0, events_max=1, bytes_max=1),
        ]
        for call in calls:
            with pytest.raises(StoreFailed):
                call()

    async def test_the_log_is_read_without_its_engine(self, opened: Opened) -> None:
        """And whoever wrote it is told only while it does."""
        assert outside_of(opened).writer() is not None
        head = await opened.log.head()
        await opened.close()

        with outside_of(opened).log_reader() as reader:
            assert reader.head() == head
        assert outside_of(opened).writer() is None

    # -- the views

    async def test_views_need_not_be_there_yet(self, tmp_path: Path) -> None:
        """NoViewsYet until an engine has made them; then they are read."""
        backend = self.new_backend(tmp_path)
        reader = reader_of(backend.outside(Ports()), Shelf)
        await reader.open()
        for call in (reader.look(), reader.positions(), reader.get(BOOKS, "a")):
            with pytest.raises(NoViewsYet):
                await call
        assert is_empty(tmp_path)
        log, views = backend.log(), backend.views(LOGGER)
        await log.open(Ports())
        await views.open(Ports(), Limits(), log, [Shelf])

        assert await reader.positions() == {"shelf": 0}
        await reader.close()
        await views.close()
        await log.close()

    async def test_views_are_read_beside_their_engine(self, opened: Opened) -> None:
        """In every way, as the engine's own queries are, and how far they are."""
        reader = reader_of(outside_of(opened), Shelf)
        await reader.open()
        rows = [Book("a", 5, 0.5, "x\u00e9", b"\0\xff", tags=["t"]), Book("b", 1)]
        await opened.put({"books": rows, "pages": [Page(1, "red lamp")]})

        assert await reader.positions() == {"shelf": 1}
        assert reader.serves("shelf")
        assert await reader.find(BOOKS, ALL_ROWS) == rows
        by_price = Selection(order_by="price", limit=1)
        assert keys_of(await reader.find(BOOKS, by_price)) == ["b"]
        assert await reader.get(BOOKS, "a") == rows[0]
        assert await reader.count(BOOKS, ()) == 2
        assert keys_of(await reader.search(PAGES, Search(("lamp",), limit=5))) == [1]
        found = await reader.sql("SELECT id FROM shelf_books WHERE price = ?", (5,), 9)
        assert found.rows == [("a",)]
        assert found.tables == {"shelf_books"}
        for statement in (
            "DELETE FROM shelf_books",
            "SELECT nothing",
            "CREATE TABLE a (b INTEGER)",
        ):
            with pytest.raises(UsageError):
                await reader.sql(statement, (), 9)
        await reader.close()

    async def test_a_look_tells_whether_anything_was_committed(self, opened: Opened) -> None:
        """Rows, decisions and builds; two looks at the same state are alike."""
        reader = reader_of(outside_of(opened), Shelf)
        await reader.open()
        seen = [await reader.look()]
        assert await reader.look() == seen[0]
        for change in (
            lambda: opened.put({"books": [Book("a")]}),
            lambda: opened.views.decide(a_decision("pause")),
            lambda: opened.views.begin_build(SHELF),
        ):
            await change()
            look = await reader.look()
            assert look not in seen
            assert await reader.look() == look
            seen.append(look)
        await reader.close()

    async def test_a_reader_sees_one_state_for_one_answer(self, opened: Opened) -> None:
        """While the engine writes, and keeps it waiting for nothing."""
        reader = reader_of(outside_of(opened), Shelf)
        await reader.open()
        await opened.put({"books": [Book("a")]})
        state = reader.state()
        assert await state.count(BOOKS, ()) == 1
        await opened.put({"books": [Book("b")]})

        assert await state.count(BOOKS, ()) == 1
        assert not state.is_torn
        assert await reader.count(BOOKS, ()) == 2
        state.end()
        with pytest.raises(UsageError):
            await state.count(BOOKS, ())
        await reader.close()

    async def test_a_reader_follows_a_swap(self, opened: Opened) -> None:
        """It reads the build that serves, as soon as it does."""
        reader = reader_of(outside_of(opened), Shelf)
        await reader.open()
        await opened.put({"books": [Book("old")]})
        build = await opened.views.begin_build(SHELF)
        await opened.write(part(Shelf, build.number), 0, 3, {"books": [Book("new")]})
        assert keys_of(await reader.find(BOOKS, ALL_ROWS)) == ["old"]
        await opened.views.swap(SHELF, build.number, a_decision("swap"))

        assert keys_of(await reader.find(BOOKS, ALL_ROWS)) == ["new"]
        assert await reader.positions() == {"shelf": 3}
        await opened.views.drop("shelf", 1)
        assert keys_of(await reader.find(BOOKS, ALL_ROWS)) == ["new"]
        await reader.close()

    @pytest.mark.parametrize(
        ("declared", "why"),
        [
            (WiderShelf, "declared otherwise"),
            (ShelfWithMore, "version 2 is declared here"),
            (SlicedShelf, "no views of projection 'sliced'"),
        ],
    )
    async def test_views_of_another_definition_are_refused(
        self, opened: Opened, declared: type[Projection], why: str
    ) -> None:
        """Nobody reads them as what they are not."""
        reader = reader_of(outside_of(opened), declared)
        await reader.open()
        with pytest.raises(StoreRefused, match=why):
            await reader.positions()
        with pytest.raises(StoreRefused, match=why):
            await reader.find(declared.__definition__.tables["books"], ALL_ROWS)
        await reader.close()

    async def test_a_reader_of_views_that_is_closed_says_so(self, opened: Opened) -> None:
        """Closing twice does nothing."""
        reader = reader_of(outside_of(opened), Shelf)
        await reader.open()
        await reader.close()
        await reader.close()

        with pytest.raises(StoreFailed):
            await reader.look()

    # -- a shell

    def asked(self, opened: Opened, statement: str, *parameters: str, rows_max: int = 9) -> Any:
        """Ask as people do."""
        shell = outside_of(opened).shell()
        return shell.ask(statement, parameters, rows_max=rows_max, seconds=30)

    async def test_people_ask_for_rows_by_sql(self, opened: Opened) -> None:
        """The first ones, and whether there are more; of the log and of the views."""
        await opened.put({"books": [Book(f"b{n}", n) for n in range(3)]})
        some = self.asked(opened, "SELECT id FROM shelf_books ORDER BY id", rows_max=2)
        assert (list(some.names), [list(r) for r in some.rows], some.more) == (
            ["id"],
            [["b0"], ["b1"]],
            True,
        )
        one = self.asked(opened, "SELECT price AS p FROM shelf_books WHERE id = ?", "b2")
        assert ([list(r) for r in one.rows], one.more) == ([[2]], False)
        of_log = self.asked(opened, "SELECT max(position) AS n FROM log")
        assert [list(r) for r in of_log.rows] == [[10]]

        tables = outside_of(opened).shell().tables(rows_max=1_000, seconds=30)
        assert list(tables.names) == ["schema", "table", "columns"]
        names = {row[1] for row in tables.rows}
        assert {"log", "shelf_books", "shelf_pages"} <= names

    @pytest.mark.parametrize(
        "statement",
        ["DELETE FROM shelf_books", "SELECT FROM", "SELECT 1; SELECT 2", "SELECT nothing FROM log"],
    )
    async def test_people_only_read(self, opened: Opened, statement: str) -> None:
        """What changes anything, or cannot be run, is refused by UsageError."""
        await opened.put({"books": [Book("a")]})
        with pytest.raises(UsageError):
            self.asked(opened, statement)

        assert await opened.books() == ["a"]

    # -- a copy

    async def test_a_log_is_copied_beside_its_engine(self, opened: Opened, tmp_path: Path) -> None:
        """Each event as it is, with what people decided; nothing is written over."""
        await opened.put({"books": [Book("a")]})
        await opened.views.decide(a_decision("pause"))
        backend = self.copy_to(tmp_path)
        source, target = outside_of(opened).copy_source(), backend.outside(Ports()).copy_target()
        copied = transfer(source, target)
        assert copied.position == (await opened.log.head()).position
        assert copied.in_use
        with pytest.raises(StoreRefused, match="writes over nothing"):
            transfer(source, target)

        log = backend.log()
        await log.open(Ports())
        other = Opened(backend, log, Ports())
        assert log.log_id == opened.log.log_id
        assert await log.head() == await opened.log.head()
        both = [await each.read_feed(0, events_max=99, bytes_max=ALL) for each in (log, opened.log)]
        assert list(both[0]) == list(both[1]) != []
        await other.open(Shelf)
        assert await other.books() == []
        assert await other.views.is_paused("shelf")
        await other.put({"books": [Book("b")]})
        await other.close()
        assert await opened.books() == ["a"]

    # -- a build beside

    async def test_a_build_is_made_beside_the_engine_by_another_process(
        self, opened: Opened
    ) -> None:
        """It is named by its token; the engine's tables serve on, and it may not swap it in."""
        await opened.put({"books": [Book("old")]})
        beside = outside_of(opened).views_beside("token-1", LOGGER)
        await beside.open(Ports(), Limits(), opened.log, [ShelfWithMore])

        for views in (beside, opened.views):
            assert [(b.number, b.state, b.builder) for b in await views.builds("shelf")] == [
                (1, "serving", None),
                (2, "building", "token-1"),
            ]
        new = part(ShelfWithMore, 2)
        assert await beside.write(opened.changes(new, 0, 2, {"books": [Book("new")]}))
        with pytest.raises(StoreRefused, match="built by another process"):
            await opened.views.swap(SHELF, 2, a_decision("swap"))
        await opened.put({"books": [Book("older")]})
        assert await opened.books() == ["old", "older"]
        await beside.swap(ShelfWithMore.__definition__, 2, a_decision("swap", version=2))

        assert [(b.number, b.state, b.builder) for b in await beside.builds("shelf")] == [
            (1, "former", None),
            (2, "serving", None),
        ]
        await beside.close()
        with pytest.raises(StoreRefused):
            await opened.put({"books": [Book("late")]})
        await opened.open(ShelfWithMore)
        assert await opened.books() == ["new"]

    async def test_a_build_needs_tables_of_an_engine_to_be_made_beside(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        """Neither where there are no views, nor of what nobody serves or what serves already."""
        folder = tmp_path / "none"
        folder.mkdir()
        none = self.new_backend(folder).outside(Ports()).views_beside("token", LOGGER)
        with pytest.raises(StoreRefused):
            await none.open(Ports(), Limits(), opened.log, [Shelf])
        for projection in (Tally, Shelf, WiderShelf):
            beside = outside_of(opened).views_beside("token", LOGGER)
            with pytest.raises(StoreRefused):
                await beside.open(Ports(), Limits(), opened.log, [projection])

        assert [b.number for b in await opened.views.builds("shelf")] == [1]
