"""Handlers take the subclasses of their event, and nothing is kept between two events."""

from __future__ import annotations

import types
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import Any

import pytest

from engine import Delivery, Query, Sink, Sql, SqlProjection, Views, answers
from engine.engine import Engine
from engine.errors import DefinitionError
from engine.model.messages import Event, Meta
from engine.model.projection import Projection, Table, projects
from engine.testing.scenario import Folded
from tests.model.notes import Began, BeganLoudly, Ended, Hall, Happened, Note, Notes, Say


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
