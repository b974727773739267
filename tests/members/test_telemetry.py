"""What a telemetry is shown of a member's commands and queries; nothing is counted twice."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from engine import (
    CommandBegan,
    Engine,
    Envelope,
    ForwardBegan,
    InvalidInput,
    LoadBegan,
    OutcomeUnknown,
    QueryBegan,
    Rejected,
)
from engine.integrations.opentelemetry import OpenTelemetry
from tests.members.joining import joined, part
from tests.support.counters import Add, Look
from tests.support.opentelemetry import Sdk, attributes, context_of
from tests.support.postgres import Server
from tests.support.recorder import Raising, Recorder
from tests.support.tallies import GetTally, Tally
from tests.support.waiting import until


@pytest.fixture(params=["file", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"sqlite:{tmp_path}/log.db"
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.new_schema(), "lease=2")


async def pair(store: str, path: Path, stack: AsyncExitStack, *seen: Any) -> list[Engine]:
    """Give an owner and a member, each with a telemetry of its own."""
    engines = [joined(path, store=store, telemetry=telemetry) for telemetry in seen]
    for engine in engines:
        await stack.enter_async_context(engine)
    return engines


async def test_a_command_is_shown_once_where_it_is_sent_and_once_where_it_is_run(
    store: str, tmp_path: Path
) -> None:
    owners, members = Recorder(), Recorder({"sent": "by a member"})
    async with AsyncExitStack() as stack:
        owner, member = await pair(store, tmp_path, stack, owners, members)
        receipt = await member.execute(Add("c", 1), correlation="order 7", key="k")
        with pytest.raises(Rejected):
            await member.execute(Look("c"))
        await owner.execute(Add("c", 1))

        ((began, error, facts), (_, refused, told)) = members.of(ForwardBegan)
        assert (began.command, began.kind, began.correlation) == (Add("c", 1), "counter", "order 7")
        assert error is None
        assert facts == {"answer": "receipt", "stream": "counter:c", "version": 1, "position": 1}
        assert isinstance(refused, Rejected)
        assert told == {"answer": "rejected"}
        assert not members.of(CommandBegan) + members.of(LoadBegan) + owners.of(ForwardBegan)
        # The owner has seen it with what the member's telemetry gave, and no other.
        run = [told[0] for told in owners.of(CommandBegan)]
        assert [one.headers for one in run] == [{"sent": "by a member"}] * 2 + [None]
        assert receipt.position == 1

        numbers = part(member)
        assert numbers.answers == {"receipt": 1, "rejected": 1}
        assert numbers.seconds > 0
        assert part(owner).answers == {}
        counted = [engine.statistics().commands.answers for engine in (owner, member)]
        assert [c.get("receipt", 0) for c in counted] == [2, 0]


async def test_a_members_queries_are_shown_and_counted(store: str, tmp_path: Path) -> None:
    members = Recorder()
    async with AsyncExitStack() as stack:
        owner, member = await pair(store, tmp_path, stack, None, members)
        receipt = await owner.execute(Add("c", 1))
        for engine in (owner, member):
            assert await engine.query(GetTally("c"), at=receipt) == Tally("c", 1, 1)

        ((began, error, facts),) = members.of(QueryBegan)
        assert (began.query, began.at, error) == (GetTally("c"), 1, None)
        assert set(facts) == {"seconds", "wait_seconds"}
        for engine in (owner, member):
            numbers = engine.statistics().queries["get-tally"]
            assert (numbers.answered, numbers.seconds.count) == (1, 1)


async def test_what_cannot_be_sent_and_what_nobody_knows_ends_too(tmp_path: Path) -> None:
    members = Recorder()
    async with AsyncExitStack() as stack:
        _, member = await pair(f"sqlite:{tmp_path}/log.db", tmp_path, stack, None, members)
        with pytest.raises(InvalidInput):
            await member.execute(Add("c", 1, tags=OrderedDict(a=[1])))
        inside: Any = member
        waiting = inside._send(Envelope(command=Add("d", 1)))
        inside._joined.forwarding.lost()
        with pytest.raises(OutcomeUnknown):
            await waiting
        await until(lambda: len(members.of(ForwardBegan)) == 2)
        answers = [told[2]["answer"] for told in members.of(ForwardBegan)]
        assert answers == ["invalid-input", "outcome-unknown"]
        assert part(member).answers == {"invalid-input": 1, "outcome-unknown": 1}


@pytest.mark.parametrize("step", ["begin", "headers", "end"])
async def test_a_telemetry_that_raises_keeps_no_command_from_the_owner(
    step: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        raising = Raising(step, ValueError("told nobody"))
        _, member = await pair(f"sqlite:{tmp_path}/log.db", tmp_path, stack, None, raising)
        assert (await member.execute(Add("c", 1))).version == 1
        await until(lambda: member.statistics().telemetry_failures)


# -- OpenTelemetry ----------------------------------------------------------------------------


async def test_a_trace_goes_on_in_the_owners_process(store: str, tmp_path: Path) -> None:
    mine, its = Sdk(), Sdk()
    async with AsyncExitStack() as stack:
        _, member = await pair(store, tmp_path, stack, its.telemetry(), mine.telemetry())
        with mine.tracers.get_tracer("host").start_as_current_span("request") as request:
            await member.execute(Add("c", 1))
        await until(lambda: its.spans("commit") and mine.spans("forward add"))

        (forwarded,), (run,) = mine.spans("forward add"), its.spans("add")
        assert forwarded.kind is SpanKind.CLIENT
        assert forwarded.parent == request.get_span_context()
        assert attributes(forwarded)["foldline.answer"] == "receipt"
        assert "foldline.stream" not in attributes(forwarded)
        assert run.parent is not None
        assert run.parent.span_id == context_of(forwarded).span_id
        assert context_of(run).trace_id == request.get_span_context().trace_id
        assert not mine.spans("add") + its.spans("forward add")
        answers = mine.metrics()["foldline.membership.answers"]
        assert answers == [({"foldline.answer": "receipt"}, 1)]
        assert "foldline.commands" not in str(answers)


async def test_without_spans_the_trace_of_the_caller_goes_to_the_owner(tmp_path: Path) -> None:
    mine, its = Sdk(), Sdk()
    async with AsyncExitStack() as stack:
        carrying: OpenTelemetry = mine.telemetry(spans=False, carry=True)
        log = f"sqlite:{tmp_path}/log.db"
        _, member = await pair(log, tmp_path, stack, its.telemetry(), carrying)
        with mine.tracers.get_tracer("host").start_as_current_span("request") as request:
            await member.execute(Add("c", 1))
        await until(lambda: its.spans("add"))
        (run,) = its.spans("add")
        assert run.parent is not None
        assert run.parent.span_id == request.get_span_context().span_id
