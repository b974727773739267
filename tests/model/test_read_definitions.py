"""Rows, tables and projections are read when their class is made, and refused there."""

from __future__ import annotations

import math
import types
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from engine import (
    Aggregate,
    Archive,
    Command,
    Delivery,
    Id,
    Onlooker,
    Query,
    Sink,
    Sql,
    SqlProjection,
    Views,
    answers,
    applies,
    handles,
)
from engine.engine import Engine
from engine.errors import DefinitionError, UsageError
from engine.model.messages import Event, Meta
from engine.model.projection import Projection, Row, Table, projects
from engine.stores.sqlite.views.tables import definition_hash
from engine.testing.scenario import Folded
from tests.support.everything import Colour, Everything, Inner, everything
from tests.support.shelf import Book, Bought, Lent, Library


def test_a_row_comes_back_as_it_was() -> None:
    shape = Everything.__shape__

    assert shape.build(shape.flatten(everything())) == everything()


def test_columns_have_the_types_that_sql_can_order_and_sum() -> None:
    shape = Everything.__shape__

    sql = {c.name: ("JSON" if c.is_json else c.sql) + "?" * c.nullable for c in shape.columns}

    assert sql == {
        "id": "TEXT",
        "text": "TEXT",
        "whole": "INTEGER",
        "real": "REAL",
        "blob": "BLOB",
        "truth": "INTEGER",
        "moment": "TEXT",
        "day": "TEXT",
        "colour": "TEXT",
        "rank": "INTEGER",
        "choice": "TEXT",
        "pence": "INTEGER",
        "bounded": "INTEGER",
        "inner": "JSON",
        "many": "JSON",
        "either": "JSON",
        "maybe": "INTEGER?",
        "maybe_inner": "JSON?",
        "some": "JSON",
    }


def test_there_is_no_negative_zero_in_memory_since_there_is_none_in_sql() -> None:
    zero = Everything.__shape__.column("real").encode(-0.0)

    assert str(zero) == "0.0"


def test_text_order_of_moments_is_time_order() -> None:
    column = Everything.__shape__.column("moment")
    early = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    late = datetime(2026, 1, 1, 8, 0, 0, 1, tzinfo=UTC)

    assert str(column.encode(early)) < str(column.encode(late))


WRONG: list[tuple[str, Any]] = [
    ("text", 5),
    ("text", None),
    ("whole", 1.0),
    ("whole", True),
    ("whole", 2**63),
    ("real", "1"),
    ("real", math.nan),
    ("real", math.inf),
    ("blob", "b"),
    ("truth", 1),
    ("moment", datetime(2026, 1, 1)),
    ("day", "2026-01-01"),
    ("colour", "red"),
    ("rank", 3),
    ("choice", "c"),
    ("inner", {"name": 5}),
    ("many", {"k": [1]}),
    ("maybe", "1"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_that_could_not_be_read_back_is_refused_without_showing_it(
    field: str, value: Any
) -> None:
    row = msgspec.structs.replace(everything(), **{field: value})

    with pytest.raises((TypeError, ValueError), match=f"Everything.{field} is "):
        Everything.__shape__.flatten(row)


def test_rows_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Book("b", 1).price = 2  # type: ignore[misc]


def test_a_row_class_can_be_declared_frozen_false_by_nobody() -> None:
    with pytest.raises(DefinitionError, match="rows are frozen"):

        class Melted(Row, key="id", frozen=False):
            id: str


def test_keyword_only_rows_are_built_too() -> None:
    class Named(Row, key="id", kw_only=True):
        id: str
        size: int = 3

    shape = Named.__shape__

    assert shape.build(shape.flatten(Named(id="x"))) == Named(id="x", size=3)


def filled(namespace: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(namespace)


def refused_row(message: str, annotation: Any, **options: Any) -> None:
    namespace = {"__annotations__": {"id": str, "field": annotation}, "__module__": __name__}
    with pytest.raises(DefinitionError, match=message):
        types.new_class("Refused", (Row,), {"key": "id", **options}, filled(namespace))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Decimal, "Decimal, which is no column: money is kept as integers"),
        (Decimal | None, "money is kept as integers"),
        (timedelta, "span of time as an integer"),
        (Any, "say which type it is"),
        (object, "types that msgspec decodes"),
        (None, "always None"),
    ],
)
def test_types_that_are_no_columns_are_refused(annotation: Any, message: str) -> None:
    refused_row(message, annotation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": None}, "names no key"),
        ({"key": "other"}, "the key 'other', which is not a field"),
        ({"index": ["other"]}, "index on 'other', which is not a field"),
        ({"index": "field"}, r'write a list of fields, index=\["field"\]'),
    ],
)
def test_keys_and_indexes_name_fields(options: dict[str, Any], message: str) -> None:
    refused_row(message, str, **options)


@pytest.mark.parametrize("annotation", [str | None, float, bool, dict[str, int], bytes])
def test_a_key_is_plain_and_never_none(annotation: Any) -> None:
    refused_row("is the key and", annotation, key="field")


