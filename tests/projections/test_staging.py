"""Folding in memory: all of an event or nothing, and the same rows whatever was in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from engine.errors import Damaged, UsageError
from engine.limits import Limits
from engine.model.codec import EventRegistry
from engine.model.messages import Event
from engine.model.projection import Projection, Table, projects
from engine.model.rows import Flat, Row, Scalar
from engine.projections.targets.fold import Fold
from engine.projections.targets.staging import weight_of
from tests.support.shelf import (
    EVENTS,
    Book,
    Bought,
    Copy,
    Lent,
    Library,
    Log,
    Lost,
    Swept,
    lent_keys,
)


class Kept:
    """Rows that a fold fetches and a test writes back."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Scalar, Flat]] = {}
        self.asked: list[dict[str, list[str]]] = []

    async def fetch(self, wanted: Mapping[str, Sequence[Scalar]]) -> Mapping[str, Sequence[Flat]]:
        self.asked.append({name: sorted(map(str, keys)) for name, keys in wanted.items()})
        return {
            name: [self.rows.get(name, {})[k] for k in keys if k in self.rows.get(name, {})]
            for name, keys in wanted.items()
        }

    def write(self, fold: Fold) -> None:
        for name, rows in fold.staging.changes().items():
            for key, flat in rows.items():
                table = self.rows.setdefault(name, {})
                if flat is None:
                    table.pop(key, None)
                else:
                    table[key] = flat
        fold.staging.written()


def fold_of(
    projection: type[Projection], kept: Kept, events: Sequence[type[Event]] = EVENTS, **limits: int
) -> Fold:
    registry = EventRegistry(events)
    return Fold(projection.__definition__, registry, Limits(**limits), kept.fetch)


async def fold_and_write(fold: Fold, kept: Kept, log: Log) -> None:
    done = 0
    while done < len(log.events):
        folded = await fold.fold(log.events[done:])
        assert folded.poison is None
        kept.write(fold)
        done += folded.count


def library_log() -> Log:
    log = Log()
    for n in range(40):
        book = f"b{n % 7}"
        log.write(Bought(book, n), Lent(book, f"r{n % 3}"), Swept(), Lent(f"b{n % 5}", "ann"))
        if n % 9 == 0:
            log.write(Lost(book))
    return log


async def test_rows_are_the_same_whatever_is_in_memory() -> None:
    log = library_log()
    results: list[dict[str, dict[Scalar, Flat]]] = []
    for rows_max in (1, 2, 3, 10, 1_000):
        kept = Kept()
        await fold_and_write(fold_of(Library, kept, projector_rows=rows_max), kept, log)
        results.append(kept.rows)

    assert all(rows == results[0] for rows in results)


async def test_rows_are_the_same_however_many_bytes_of_them_are_in_memory() -> None:
    log = library_log()
    results: list[dict[str, dict[Scalar, Flat]]] = []
    for bytes_max in (1, 700, 2_000, 64 * 1024 * 1024):
        kept = Kept()
        await fold_and_write(fold_of(Library, kept, projector_bytes=bytes_max), kept, log)
        results.append(kept.rows)

    assert all(rows == results[0] for rows in results)


class Page(Row, key="name"):
    name: str
    text: str


class Pages(Projection, name="pages"):
    """A text of a thousand characters for each book, and longer with each loan."""

    pages: Table[Page]

    @projects
    def bought(self, event: Bought) -> None:
        self.pages.put(Page(event.book, "x" * 1_000))

    @projects(keys=lambda event, meta: {"pages": [event.book]})
    def lent(self, event: Lent) -> None:
        page = self.pages.get(event.book)
        assert page is not None
        self.pages.put(Page(event.book, page.text + event.to))


def weight_in_memory(fold: Fold) -> int:
    tables = fold.staging.tables.values()
    rows = [row for table in tables for part in (table.young, table.old) for row in part.values()]
    return sum(map(weight_of, rows))


