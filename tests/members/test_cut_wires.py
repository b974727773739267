"""Processes on several machines, whose network is cut: from each other, and from the database.

Each engine reaches the others and the server over a wire of its own. Whatever is cut, each call is
answered, nothing is lost and nothing runs twice; what is told of the log is true as it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import Closed, Engine, OutcomeUnknown, Receipt, Rejected
from tests.members.joining import answers, joined, nowhere, part
from tests.support.counters import Add, Counter, Look, total
from tests.support.postgres import Server, free_port
from tests.support.waiting import until
from tests.support.wires import (
    CUTS,
    NAMES,
    WAYS,
    Way,
    Wire,
    cut,
    doubled,
    oversized,
    reordered,
    wire,
)

LEASE = 1


class Machine(msgspec.Struct):
    """An engine, the wire to its database, and the one on which others come."""

    engine: Engine
    database: Wire
    members: Wire


@pytest.fixture
async def machines(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Machine]]:
    """Give an owner and a member, as on two machines."""
    monkeypatch.setattr("engine.members.meeting._folders", nowhere)
    schema = postgres.new_schema()
    async with AsyncExitStack() as stack:
        found: list[Machine] = []
        for number in (2, 3):
            database = await stack.enter_async_context(wire(postgres.port))
            port, host = free_port(), f"127.0.0.{number}"
            others = await stack.enter_async_context(wire(port, host=host, port=port))
            engine = joined(
                tmp_path,
                store=postgres.url(schema, f"lease={LEASE}", port=database.port),
                listen=f"tcp://127.0.0.1:{port}?advertise={host}",
            )
            await stack.enter_async_context(engine)
            found.append(Machine(engine, database, others))
        assert [part(each.engine).role for each in found] == ["owner", "member"]
        assert found[0].members.passed == 1
        try:
            yield found
        finally:
            for each in found:
                each.database.release()
                each.members.release()


def sending(engine: Engine, *keys: str | None) -> list[asyncio.Task[Receipt[Any]]]:
    return [asyncio.create_task(engine.execute(Add("c", 1), key=key)) for key in keys]


async def judge(engine: Engine, keyed: list[Any], others: list[Any], before: int = 0) -> None:
    """Compare the log with what was answered to commands with a key, and to others."""
    assert {type(answer) for answer in keyed} <= {Receipt}
    assert {type(answer) for answer in others} <= {Receipt, OutcomeUnknown}
    told: list[Receipt[Any]] = [answer for answer in keyed + others if isinstance(answer, Receipt)]
    assert len({answer.position for answer in told}) == len(told)
    unknown = len(others) - (len(told) - len(keyed))
    now = (await engine.state(Counter, "c")).total
    assert before + len(told) <= now <= before + len(told) + unknown


@pytest.mark.parametrize("ways", CUTS, ids=NAMES)
async def test_an_owner_that_is_cut_from_its_database_answers_nothing_behind_its_lease(
    machines: list[Machine], ways: tuple[Way, ...]
) -> None:
    owner, member = machines
    await owner.engine.execute(Add("c", 1))
    owner.database.hold(*ways)
    keyed = sending(owner.engine, "a") + sending(member.engine, "b")
    others = sending(owner.engine, None) + sending(member.engine, None)
    refused = asyncio.create_task(total(owner.engine, "c"))
    answered: list[asyncio.Task[Any]] = []
    await until(lambda: part(member.engine).role == "owner")
    for _ in range(3):
        await member.engine.execute(Add("c", 1))
    stale = asyncio.create_task(total(owner.engine, "c"))
    for task in (keyed[0], others[0], refused, stale):
        task.add_done_callback(answered.append)
    await member.engine.execute(Add("d", 1))
    assert answered == [], "the log is another's"

    owner.database.release()
    got, rest = await answers(keyed), await answers(others)
    await judge(member.engine, got, rest, before=4)
    for asked, least in ((refused, 1), (stale, 4)):
        seen, _, version = (await asyncio.wait_for(asked, 60)).partition(" at ")
        assert seen == version
        assert int(seen) >= least, "it was decided on what another had changed before it was sent"
    assert await answers(sending(owner.engine, "a", "b")) == got
    await until(lambda: part(owner.engine).role == "member")
    assert owner.engine.failed is None


@pytest.mark.parametrize("ways", CUTS, ids=NAMES)
async def test_a_member_that_is_cut_from_its_owner_is_answered_and_its_commands_run_once(
    machines: list[Machine], ways: tuple[Way, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.members.membership.PATIENCE_SECONDS", 1.25 * LEASE)
    owner, member = machines
    await asyncio.gather(*(each.engine.execute(Add("d", 1)) for each in machines))
    owner.members.hold(*ways)
    sent = sending(member.engine, "a", "b", None)
    got = await answers(sent)
    assert {type(answer) for answer in got} <= {OutcomeUnknown, Closed}
    assert part(owner.engine).role == "owner"
    await owner.engine.execute(Add("d", 1))

    owner.members.release()
    again = await until_answered(member.engine, "a", "b")
    assert [type(answer) for answer in again] == [Receipt, Receipt]
    ran = (await owner.engine.state(Counter, "c")).total
    assert ran in (2, 3)
    assert await answers(sending(owner.engine, "a", "b")) == again
    assert (await owner.engine.state(Counter, "c")).total == ran


async def until_answered(engine: Engine, *keys: str) -> list[Any]:
    """Send commands until an owner has answered each of them."""
    while True:
        got = await answers(sending(engine, *keys))
        if not any(isinstance(answer, OutcomeUnknown | Closed) for answer in got):
            return got


@pytest.mark.parametrize("wire_of", ["members", "database"])
async def test_wires_that_are_slow_change_no_answer(machines: list[Machine], wire_of: str) -> None:
    owner, member = machines
    getattr(owner, wire_of).delay(0.02)
    sent = sending(member.engine, "a", "b", None) + sending(owner.engine, "c", None)
    got = await answers(sent)
    with pytest.raises(Rejected):
        await member.engine.execute(Look("c"))

    assert {type(answer) for answer in got} == {Receipt}
    await judge(member.engine, got, [])
    assert part(owner.engine).role == "owner"


@pytest.mark.parametrize("change", [doubled, reordered, cut, oversized])
@pytest.mark.parametrize("way", WAYS)
async def test_frames_that_are_changed_on_their_way_lose_and_double_nothing(
    machines: list[Machine], way: Way, change: Any
) -> None:
    owner, member = machines
    await member.engine.execute(Add("c", 1))
    owner.members.change_frames(way, change)
    keyed, others = sending(member.engine, "a", "b", "c"), sending(member.engine, None, None)
    got, rest = await answers(keyed), await answers(others)

    assert owner.members.lanes[way].change is None
    await judge(owner.engine, got, rest, before=1)
    assert await answers(sending(owner.engine, "a", "b", "c")) == got


@pytest.mark.parametrize("way", WAYS)
async def test_a_wire_that_ends_in_the_middle_of_a_frame_loses_and_doubles_nothing(
    machines: list[Machine], way: Way
) -> None:
    owner, member = machines
    await member.engine.execute(Add("c", 1))
    for turn, size in enumerate((2, 9, 40)):
        before = (await owner.engine.state(Counter, "c")).total
        owner.members.cut_behind(way, size)
        keys = [f"{turn}-{number}" for number in range(2)]
        keyed, others = sending(member.engine, *keys), sending(member.engine, None)
        got, rest = await answers(keyed), await answers(others)

        assert owner.members.lanes[way].rest is None
        await judge(owner.engine, got, rest, before=before)
        assert await answers(sending(owner.engine, *keys)) == got
    assert owner.members.passed > 3