def test_a_nested_field_has_no_index() -> None:
    refused_row("nested and kept as JSON", dict[str, int], index=["field"])


@pytest.mark.parametrize(
    "annotation", [str, str | None, Annotated[str, msgspec.Meta(min_length=1)]]
)
def test_text_is_searched(annotation: Any) -> None:
    assert row_of(annotation, search=["price", "id", "price"]).__shape__.search == ("price", "id")


@pytest.mark.parametrize(
    "annotation", [int, bytes, datetime, UUID, Colour, Literal["a", "b"], str | int, dict[str, str]]
)
def test_only_text_is_searched(annotation: Any) -> None:
    refused_row("searches 'field', which has the type .*: words are", annotation, search=["field"])


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (["other"], "searches 'other', which is not a field: name one of"),
        ("field", r'write a list of fields, search=\["field"\]'),
    ],
)
def test_a_search_names_fields(search: Any, message: str) -> None:
    refused_row(message, str, search=search)


def test_a_field_that_is_named_as_the_index_needs_is_not_searched() -> None:
    with pytest.raises(DefinitionError, match="'rank', a name that the index needs"):

        class Ranked(Row, key="id", search=["rank"]):
            id: str
            rank: str


def test_a_shared_mutable_default_is_refused() -> None:
    @dataclass
    class Holder:
        names: str = "x"

    with pytest.raises(DefinitionError, match=r"Shared.inner is one mutable object"):

        class Shared(Row, key="id"):
            id: str
            inner: Holder = Holder()


def test_fields_that_are_one_name_to_sql_are_refused() -> None:
    with pytest.raises(DefinitionError, match="are one name to SQL"):

        class Twice(Row, key="id"):
            id: str
            Id: str


def test_a_field_whose_type_is_not_known_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot be resolved"):

        class Unknown(Row, key="id"):
            id: Missing  # type: ignore[name-defined]  # noqa: F821


def test_a_row_may_extend_another() -> None:
    class Longer(Book, index=["lent"], search=["holder"]):
        pages: int = 0

    class Longest(Longer, search=["id"]):
        pass

    assert Longest.__shape__.search == ("holder", "id")
    assert Longer.__shape__.key == "id"
    assert Longer.__shape__.indexes == (("holder",), ("price",), ("lent",))


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


# -- events by a class that they are based on -----------------------------------------------------


class Happened(Event, name="happened"):
    by: str


class Began(Happened, name="began"):
    pass


class BeganLoudly(Began, name="began-loudly"):
    volume: int = 1


class Ended(Happened, name="ended"):
    pass


class Say(Command):
    hall_id: Id
    what: int


class Hall(Aggregate, kind="hall"):
    @handles
    def say(self, command: Say) -> Event:
        return (Happened("a"), Began("b"), BeganLoudly("c", 2), Ended("d"))[command.what]

    @applies
    def happened(self, event: Happened) -> None:
        pass

    @applies
    def began(self, event: Began) -> None:
        pass

    @applies
    def loudly(self, event: BeganLoudly) -> None:
        pass

    @applies
    def ended(self, event: Ended) -> None:
        pass


class Note(Row, key="position"):
    position: int
    by: str


class Notes(Projection, name="notes"):
    rows: Table[Note]

    @projects
    def anything(self, event: Happened, meta: Meta) -> None:
        self.rows.put(Note(meta.position, event.by))

    @projects
    def began(self, event: Began, meta: Meta) -> None:
        self.rows.put(Note(meta.position, f"began {event.by}"))


class SlicedNotes(Notes, name="notes", slices=3):
    rows: Table[Note]


class TwoOfThem(Projection, name="notes"):
    rows: Table[Note]

    @projects
    def either(self, event: Ended | Began, meta: Meta) -> None:
        self.rows.put(Note(meta.position, event.by))


class NotesInSql(SqlProjection, name="notes"):
    tables = {"rows": "CREATE TABLE {rows} (position INTEGER PRIMARY KEY, by TEXT) STRICT"}

    @projects
    def anything(self, event: Happened, meta: Meta, sql: Sql) -> None:
        sql.run("INSERT INTO {rows} VALUES (?, ?)", (meta.position, event.by))


NEAREST = {1: "a", 2: "began b", 3: "began c", 4: "d"}


class Noted(Query[dict[int, str]]):
    pass


@pytest.mark.parametrize(
    ("projection", "expected"),
    [
        (Notes, NEAREST),
        (SlicedNotes, NEAREST),
        (TwoOfThem, {2: "b", 3: "c", 4: "d"}),
        (NotesInSql, {1: "a", 2: "b", 3: "c", 4: "d"}),
    ],
)
async def test_a_handler_takes_the_subclasses_of_its_event(
    projection: type[Projection], expected: dict[int, str]
) -> None:
    @answers
    async def noted(query: Noted, views: Views) -> dict[int, str]:
        found = await views.sql("SELECT position, by FROM notes_rows ORDER BY position")
        return dict(found)

    async with Engine([Hall], projections=[projection], answers=[noted]) as engine:
        for what in range(4):
            last = await engine.execute(Say("h", what))
        assert await engine.query(Noted(), at=last) == expected
        async with engine.past(position=last) as past:
            assert await past.query(Noted()) == expected