async def test_a_batch_and_the_rows_in_memory_are_bounded_by_what_they_weigh() -> None:
    kept, log = Kept(), Log()
    log.write(*[Bought(f"b{n}", n) for n in range(500)])
    log.write(*[Lent(f"b{n}", "ann") for n in range(500)])
    fold = fold_of(Pages, kept, projector_bytes=64_000)

    done = heaviest = 0
    while done < len(log.events):
        folded = await fold.fold(log.events[done:])
        changed = sum(map(weight_of, fold.staging.changes()["pages"].values()))
        assert changed < 64_000 // 8 + 2_000
        kept.write(fold)
        heaviest = max(heaviest, weight_in_memory(fold))
        done += folded.count

    assert {flat[1] for flat in kept.rows["pages"].values()} == {"x" * 1_000 + "ann"}
    assert heaviest < 100_000
    assert max(len(asked.get("pages", ())) for asked in kept.asked) <= 64


async def test_an_event_that_weighs_more_than_a_batch_may_is_folded_alone() -> None:
    kept, log = Kept(), Log()
    log.write(Bought("a", 1), Bought("b", 2), Lent("a", "ann"))
    fold = fold_of(Pages, kept, projector_bytes=1)

    for number in range(3):
        assert (await fold.fold(log.events[number:])).count == 1
        kept.write(fold)

    assert kept.rows["pages"]["a"][1] == "x" * 1_000 + "ann"


async def test_missing_rows_of_later_events_are_fetched_together() -> None:
    kept, log = Kept(), Log()
    log.write(*[Lent(f"b{n}", "ann") for n in range(50)])
    fold = fold_of(Library, kept)

    await fold.fold(log.events)

    assert kept.asked == [{"books": sorted(f"b{n}" for n in range(50))}]


async def test_keys_are_fetched_before_anything_is_folded() -> None:
    calls: list[str] = []

    class Counted(Projection, name="counted"):
        books: Table[Book]
        readers: Table[Book]

        @projects(keys=lent_keys)
        def lent(self, event: Lent) -> None:
            calls.append(event.book)
            self.books.get(event.book)
            self.readers.get(event.to)

    kept, log = Kept(), Log()
    log.write(Lent("b1", "ann"), Lent("b2", "bob"))

    await fold_of(Counted, kept).fold(log.events)

    assert kept.asked == [{"books": ["b1", "b2"], "readers": ["ann", "bob"]}]
    assert calls == ["b1", "b2"]


async def test_keys_that_name_no_table_stop_at_their_event() -> None:
    class Lost2(Projection, name="lost-keys"):
        books: Table[Book]

        @projects
        def bought(self, event: Bought) -> None:
            self.books.put(Book(event.book, 1))

        @projects(keys=lambda event, meta: {"shelves": ["x"]})
        def lent(self, event: Lent) -> None: ...

    log = Log()
    log.write(Bought("b"), Lent("b", "ann"))

    folded = await fold_of(Lost2, Kept()).fold(log.events)

    assert folded.count == 1
    assert isinstance(folded.poison, UsageError)
    assert "'shelves', which is no table of projection lost-keys" in str(folded.poison)


async def test_an_event_that_fails_leaves_no_trace() -> None:
    class Failing(Projection, name="failing"):
        books: Table[Book]

        @projects
        def bought(self, event: Bought) -> None:
            self.books.put(Book(event.book, event.price))

        @projects
        def lent(self, event: Lent) -> None:
            self.books.update("b1", price=99)
            self.books.delete("b2")
            self.books.put(Book("b3", 1))
            self.books.put(Book("b3", 2))
            raise ArithmeticError

    kept, log = Kept(), Log()
    log.write(Bought("b1", 1), Bought("b2", 2), Lent("b1", "ann"), Bought("b4"))
    fold = fold_of(Failing, kept)

    folded = await fold.fold(log.events)
    kept.write(fold)

    assert folded.count == 2
    assert isinstance(folded.poison, ArithmeticError)
    assert {key: flat[1] for key, flat in kept.rows["books"].items()} == {"b1": 1, "b2": 2}


async def test_a_missing_row_is_not_lost_in_a_handler_that_catches_everything() -> None:
    class Greedy(Projection, name="greedy"):
        books: Table[Book]

        @projects
        def lent(self, event: Lent) -> None:
            try:
                book = self.books.get(event.book)
            except BaseException:
                book = None
            self.books.put(Book(event.book, 0, lent=(book.lent if book else 0) + 1))

    kept, log = Kept(), Log()
    kept.rows["books"] = {"b1": Book.__shape__.flatten(Book("b1", 0, lent=5))}
    log.write(Lent("b1", "ann"))
    fold = fold_of(Greedy, kept)

    await fold.fold(log.events)
    kept.write(fold)

    assert kept.rows["books"]["b1"][3] == 6


