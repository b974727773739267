"""How personal fields are declared, and what is refused as the class is made."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from engine import (
    ERASED,
    Aggregate,
    Command,
    DefinitionError,
    Engine,
    Event,
    HandlerFailed,
    Id,
    Personal,
    UsageError,
    applies,
    handles,
    upcasts,
)
from engine.testing.scenario import given

from .hotel import Guest, Register, Registered, hotel


class Inner(msgspec.Struct):
    name: Personal[str]


def test_a_mark_inside_a_type_is_refused_since_it_would_protect_nothing() -> None:
    with pytest.raises(DefinitionError, match="mark the whole field"):

        class Wrong(Event, name="wrong"):
            name: Personal[str] | None

    with pytest.raises(DefinitionError, match="mark the whole field"):

        class Nested(Event, name="nested"):
            names: list[Personal[str]]

    with pytest.raises(DefinitionError, match="mark the whole field"):

        class Deep(Event, name="deep"):
            inner: Inner


def test_a_type_that_cannot_be_masked_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"write `Personal\[... \| None\]`"):

        class Born(Event, name="born"):
            day: Personal[date]


def test_a_text_whose_rule_does_not_admit_the_mask_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"write `Personal\[... \| None\]`"):

        class Short(Event, name="short"):
            letters: Personal[Code]


Code = Annotated[str, msgspec.Meta(max_length=3)]


@pytest.mark.parametrize(
    ("subject", "why"), [("missing", "a field of it"), ("age", "a text"), ("name", "personal")]
)
def test_a_subject_is_a_text_of_the_event_that_is_not_personal(subject: str, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):

        class Wrong(Event, name="wrong", subject=subject):
            name: Personal[str]
            age: int


def test_a_subject_without_a_personal_field_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no personal field"):

        class Wrong(Event, name="wrong", subject="who"):
            who: str


def test_other_messages_have_no_subject() -> None:
    with pytest.raises(DefinitionError, match="drop subject"):

        class Wrong(Command, subject="who"):
            who: Id


async def test_an_engine_without_personal_fields_has_nobody_to_erase() -> None:
    class Done(Event, name="done"):
        pass

    class Do(Command):
        thing: Id

    class Thing(Aggregate, kind="thing"):
        @handles
        def do(self, command: Do) -> Done:
            return Done()

        @applies
        def done(self, event: Done) -> None: ...

    async with Engine([Thing]) as engine:
        with pytest.raises(UsageError, match="nobody can be erased"):
            await engine.personal.erase("thing:1")
        assert await engine.personal.erasures() == ()


def test_a_log_in_a_server_needs_a_place_for_its_keys() -> None:
    with pytest.raises(DefinitionError, match="postgresql:.* of another database"):
        hotel("postgresql://localhost/hotel")


class Tell(Command):
    box: Id
    whose: str
    words: str


class Told(Event, name="told", subject="whose"):
    whose: str
    words: Personal[list[str]]
    loud: Personal[dict[str, int] | None] = None


class Box(Aggregate, kind="box"):
    words: list[str] = []

    @handles
    def tell(self, command: Tell) -> Told:
        return Told(command.whose, [command.words], {"a": 1})

    @applies
    def told(self, event: Told) -> None:
        self.words = event.words


async def test_an_event_without_a_subject_is_not_written(tmp_path: Path) -> None:
    async with Engine([Box], store=f"sqlite:{tmp_path}/box.db") as engine:
        with pytest.raises(HandlerFailed, match="names the subject"):
            await engine.execute(Tell("b", "", "hello"))
        assert engine.statistics().position == 0


async def test_each_type_reads_as_its_mask(tmp_path: Path) -> None:
    async with Engine([Box], store=f"sqlite:{tmp_path}/box.db", debug=True) as engine:
        await engine.execute(Tell("b", "ann", "hello"))
        await engine.personal.erase("ann")
        page = await engine.history(Box, "b")
        assert page.events[0].event == Told("ann", [], None)


async def test_what_was_stored_before_a_field_was_personal_is_read_as_it_is(tmp_path: Path) -> None:
    class Said(Event, name="registered"):
        name: str
        country: str
        born: int | None

    class Before(Aggregate, kind="guest"):
        @handles
        def register(self, command: Register) -> Said:
            return Said(command.name, "se", 1900)

        @applies
        def said(self, event: Said) -> None: ...

    store = f"sqlite:{tmp_path}/hotel.db"
    async with Engine([Before], store=store) as engine:
        await engine.execute(Register("g-1", "Plain"))
    async with hotel(store) as engine:
        await engine.execute(Register("g-1", "Sealed"))
        page = await engine.history(Guest, "g-1")
        assert [entry.event.name for entry in page.events] == ["Plain", "Sealed"]  # type: ignore[union-attr]


async def test_events_of_an_older_version_are_opened_before_they_are_upcast(tmp_path: Path) -> None:
    class Registered2(Event, name="registered", version=2):
        name: Personal[str]

    @upcasts
    def renewed(event: Registered) -> Registered2:
        return Registered2(event.name.upper())

    class Later(Aggregate, kind="guest"):
        name: str = ""

        @handles
        def register(self, command: Register) -> Registered2:
            return Registered2(command.name)

        @applies
        def registered(self, event: Registered2) -> None:
            self.name = event.name

    store = f"sqlite:{tmp_path}/hotel.db"
    async with Engine([Guest], store=store) as engine:
        await engine.execute(Register("g-1", "Ann"))
    async with Engine([Later], store=store, upcasters=[renewed]) as later:
        assert (await later.state(Later, "g-1")).name == "ANN"
        await later.personal.erase("guest:g-1")
        assert (await later.state(Later, "g-1")).name == ERASED.upper()


def test_tests_of_an_aggregate_need_no_keys() -> None:
    given(Guest).when(Register("g-1", "Ann", 1980)).then(Registered("Ann", "no", 1980))
