"""What a reactor has to say of itself, and what is refused when its class is made."""

from __future__ import annotations

from typing import Any

import pytest

from engine import (
    DefinitionError,
    Engine,
    Meta,
    Projection,
    Reactor,
    Rejected,
    projects,
    reacts,
    when_rejected,
)
from tests.projections.reacting import Cancel, Order, Paid, Pay, Ship, Shipping
from tests.support.tallies import Tallies


def made(**members: Any) -> type[Projection]:
    return type("Wrong", (Reactor,), members, name="wrong", begins="now")


def test_a_reactor_says_where_it_begins() -> None:
    for begins in (None, "yesterday", -1, True):
        with pytest.raises(DefinitionError, match='begins="now" is safe'):
            type("Wrong", (Shipping,), {}, name="wrong", begins=begins)


def test_a_reactor_that_reacts_to_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match="reacts to no event: mark a method with @reacts"):
        made()


@pytest.mark.parametrize("option", [{"version": 2}, {"slices": 2}])
def test_a_reactor_has_no_version_and_no_slices(option: dict[str, int]) -> None:
    with pytest.raises(DefinitionError, match="has a version or slices.*Drop both"):
        type("Wrong", (Shipping,), {}, name="wrong", begins="now", **option)


def test_a_reactor_has_no_tables_no_handlers_and_no_init() -> None:
    @reacts
    def paid(self: Reactor, event: Paid) -> Pay | None: ...
    @projects
    def folded(self: Reactor, event: Paid) -> None: ...

    with pytest.raises(DefinitionError, match="declares a table, and has no tables"):
        made(paid=paid, __annotations__={"rows": "Table[Row]"})
    with pytest.raises(DefinitionError, match=r"folded is marked with @projects"):
        made(paid=paid, folded=folded)
    with pytest.raises(DefinitionError, match="has an __init__"):
        made(paid=paid, __init__=Exception.__init__)


@pytest.mark.parametrize("taken", [Pay, int, Reactor])
def test_a_reaction_takes_an_event(taken: Any) -> None:
    def wrong(self: Reactor, event: Any) -> Pay | None: ...

    wrong.__annotations__["event"] = taken
    with pytest.raises(DefinitionError, match="must take one event after self"):
        made(wrong=reacts(wrong))


@pytest.mark.parametrize("returns", [int, str, Paid, list[int], "nothing at all"])
def test_a_reaction_says_which_commands_it_gives(returns: Any) -> None:
    def wrong(self: Reactor, event: Paid): ...  # type: ignore[no-untyped-def]

    if returns != "nothing at all":
        wrong.__annotations__["return"] = returns
    with pytest.raises(DefinitionError, match="does not say which commands it gives"):
        made(wrong=reacts(wrong))


def test_a_reaction_waits_for_nothing() -> None:
    @reacts
    async def wrong(self: Reactor, event: Paid) -> Pay | None: ...

    with pytest.raises(DefinitionError, match="is async or a generator"):
        made(wrong=wrong)


def test_an_event_has_one_reaction() -> None:
    @reacts
    def second(self: Reactor, event: Paid) -> Pay | None: ...

    with pytest.raises(DefinitionError, match="second reaction to Paid"):
        type("Wrong", (Shipping,), {"second": second}, name="wrong", begins="now")


def test_what_follows_a_rejection_is_one_command() -> None:
    @reacts
    def paid(self: Reactor, event: Paid) -> Pay | None: ...
    @when_rejected
    def many(self: Reactor, command: Pay, rejection: Rejected) -> list[Cancel] | None: ...
    @when_rejected
    def other(self: Reactor, command: Paid, rejection: Rejected) -> Cancel | None: ...

    with pytest.raises(DefinitionError, match="one command at most"):
        made(paid=paid, many=many)
    with pytest.raises(DefinitionError, match="must take a command and its rejection"):
        made(paid=paid, other=other)


def test_the_commands_that_it_gives_are_handled_by_the_engine() -> None:
    with pytest.raises(DefinitionError, match="'shipping' gives Ship, and no aggregate of this"):
        Engine([Order], projections=[Shipping])


def test_what_is_no_reactor_begins_with_the_first_event() -> None:
    with pytest.raises(DefinitionError, match="has begins=, and is no Reactor"):
        type("Wrong", (Tallies,), {}, name="wrong", version=1, begins="now")


def test_several_events_and_commands_are_unions() -> None:
    class Both(Reactor, name="both", begins="start"):
        @reacts
        def paid(self, event: Paid, meta: Meta) -> Ship | list[Pay | Cancel] | None: ...

        @when_rejected
        def refused(
            self, command: Pay | Ship, rejection: Rejected, meta: Meta
        ) -> Cancel | None: ...

    reacting = Both.__definition__.reacting

    assert reacting is not None
    assert reacting.gives == {Ship, Pay, Cancel}
    assert set(reacting.refusals) == {Pay, Ship}