async def test_rows_and_events_share_nothing() -> None:
    class Sharing(Projection, name="sharing"):
        books: Table[Book]

        @projects
        def bought(self, event: Bought) -> None:
            self.books.put(Book(event.book, 0, notes=event.notes))
            event.notes["spoilt"] = Copy("x", 1)

        @projects
        def lent(self, event: Lent) -> None:
            book = self.books.get(event.book)
            assert book is not None
            book.notes["spoilt too"] = Copy("x", 1)

    kept, log = Kept(), Log()
    log.write(Bought("b1", 0, {"n": Copy("s", 1)}), Lent("b1", "ann"))
    fold = fold_of(Sharing, kept)

    await fold.fold(log.events)

    assert fold.staging.tables["books"].young["b1"] == Book.__shape__.flatten(
        Book("b1", 0, notes={"n": Copy("s", 1)})
    )


class Tables(Projection, name="tables"):
    """Does to its table what a test says."""

    books: Table[Book]

    @projects
    def lent(self, event: Lent) -> None:
        _STEPS[event.to](self.books)


_STEPS: dict[str, Any] = {
    "update": lambda books: books.update("none", price=1),
    "unknown-field": lambda books: books.update("b1", colour="red"),
    "key-change": lambda books: books.update("b1", id="b2"),
    "wrong-row": lambda books: books.put("b1"),
    "wrong-value": lambda books: books.put(Book("b1", "5")),  # type: ignore[arg-type]
    "wrong-key": lambda books: books.get(5),
}


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        ("update", KeyError, "library|tables_books has no row 'none' to update"),
        ("unknown-field", TypeError, "colour"),
        ("key-change", ValueError, "is the key of tables_books and stays"),
        ("wrong-row", TypeError, "tables_books holds Book, not str"),
        ("wrong-value", TypeError, "Book.price is an int, not str"),
        ("wrong-key", TypeError, "Book.id is a str, not int"),
    ],
)
async def test_wrong_use_of_a_table_is_an_error_of_that_event(
    step: str, error: type[Exception], message: str
) -> None:
    kept, log = Kept(), Log()
    kept.rows["books"] = {"b1": Book.__shape__.flatten(Book("b1", 0))}
    log.write(Lent("b1", step))

    folded = await fold_of(Tables, kept).fold(log.events)

    assert folded.count == 0
    with pytest.raises(error, match=message):
        raise folded.poison or AssertionError


async def test_a_version_that_the_projection_does_not_handle_is_poison() -> None:
    class Bought2(Event, name="bought", version=2):
        book: str
        pounds: int

    log = Log()
    log.write(Bought("b1"))
    log.write(Bought2("b2", 5))

    known = await fold_of(Library, Kept(), (*EVENTS, Bought2)).fold(log.events)
    unknown = await fold_of(Library, Kept()).fold(log.events)

    for folded in (known, unknown):
        assert folded.count == 1
        assert isinstance(folded.poison, Damaged)
        assert folded.poison.position == 2
    assert "handles bought, but not its version 2" in str(known.poison)
    assert "bought version 2 of shelf:1 is not declared" in str(unknown.poison)


async def test_a_batch_is_cut_where_it_changes_more_rows_than_memory_holds() -> None:
    kept, log = Kept(), Log()
    log.write(*[Bought(f"b{n}") for n in range(10)])
    fold = fold_of(Library, kept, projector_rows=4)

    counts = []
    done = 0
    while done < 10:
        folded = await fold.fold(log.events[done:])
        kept.write(fold)
        done += folded.count
        counts.append(folded.count)

    assert counts == [4, 4, 2]
    assert fold.staging.rows <= 8
    assert len(kept.rows["books"]) == 10


async def test_events_that_it_does_not_handle_are_never_decoded() -> None:
    log = Log()
    log.write(Swept(), Swept())
    log.damage(1)

    folded = await fold_of(Library, Kept(), (Bought,)).fold(log.events)

    assert folded.count == 2
    assert folded.poison is None
