"""Definitions of aggregates: what is found, and what is refused early with its mend."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pytest

from engine.errors import DefinitionError
from engine.model.aggregate import Aggregate, AggregateMeta, Context, applies, handles
from engine.model.messages import Command, Event, Id, Query
from engine.model.projection import Projection, Row, Table, projects
from engine.model.sink import Sink
from engine.model.sql_projection import SqlProjection


class Filled(Event, name="filled"):
    liters: int


class Spilled(Event, name="spilled"):
    liters: int


class Fill(Command):
    tank_id: Id
    liters: int


class NoId(Command):
    liters: int


class TwoIds(Command):
    one: Id
    two: Id


class Mutable(msgspec.Struct):
    items: list[int] = []


class Tank(Aggregate, kind="tank", key_window=5):
    liters: int = 0
    log: list[str] = []

    @handles
    def fill(self, command: Fill, ctx: Context) -> Filled | list[Spilled] | None:
        return Filled(command.liters)

    @applies
    def filled(self, event: Filled) -> None:
        self.liters += event.liters

    @applies
    def spilled(self, event: Spilled) -> None:
        self.liters -= event.liters


def test_handlers_and_appliers_are_found_by_their_annotations() -> None:
    definition = Tank.__definition__

    assert (definition.kind, definition.key_window) == ("tank", 5)
    assert set(definition.appliers) == {Filled, Spilled}
    handler = definition.handlers[Fill]
    assert (handler.id_field, handler.takes) == ("tank_id", (Context,))


def test_empty_states_share_nothing() -> None:
    one, two = Tank(id="1"), Tank(id="2")
    one.log.append("x")

    assert two.log == []


def test_handlers_are_inherited_and_may_name_classes_local_to_a_function() -> None:
    class Drain(Command):
        tank_id: Id

    class Bigger(Tank, kind="bigger"):
        @handles
        def drain(self, command: Drain) -> None: ...

    assert set(Bigger.__definition__.handlers) == {Fill, Drain}


def refuse(message: str) -> Any:
    return pytest.raises(DefinitionError, match=message)


def test_an_aggregate_without_a_kind_is_refused() -> None:
    with refuse(r'Aggregate, kind="\.\.\."'):

        class Bad(Aggregate):
            @handles
            def fill(self, command: Fill) -> None: ...


def test_a_field_without_a_default_is_refused() -> None:
    with refuse("every field has a default"):

        class Bad(Aggregate, kind="bad"):
            liters: int = msgspec.field()  # type: ignore[misc]

            @handles
            def fill(self, command: Fill) -> None: ...


def test_a_default_that_all_would_share_is_refused() -> None:
    with refuse("Bad cannot be made: .*mutable"):

        class Bad(Aggregate, kind="bad"):
            state: Mutable = Mutable()

            @handles
            def fill(self, command: Fill) -> None: ...


def test_a_shared_default_inside_a_tuple_is_refused() -> None:
    with refuse(r"Bad\.states is one mutable object"):

        class Bad(Aggregate, kind="bad"):
            states: tuple[Mutable, ...] = (Mutable(),)

            @handles
            def fill(self, command: Fill) -> None: ...


class Pen:
    """Holds things, and hashes by identity."""

    def __init__(self) -> None:
        self.sheep: list[str] = []


@dataclasses.dataclass(eq=False)
class Barn:
    sheep: int = 0


@dataclasses.dataclass(frozen=True)
class Field:
    pens: tuple[Pen, ...] = ()


@dataclasses.dataclass(frozen=True)
class Gate:
    width: Decimal = Decimal("1.5")
    opens: date = date(2024, 4, 1)


PEN = Pen()


@pytest.mark.parametrize("default", [PEN, Barn(), Field((PEN,)), (1, (PEN,)), frozenset((PEN,))])
def test_an_object_that_can_change_is_no_default(default: Any) -> None:
    with refuse(r"Bad\.held is one mutable object that all would share: write .*default_factory"):

        class Bad(Aggregate, kind="bad"):
            held: Any = default

            @handles
            def fill(self, command: Fill) -> None: ...

    with refuse(r"Bad\.held is one mutable object"):

        class Bad(Event, name="bad"):  # type: ignore[no-redef]
            held: Any = default


def test_a_factory_that_gives_the_same_object_each_time_is_no_default() -> None:
    with refuse(r"Bad\.pen is one mutable object"):

        class Bad(Aggregate, kind="bad"):
            pen: Pen = msgspec.field(default_factory=lambda: PEN)

            @handles
            def fill(self, command: Fill) -> None: ...


def test_values_that_stay_as_they_are_may_be_shared() -> None:
    class Good(Aggregate, kind="good"):
        pen: Pen = msgspec.field(default_factory=Pen)
        gate: Gate = Gate()
        weight: Decimal = Decimal(1)
        marker: object = object()
        folder: pathlib.PurePath = pathlib.PurePath("x")
        pairs: tuple[tuple[str, frozenset[int]], ...] = (("a", frozenset((1,))),)

        @handles
        def fill(self, command: Fill) -> None: ...

    one, other = Good(id="1"), Good(id="2")
    one.pen.sheep.append("x")
    assert other.pen.sheep == []


def test_a_state_field_named_like_one_of_the_base_is_refused() -> None:
    with refuse("declares `version`"):

        class Bad(Aggregate, kind="bad"):
            version: int = 7

            @handles
            def fill(self, command: Fill) -> None: ...


def test_a_frozen_aggregate_is_refused() -> None:
    with refuse("cannot|frozen"):

        class Bad(Aggregate, kind="bad", frozen=True):
            @handles
            def fill(self, command: Fill) -> None: ...


def test_an_aggregate_without_a_handler_is_refused() -> None:
    with refuse("handles no command"):

        class Bad(Aggregate, kind="bad"):
            liters: int = 0


def test_a_second_handler_of_a_command_is_refused() -> None:
    with refuse("second handler of Fill"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Fill) -> None: ...

            @handles
            def fill_again(self, command: Fill) -> None: ...


def test_a_second_applier_of_an_event_is_refused() -> None:
    with refuse("second applier of Filled"):

        class Bad(Tank, kind="bad"):
            @applies
            def filled_again(self, event: Filled) -> None: ...


def test_an_event_that_nobody_applies_is_refused() -> None:
    with refuse("returns Filled, and nothing in .*Bad applies it"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Fill) -> list[Filled]:
                return []


def test_a_return_annotation_that_is_no_event_is_refused() -> None:
    with refuse("Return an Event, a sequence of Events, or None"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Fill) -> str:
                return ""


def test_a_missing_return_annotation_is_refused() -> None:
    with refuse("annotate it so"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Fill):  # type: ignore[no-untyped-def]
                return None


@pytest.mark.parametrize("command", [NoId, TwoIds])
def test_a_command_needs_exactly_one_id(command: type[Command]) -> None:
    def fill(self: Any, command: Command) -> None: ...

    fill.__annotations__["command"] = command
    with refuse("exactly one says"):
        AggregateMeta("Bad", (Aggregate,), {"fill": handles(fill)}, kind="bad")


def test_a_handler_that_yields_is_refused() -> None:
    with refuse("return its events, all at once"):

        class Bad(Aggregate, kind="bad"):
            @handles
            async def fill(self, command: Fill) -> AsyncIterator[Filled]:
                yield Filled(1)


def test_a_parameter_that_names_no_resource_is_refused() -> None:
    with refuse("what that is cannot be told"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Fill, rates: list[int]) -> None: ...


def test_the_same_thing_taken_twice_is_refused() -> None:
    with refuse("the same thing twice"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Fill, one: Context, two: Context) -> None: ...


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_a_deadline_is_in_the_future(deadline: float) -> None:
    with refuse("give seconds above 0"):

        class Bad(Tank, kind="bad", deadline=deadline): ...


def test_an_async_applier_is_refused() -> None:
    with refuse("drop the async"):

        class Bad(Tank, kind="bad"):
            @applies
            async def other(self, event: Spilled) -> None: ...


def test_a_handler_of_something_else_than_a_command_is_refused() -> None:
    with refuse("must take one Command"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Filled) -> None: ...


def test_a_third_parameter_that_is_no_context_is_refused() -> None:
    with refuse("context: Context"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Fill, context: str) -> None: ...


def test_an_annotation_that_cannot_be_resolved_is_refused() -> None:
    with refuse("cannot be resolved"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821


def test_a_key_window_below_one_is_refused() -> None:
    with refuse("at least 1"):

        class Bad(Tank, kind="bad", key_window=0):
            pass


# -- what a new user writes -----------------------------------------------------------------------


def test_a_name_for_a_handler_and_an_applier_is_refused() -> None:
    with refuse(r"Bad\.filled is defined twice, .* give one of them another name"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def filled(self, command: Fill) -> Filled:
                return Filled(command.liters)

            @applies  # type: ignore[no-redef]
            def filled(self, event: Filled) -> None: ...  # noqa: F811


def test_an_inherited_handler_may_be_written_anew() -> None:
    class Leaky(Tank, kind="leaky"):
        @handles
        def fill(self, command: Fill, ctx: Context) -> Filled | list[Spilled] | None:
            return [Spilled(command.liters)]

    assert Leaky.__definition__.handlers[Fill].decide is Leaky.fill


def test_a_handler_that_does_not_say_what_it_returns_is_told_how() -> None:
    with refuse(r"Bad\.fill does not say what it returns.*`-> SomeEvent`"):

        class Bad(Aggregate, kind="bad"):
            @handles
            def fill(self, command: Fill):  # type: ignore[no-untyped-def]
                return Filled(command.liters)


def test_a_list_without_an_annotation_is_no_field_and_refused() -> None:
    with refuse(r"Bad\.drops has no annotation, .* write `drops: list\[\.\.\.\] = \.\.\.`"):

        class Bad(Aggregate, kind="bad"):
            drops = []  # type: ignore[var-annotated]

            @handles
            def fill(self, command: Fill) -> None: ...

    class Good(Aggregate, kind="good"):
        SIZES = {"small": 1}
        names: ClassVar[dict[str, int]] = {"small": 1}

        @handles
        def fill(self, command: Fill) -> None: ...

    assert Good.names == Good.SIZES


def test_a_field_without_a_default_is_told_how_to_get_one() -> None:
    with refuse(r"aggregate Bad cannot be made: .*liters.*as `liters: int = 0`"):

        class Bad(Aggregate, kind="bad"):
            liters: int  # type: ignore[misc]

            @handles
            def fill(self, command: Fill) -> None: ...


@pytest.mark.parametrize(
    ("base", "option", "told"),
    [
        (Aggregate, "knid", "aggregate Bad has the option `knid=`, which is none: write `kind=`"),
        (Event, "nmae", "message Bad has the option `nmae=`, which is none: write `name=`"),
        (Event, "add", "write `added=`"),
        (Command, "vresion", "write `version=`"),
        (Query, "named", "write `name=`"),
        (Row, "keys", "row Bad has the option `keys=`, which is none: write `key=`"),
        (Row, "table", "it takes key, index, search"),
        (Projection, "verison", "projection Bad has the option `verison=`, .*: write `version=`"),
        (Sink, "slice", "write `slices=`"),
        (SqlProjection, "on_poisson", "write `on_poison=`"),
    ],
)
def test_a_misspelt_option_of_a_class_is_told(base: Any, option: str, told: str) -> None:
    make: Any = type(base)
    with refuse(told):
        make("Bad", (base,), {"__module__": __name__, "__qualname__": "Bad"}, **{option: "x"})


def test_a_projection_with_two_handlers_of_one_name_is_refused() -> None:
    class Level(Row, key="tank"):
        tank: str

    with refuse(r"Bad\.changed is defined twice"):

        class Bad(Projection, name="bad"):
            rows: Table[Level]

            @projects
            def changed(self, event: Filled) -> None: ...

            @projects(keys=lambda event, meta: {})  # type: ignore[no-redef]
            def changed(self, event: Spilled) -> None: ...  # noqa: F811


def test_a_row_with_a_filled_default_is_refused_by_name() -> None:
    with refuse("row Bad cannot be made: .*mutable"):

        class Bad(Row, key="id"):
            id: str
            tags: list[str] = ["a"]