async def test_a_sink_takes_the_subclasses_of_its_event() -> None:
    class Told(Sink, name="told"):
        async def deliver(self, batch: Sequence[Delivery[Began]], taken: Taken) -> None:
            taken.extend(delivery.event.by for delivery in batch)

    class ToldOf(Query[None]):
        pass

    @answers(projections=[Told])
    async def told(query: ToldOf, views: Views) -> None:
        return None

    taken = Taken()
    async with Engine(
        [Hall], projections=[Told], answers=[told], resources={Taken: taken}
    ) as engine:
        for what in range(4):
            last = await engine.execute(Say("h", what))
        await engine.query(ToldOf(), at=last)
    assert taken == ["b", "c"]


class Taken(list[str]):
    pass


def test_the_test_kit_folds_subclasses_as_an_engine_does() -> None:
    folded = Folded(Notes).fold(Happened("a"), Began("b"), BeganLoudly("c"), Ended("d"))

    assert {note.position: note.by for note in folded.rows(Notes.rows)} == NEAREST


def test_two_handlers_of_one_event_of_a_union_are_refused() -> None:
    with pytest.raises(DefinitionError, match="is a second handler of Began"):

        class Twice(TwoOfThem, name="notes"):
            rows: Table[Note]

            @projects
            def again(self, event: Began) -> None:
                pass


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


# -- what is kept between events ------------------------------------------------------------------


@pytest.mark.parametrize("kept", [{}, [], set(), bytearray(), deque(), defaultdict(int), Counter()])
def test_what_handlers_could_only_fill_is_refused(kept: Any) -> None:
    with pytest.raises(DefinitionError, match=r"\.seen is an empty"):
        types.new_class("Keeping", (Notes,), {"name": "notes"}, lambda body: body.update(seen=kept))


def test_a_table_of_constants_is_no_state() -> None:
    class Rates(Notes, name="notes"):
        rows: Table[Note]
        rates = {"EUR": 2}

    assert Folded(Rates).fold(Began("b")).rows(Rates.rows)


class Sly(Notes, name="notes"):
    rows: Table[Note]
    seen = ["one"]

    @projects
    def anything(self, event: Happened, meta: Meta) -> None:
        self.seen.append(event.by)


class Slier(Notes, name="notes"):
    rows: Table[Note]

    @projects
    def anything(self, event: Happened, meta: Meta) -> None:
        object.__setattr__(self, "last", event.by)


@pytest.mark.parametrize(("projection", "name"), [(Sly, "seen"), (Slier, "last")])
def test_the_test_kit_tells_of_what_a_projection_keeps(
    projection: type[Projection], name: str
) -> None:
    with pytest.raises(AssertionError, match=f"keeps something outside of its tables: {name}"):
        Folded(projection).fold(Ended("d"))


class Listed(Event, name="listed"):
    items: list[int] = []


class Sorting(Projection, name="sorting"):
    rows: Table[Note]

    @projects
    def listed(self, event: Listed) -> None:
        event.items.sort()


def test_the_test_kit_tells_of_an_event_that_was_changed() -> None:
    Folded(Sorting).fold(Listed([1, 2]))
    with pytest.raises(AssertionError, match="listed has changed its event"):
        Folded(Sorting).fold(Listed([2, 1]))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[float | None], [1.0, math.nan]),
        (dict[str, float | None], {"a": math.inf}),
        (list[datetime], [datetime(1900, 1, 1, tzinfo=timezone(timedelta(seconds=61)))]),
        (list[str], [UUID(int=1)]),
    ],
)
def test_a_nested_value_that_would_come_back_changed_is_refused(
    annotation: Any, value: Any
) -> None:
    class Held(Row, key="id"):
        id: str
        values: annotation

    with pytest.raises(TypeError, match=r"Held\.values"):
        Held.__shape__.flatten(Held("1", value))


def test_a_nested_list_may_stand_for_a_tuple() -> None:
    class Held(Row, key="id"):
        id: str
        values: tuple[int, ...]

    shape = Held.__shape__
    assert shape.build(shape.flatten(Held("1", [1, 2]))) == Held("1", (1, 2))  # type: ignore[arg-type]


def test_what_a_nested_value_cannot_hold_is_told_without_it() -> None:
    class Held(Row, key="id"):
        id: str
        values: list[Literal["a"]]

    with pytest.raises(TypeError, match="Invalid enum value - at") as refused:
        Held.__shape__.flatten(Held("1", ["Mrs Holm"]))  # type: ignore[list-item]
    assert "Holm" not in str(refused.value)
