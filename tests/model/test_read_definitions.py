"""Projections are read when their class is made, and refused there."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from engine import Archive, Onlooker, Sink, answers
from engine.engine import Engine
from engine.errors import DefinitionError, UsageError
from engine.model.messages import Event, Meta
from engine.model.projection import Projection, Row, Table, projects
from engine.stores.contract.builds import definition_hash
from tests.model.notes import Began, Hall, Note, Notes
from tests.support.everything import Inner
from tests.support.shelf import Book, Bought, Lent, Library


def filled(namespace: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(namespace)


# -- projections ------------------------------------------------------------------------------


def test_local_classes_are_resolved() -> None:
    class Local(Event, name="local"):
        x: int

    class Nested(msgspec.Struct, frozen=True):
        y: int

    class LocalRow(Row, key="x"):
        x: int
        nested: Nested | None = None

    class Locals(Projection, name="locals"):
        rows: Table[LocalRow]

        @projects
        def local(self, event: Local, meta: Meta) -> None: ...

    definition = Locals.__definition__
    assert definition.event_classes == (Local,)
    assert definition.tables["rows"].name == "locals_rows"
    assert definition.handlers[Local].takes_meta


def test_hyphens_of_the_name_are_underscores_in_sql() -> None:
    class Best(Projection, name="best-sellers", version=3):
        books: Table[Book]

        @projects
        def bought(self, event: Bought) -> None: ...

    assert Best.books.definition.name == "best_sellers_books"
    assert Best.__definition__.version == 3


def refused_projection(
    message: str, body: dict[str, Any], annotations: dict[str, Any], **options: Any
) -> None:
    namespace = {**body, "__annotations__": annotations, "__module__": __name__}
    with pytest.raises(DefinitionError, match=message):
        types.new_class("Refused", (Projection,), {"name": "refused", **options}, filled(namespace))


@projects
def good(self: Any, event: Bought) -> None: ...


@projects
def same(self: Any, event: Bought) -> None: ...


@projects
def not_an_event(self: Any, event: int) -> None: ...


@projects
def any_event(self: Any, event: Event) -> None: ...


@projects
def no_event(self: Any) -> None: ...


@projects
def too_much(self: Any, event: Bought, meta: Meta, more: int) -> None: ...


@projects
def wrong_meta(self: Any, event: Bought, meta: dict[str, str]) -> None: ...


@projects
def returning(self: Any, event: Bought) -> int:
    return 1


@projects
async def waiting(self: Any, event: Bought) -> None: ...


@projects
def yielding(self: Any, event: Bought) -> Iterator[None]:
    yield


BOOKS = {"books": Table[Book]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": None}, r'Write `class Refused\(Projection, name="...", version=1\)`'),
        ({"name": "Not Good"}, "a stored name is lower-case"),
        ({"version": 0}, "versions count from 1"),
        ({"version": True}, "versions count from 1"),
        ({"name": "sqlite"}, "a name that is taken"),
    ],
)
def test_names_and_versions_are_checked(options: dict[str, Any], message: str) -> None:
    refused_projection(message, {"good": good}, BOOKS, **options)


@pytest.mark.parametrize(
    ("handlers", "message"),
    [
        ([], "handles no event: mark a method with @projects"),
        ([good, same], "second handler of Bought"),
        ([not_an_event], "must take one event after self"),
        ([any_event], "must take one event after self"),
        ([no_event], "must take one event after self"),
        ([too_much], "must take one event after self"),
        ([wrong_meta], "must take one event after self"),
        ([returning], "changes tables and returns None"),
        ([waiting], "without waiting"),
        ([yielding], "without waiting"),
    ],
)
def test_handlers_are_checked(handlers: list[Any], message: str) -> None:
    refused_projection(message, {h.__name__: h for h in handlers}, BOOKS)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({}, "has no table"),
        ({"books": Book}, r"write `Table\[Book\]`"),
        ({"books": Table}, r"write `Table\[SomeRow\]`"),
        ({"books": Table[int]}, "which is no Row"),  # type: ignore[type-var]
        ({"books": Table[Book], "Books": Table[Book]}, "are both the SQL table"),
    ],
)
def test_tables_are_checked(annotations: dict[str, Any], message: str) -> None:
    refused_projection(message, {"good": good}, annotations)


def test_a_projection_keeps_nothing_outside_its_tables() -> None:
    refused_projection("drop it", {"good": good, "__init__": lambda self: None}, BOOKS)
    with pytest.raises(UsageError, match="keeps everything in its tables"):
        Library().count = 5


def test_tables_are_changed_by_handlers_only() -> None:
    with pytest.raises(UsageError, match=r"library_books is changed by its projection's handlers"):
        Library.books.put(Book("b", 1))


def test_two_projections_with_one_name_or_one_sql_table_are_refused() -> None:
    class Other(Projection, name="library"):
        other: Table[Book]

        @projects
        def bought(self, event: Bought) -> None: ...

    class ByDay(Projection, name="by-day"):
        books: Table[Book]

        @projects
        def bought(self, event: Bought) -> None: ...

    class By(Projection, name="by"):
        day_books: Table[Book]

        @projects
        def bought(self, event: Bought) -> None: ...

    with pytest.raises(DefinitionError, match="are both projection 'library'"):
        Engine([], projections=[Library, Other])
    with pytest.raises(DefinitionError, match="both have the SQL table by_day_books"):
        Engine([], projections=[ByDay, By])


def row_of(price: Any, **options: Any) -> type[Row]:
    namespace = {"__annotations__": {"id": str, "price": price}, "__module__": __name__}
    return types.new_class("Changing", (Row,), {"key": "id", **options}, filled(namespace))


def hash_of(row: type[Row]) -> str:
    namespace = {
        "__annotations__": {"rows": Table[row]},  # type: ignore[valid-type]
        "__module__": __name__,
        "good": good,
    }
    cls: Any = types.new_class("Hashed", (Projection,), {"name": "hashed"}, filled(namespace))
    return definition_hash(cls.__definition__)


def test_the_definition_hash_changes_with_whatever_the_tables_are_made_of() -> None:
    other = msgspec.defstruct("Inner", [("name", int)])
    rows: list[type[Row]] = [
        row_of(int),
        row_of(str),
        row_of(int | None),
        row_of(Inner),
        row_of(other),
        row_of(int, index=["price"]),
        row_of(str, search=["price"]),
        row_of(str, search=["price", "id"]),
        Book,
    ]
    hashes = [hash_of(row) for row in rows]

    assert len(set(hashes)) == len(rows)
    assert hash_of(row_of(int)) == hashes[0]


def test_the_definition_hash_of_what_older_releases_made_stays() -> None:
    # Views of theirs would be refused otherwise.
    assert definition_hash(Library.__definition__) == "9098f26822715ac8"


def test_keys_are_given_with_the_decorator() -> None:
    def lent_keys(event: Any, meta: Meta) -> dict[str, list[str]]:
        return {"books": [event.book]}

    class Fetching(Projection, name="fetching"):
        books: Table[Book]

        @projects(keys=lent_keys)
        def lent(self, event: Lent) -> None: ...

    assert Fetching.__definition__.handlers[Lent].keys is lent_keys


# -- what is handed over as a projection ----------------------------------------------------------


@pytest.mark.parametrize(
    "given", [Hall, Began, Note, Notes(), "notes", None, Projection, Sink, len]
)
def test_what_is_no_projection_is_named(given: Any) -> None:
    for make in (
        lambda: Engine([Hall], projections=[given]),
        lambda: Onlooker(projections=[given], answers=[], store="sqlite:x.db"),
        lambda: Archive([Hall], projections=[given], store="sqlite:x.db"),
        lambda: answers(projections=[given]),
    ):
        with pytest.raises(DefinitionError, match="`projections` takes a list of classes") as told:
            make()
        assert repr(given)[:50] in str(told.value)


def test_a_list_of_projections_is_a_list() -> None:
    with pytest.raises(DefinitionError, match=r"write \[Notes\]"):
        Engine([Hall], projections=Notes)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="names Notes twice"):
        Engine([Hall], projections=[Notes, Notes])
    with pytest.raises(DefinitionError, match="and .*Notes.* is none"):
        Engine([Hall, Notes])  # type: ignore[list-item]


@pytest.mark.parametrize("rebuild", ["notes", "Auto", "", True, None, ["notes"], Notes, {}])
def test_rebuild_is_one_of_two_words(rebuild: Any) -> None:
    with pytest.raises(DefinitionError, match=r"it is 'refuse' or 'auto'.*projections\.rebuild"):
        Engine([Hall], projections=[Notes], rebuild=rebuild)
