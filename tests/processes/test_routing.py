"""How events come to the instances of a process manager, how often, and what fails."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Aggregate,
    Command,
    DefinitionError,
    Engine,
    Event,
    Id,
    Meta,
    Ports,
    ProcessManager,
    Projection,
    Reactor,
    Rejected,
    Row,
    Table,
    applies,
    handles,
    projects,
    reacts,
    when_rejected,
)
from tests.processes.dispatching import (
    Begun,
    Box,
    Carrier,
    Dispatch,
    Order,
    Pack,
    Packed,
    Paid,
    Pay,
    Sent,
    Stop,
    Stopped,
    depot,
    settled,
)
from tests.support.shelf import Crash
from tests.support.waiting import until


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


async def test_events_of_others_are_decided_on_the_state_of_their_instance(url: str) -> None:
    async with depot(url) as engine:
        await engine.execute(Pay("o-1", 10), correlation="c-1")
        await engine.execute(Pack("b-1", "o-2", "blue"))
        await engine.execute(Pack("b-2", "o-1", "red"))
        await settled(engine)
        one = await engine.state(Dispatch, "o-1")
        other = await engine.state(Dispatch, "o-2")
        page = await engine.history(Dispatch, "o-1")

        assert (one.paid, one.sent) == (True, 1)
        assert (other.paid, other.box, other.sent) == (False, "blue", 0)
        first = page.events[0].meta
        assert (first.correlation, first.causation) == ("c-1", "order:o-1@1")
        assert (first.principal, first.key, first.depth) == (
            "reactor:dispatch",
            "reaction:dispatch:1:0",
            1,
        )


async def test_an_event_without_an_instance_is_passed_over() -> None:
    async with depot() as engine:
        await engine.execute(Pack("b-1", None))
        await settled(engine)

        assert engine.statistics().position == 1


async def test_a_manager_handles_commands_of_its_own() -> None:
    async with depot() as engine:
        await engine.execute(Stop("o-1"))
        await engine.execute(Pack("b-1", "o-1"))
        await settled(engine)

        assert (await engine.state(Dispatch, "o-1")).stopped
        assert engine.statistics().position == 2


class Plain(Aggregate, kind="dispatch", key_window=1):
    """The same kind, by a release that routes nothing."""

    @handles
    def stop(self, command: Stop) -> Stopped:
        return Stopped()

    @applies
    def begun(self, event: Begun) -> None: ...

    @applies
    def was_sent(self, event: Sent) -> None: ...

    @applies
    def stopped(self, event: Stopped) -> None: ...


async def test_an_event_is_taken_once_though_its_key_was_forgotten_since(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"

    def crash(reached: str) -> None:
        if reached == "reactor.done":
            raise Crash

    engine = depot(url, ports=Ports(failpoint=crash))
    with pytest.raises(Exception, match="the engine failed with Crash"):
        async with engine:
            await engine.execute(Pay("o-1", 10))
            await until(lambda: engine.failed is not None)
    async with Engine([Order, Box, Plain], store=url) as engine:
        await engine.execute(Stop("o-1"))  # the manager remembers one key only
    async with Engine([Order, Box, Dispatch], store=url, resources={Carrier: Carrier()}) as engine:
        await settled_by_state(engine)
        names = [logged.name for logged in (await engine.history(Dispatch, "o-1")).events]

        assert names == ["dispatch-begun", "dispatch-stopped"]


async def settled_by_state(engine: Engine) -> None:
    numbers = engine.statistics
    await until(lambda: numbers().projectors["dispatch"].position == numbers().position)


async def test_an_event_that_a_manager_cannot_take_is_parked_and_retried(url: str) -> None:
    carrier = Carrier()
    carrier.broken = True
    async with depot(url, carrier) as engine:
        await engine.execute(Pack("b-1", "o-1"))
        await engine.execute(Pay("o-2", 1))
        await settled(engine)
        [parked] = await engine.projections.parked("dispatch")
        assert (parked.stream, parked.event) == ("box:b-1", "packed v1")
        assert (await engine.state(Dispatch, "o-2")).paid

        carrier.broken = False
        assert (await engine.projections.retry("dispatch")).released == 1
        assert (await engine.state(Dispatch, "o-1")).box == "box"


async def test_a_manager_that_rejects_an_event_has_taken_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with depot() as engine:
        await engine.execute(Pay("o-1", -1))
        await settled(engine)

        assert await engine.projections.parked("dispatch") == []
        assert "dispatch-on-paid was rejected as 'refund' because of order:o-1@1" in caplog.text


# -- what is refused ------------------------------------------------------------------------------


def made(kind: str = "wrong", begins: Any = "now", **members: Any) -> Any:
    options = {"kind": kind, "begins": begins}
    return types.new_class("Wrong", (ProcessManager,), options, lambda space: space.update(members))


@applies
def begun(self: Any, event: Begun) -> None: ...


def test_a_manager_says_which_instance_an_event_is_for() -> None:
    @reacts
    def bare(self: Any, event: Paid) -> Begun | None: ...
    @reacts(by="order")
    def no_field(self: Any, event: Paid) -> Begun | None: ...

    for method in (bare, no_field):
        with pytest.raises(DefinitionError, match="does not say which instance Paid is for"):
            made(begun=begun, method=method)


def test_a_manager_reacts_and_says_where_it_begins() -> None:
    @reacts(by="order")
    def packed(self: Any, event: Packed) -> Begun | None: ...

    with pytest.raises(DefinitionError, match='begins="now" is safe'):
        made(begins=None, begun=begun, packed=packed)
    with pytest.raises(DefinitionError, match="nothing in Wrong applies it"):
        made(packed=packed)
    with pytest.raises(DefinitionError, match="must take one event after self"):
        made(packed=reacts(by="order")(nothing))


def nothing(self: Any) -> None: ...


def by_order(space: dict[str, Any]) -> None:
    @reacts(by="order")
    def packed(self: Any, event: Packed) -> Pack | None: ...

    space["packed"] = packed


def test_a_reactor_has_no_instances() -> None:
    with pytest.raises(DefinitionError, match="has by=, which names an instance"):
        types.new_class("Wrong", (Reactor,), {"name": "wrong", "begins": "now"}, by_order)


def test_what_hears_of_a_rejection_takes_the_command_and_the_rejection() -> None:
    @reacts(by="order")
    def packed(self: Any, event: Packed) -> Begun | None: ...
    @when_rejected
    def refused(self: Any, command: Pack, rejection: str) -> Begun | None: ...

    with pytest.raises(DefinitionError, match="must take a command and its rejection"):
        made(begun=begun, packed=packed, refused=refused)


def test_a_projection_of_the_same_name_is_refused() -> None:
    class OneRow(Row, key="id"):
        id: str

    class Same(Projection, name="dispatch", version=1):
        rows: Table[OneRow]

        @projects
        def paid(self, event: Paid) -> None: ...

    with pytest.raises(DefinitionError, match="both projection 'dispatch'"):
        Engine([Order, Box, Dispatch], projections=[Same], resources={Carrier: Carrier()})


def test_long_names_are_cut_and_stay_apart() -> None:
    class Long(Event, name="l" + "o" * 60 + "ng"):
        order: str

    class Longer(Event, name="l" + "o" * 60 + "nx"):
        order: str

    class Other(Command):
        other_id: Id

    class Manager(ProcessManager, kind="m" * 60, begins="now"):
        @reacts(by="order")
        def both(self, event: Long | Longer, meta: Meta) -> Begun | None: ...

        @when_rejected
        def refused(self, command: Other, rejection: Rejected) -> Begun | None: ...

        @applies
        def begun(self, event: Begun) -> None: ...

    names = [command.command_name for command in Manager.__definition__.handlers]

    assert len(set(names)) == 3
    assert max(map(len, names)) <= 64
