"""Several owners on machines of their own, whose network drops, doubles and holds what passes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from engine import Conflict, OutcomeUnknown, Receipt
from engine.members import meeting
from tests.members.joining import answers
from tests.members.spreading import accounts_of, is_settled
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
from tests.write.accounts import Account, Deposit, Transfer, bank, cents


class Machine(msgspec.Struct):
    """An engine, and the wire on which other owners come."""

    engine: Any
    wire: Wire


def is_met(engine: Any) -> bool:
    peers = engine._joined._router._peers.values()
    return is_settled(engine, 2) and all(peer.forwarding.is_connected for peer in peers)


def lines_of(engine: Any) -> list[Any]:
    return [peer.forwarding._line for peer in engine._joined._router._peers.values()]


@pytest.fixture
async def machines(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Machine]]:
    ports: list[int] = []
    beside = vars(meeting)["_folders"]

    def folders(address: str) -> list[str]:
        """Give no folder of an owner, whose way is a wire."""
        found: list[str] = beside(address)
        return [] if any(f":{port}" in address for port in ports) else found

    monkeypatch.setattr("engine.members.meeting._folders", folders)
    log = postgres.url(postgres.new_schema(), "lease=5", "patience=1")
    async with AsyncExitStack() as stack:
        found: list[Machine] = []
        for number in (2, 3):
            port, host = free_port(), f"127.0.0.{number}"
            ports.append(port)
            others = await stack.enter_async_context(wire(port, host=host, port=port))
            listen = f"tcp://127.0.0.1:{port}?advertise={host}"
            engine = bank(store=log, join="spread", listen=listen)
            await stack.enter_async_context(engine)
            found.append(Machine(engine, others))
        await until(lambda: all(is_met(each.engine) for each in found))
        try:
            yield found
        finally:
            for each in found:
                each.wire.release()


@pytest.mark.parametrize("ways", CUTS, ids=NAMES)
async def test_a_way_that_drops_all_and_tells_nobody_keeps_no_caller_for_ever(
    machines: list[Machine], ways: tuple[Way, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("spread.peer", "forwarding"):
        monkeypatch.setattr(f"engine.members.{name}.PATIENCE_SECONDS", 0.4)
    owner, other = machines
    monkeypatch.setattr(other.engine._joined._router, "_patience_seconds", 0.4)
    [a] = accounts_of(owner.engine, 1)
    await other.engine.execute(Deposit(a, 1))
    owner.wire.hold(*ways)
    keyed, free = Deposit(a, 1), Deposit(a, 1)
    sent = [
        asyncio.create_task(other.engine.execute(keyed, key="k")),
        asyncio.create_task(other.engine.execute(free)),
        asyncio.create_task(other.engine.execute(free, deadline=0.1)),
    ]
    assert {type(answer) for answer in await answers(sent)} == {OutcomeUnknown}

    owner.wire.release()
    await until(lambda: is_met(other.engine))
    assert isinstance(await other.engine.execute(keyed, key="k"), Receipt)
    account = await owner.engine.state(Account, a)
    assert 2 <= account.cents <= 4
    assert isinstance(await owner.engine.execute(keyed, key="k"), Receipt)
    assert (await owner.engine.state(Account, a)).cents == account.cents


@pytest.mark.parametrize("change", [doubled, reordered, cut, oversized])
@pytest.mark.parametrize("way", WAYS)
async def test_frames_that_are_changed_between_owners_move_no_cent_twice(
    machines: list[Machine], way: Way, change: Any
) -> None:
    owner, other = machines
    [a], [b] = accounts_of(owner.engine, 1), accounts_of(other.engine, 1)
    await owner.engine.execute(Deposit(a, 100))
    owner.wire.change_frames(way, change)
    keyed = [other.engine.execute(Transfer(a, b, 1), key=f"k{n}") for n in range(3)]
    free = [other.engine.execute(Transfer(a, b, 10)) for _ in range(2)]
    got = await answers([asyncio.ensure_future(each) for each in [*keyed, *free]])

    assert owner.wire.lanes[way].change is None
    assert {type(answer) for answer in got[:3]} <= {Receipt, Conflict}
    assert {type(answer) for answer in got[3:]} <= {Receipt, Conflict, OutcomeUnknown}
    left, moved = await cents(other.engine, a, b)
    assert left + moved == 100
    done = sum(isinstance(answer, Receipt) for answer in got[:3])
    least = 10 * sum(isinstance(answer, Receipt) for answer in got[3:])
    assert moved % 10 == done
    assert moved // 10 * 10 >= least


async def test_a_process_leaves_though_what_connects_does_not_let_itself_be_cancelled(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of NATS that is cancelled as it closes goes on."""
    log, tried = postgres.url(postgres.new_schema(), "lease=5"), asyncio.Event()

    async def connect(*_: Any) -> str:
        tried.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)
        raise ConnectionRefusedError

    one, other = (bank(store=log, join="spread") for _ in range(2))
    async with one, other:
        await until(lambda: is_met(one) and is_met(other))
        monkeypatch.setattr(meeting.LeaseMeeting, "connect_at", connect)
        for line in [*lines_of(one), *lines_of(other)]:
            line.abort()
        await tried.wait()
