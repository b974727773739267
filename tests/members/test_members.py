"""Engines that share a log: to whoever calls one, a member is as good as the owner."""

from __future__ import annotations

import asyncio
import stat
from collections import OrderedDict
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine import (
    Command,
    Conflict,
    DeadlinePassed,
    DefinitionError,
    Engine,
    EngineError,
    Envelope,
    Forbidden,
    HandlerFailed,
    Id,
    InvalidInput,
    KeyReused,
    Limits,
    Overloaded,
    ProjectionLag,
    Receipt,
    Rejected,
    StoreLocked,
    UsageError,
    Voided,
    WrongVersion,
)
from engine.stores.memory import MemoryStore
from tests.members.joining import both, joined, part, some
from tests.support.counters import Add, Counter, Empty, Look, Spoil, Touch
from tests.support.tallies import GetTallies, GetTally, Tally


async def test_a_members_command_is_run_by_the_owner_and_answered_with_its_receipt(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)

        first = await member.execute(Add("c", 2, tags={"a": [1]}))
        second = await owner.execute(Add("c", 3))

        assert first == Receipt("counter:c", 1, 1)
        assert second == Receipt("counter:c", 2, 2)
        assert (await member.state(Counter, "c")).total == 5
        assert part(member).forwarded == 1
        assert part(owner).forwarded == 0


async def test_a_member_tells_no_numbers_of_projections_that_the_owner_runs(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        await member.query(GetTally("c"), at=await member.execute(Add("c", 2)))

        told = [engine.statistics().projectors["tallies"] for engine in (owner, member)]
        assert told[0].position == 1
        assert (told[1].state, told[1].lag_events) == ("elsewhere", None)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (Add("c", -1), {}),
        (Add("c", 1), {"expected": 7}),
        (Add("c", 2), {"key": "k"}),
        (Add("c", 1), {"deadline": 0.0}),
        (Add("c", 1), {"key": 3}),
        (Add("c", 1), {"headers": {"a": 1}}),
        (Add("", 1), {}),
        (Look("c"), {}),
        (Touch("c"), {}),
        (Spoil("c", "raise"), {}),
        (Spoil("c", "fold"), {}),
        (GetTallies(), {}),
        ("text", {}),
    ],
    ids=str,
)
async def test_a_members_caller_is_told_what_the_owners_is(
    tmp_path: Path, command: Command, options: dict[str, object]
) -> None:
    async with AsyncExitStack() as stack:
        engines = await some(tmp_path, 2, stack)
        await engines[0].execute(Add("c", 1), key="k")

        async def ask(engine: Engine) -> object:
            return await engine.execute(command, **options)  # type: ignore[arg-type]

        told, of_member = await both(engines, ask)

        assert type(of_member) is type(told)
        if isinstance(told, Rejected):
            assert (of_member.code, of_member.details) == (told.code, told.details)
        if isinstance(told, EngineError):
            assert str(of_member) == str(told)
            assert of_member.safe_to_resend == told.safe_to_resend
        else:
            assert of_member == told


async def test_an_error_arrives_with_its_attributes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)
        await member.execute(Add("c", 1), key="k")

        with pytest.raises(WrongVersion) as wrong:
            await member.execute(Add("c", 1), expected=9)
        with pytest.raises(KeyReused):
            await member.execute(Add("c", 2), key="k")
        with pytest.raises(HandlerFailed):
            await member.execute(Spoil("c", "raise"))

        assert (wrong.value.stream, wrong.value.expected, wrong.value.actual) == ("counter:c", 9, 1)
        assert not issubclass(WrongVersion, Conflict)


async def test_a_key_is_known_to_whichever_process_it_comes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member, other = await some(tmp_path, 3, stack)

        receipts = [await engine.execute(Add("c", 1), key="k") for engine in (member, other, owner)]

        assert receipts == [Receipt("counter:c", 1, 1)] * 3


async def test_what_travels_with_a_command_arrives(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        await member.execute(
            Add("c", 1),
            key="k",
            correlation="basket",
            causation="click",
            principal="anna",
            headers={"traceparent": "00-1"},
        )

        [logged] = (await owner.history(Counter, "c")).events
        meta = logged.meta
        assert (meta.key, meta.correlation, meta.causation, meta.principal, meta.headers) == (
            "k",
            "basket",
            "click",
            "anna",
            {"traceparent": "00-1"},
        )


async def test_a_command_that_would_arrive_changed_is_refused_where_it_was_sent(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)

        with pytest.raises(InvalidInput, match=r"Add\.tags would arrive as something else"):
            await member.execute(Add("c", 1, tags=OrderedDict(a=[1])))
        with pytest.raises(InvalidInput, match=r"Add\.amount must be an int, and is a str"):
            await member.execute(Add("c", "secret"))  # type: ignore[arg-type]

        assert part(member).forwarded == 0


async def test_a_stream_of_commands_is_answered_in_its_order(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)
        commands = [Envelope(command=Add(f"c{n % 3}", n - 1), key=str(n)) for n in range(60)]

        answers = [answer async for answer in member.execute_many(commands, window=16)]

        assert isinstance(answers[0], Rejected)
        versions = [a.version for a in answers[1:] if isinstance(a, Receipt)]
        assert versions == [(n + 2) // 3 if n % 3 else n // 3 for n in range(1, 60)]


async def test_queries_at_a_receipt_and_the_past_are_answered_by_members(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member, other = await some(tmp_path, 3, stack)
        first = await member.execute(Add("c", 1))
        last = await owner.execute(Add("c", 2))

        assert await other.query(GetTally("c"), at=last) == Tally("c", 3, 2)
        assert await member.query(GetTallies(), at=last.token) == [Tally("c", 3, 2)]
        assert (await member.state(Counter, "c", version=1)).total == 1
        assert [c.path for c in await member.difference(Counter, "c", 1, 2)] == [("total",)]
        async with member.past(position=first) as past:
            assert await past.query(GetTally("c")) == Tally("c", 1, 1)
        with pytest.raises(InvalidInput):
            await member.query(GetTally("c"), at=99)
        await owner.projections.pause("tallies")
        behind = await owner.execute(Add("c", 1))
        with pytest.raises(ProjectionLag):
            await member.query(GetTally("c"), at=behind, timeout=0.01)


async def test_members_follow_the_log_and_watch_queries(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        await owner.execute(Add("c", 1))
        feed = await stack.enter_async_context(aclosing(member.feed(follow=True)))
        watch = await stack.enter_async_context(aclosing(member.watch(GetTally("c"), at=1)))

        assert (await anext(feed)).meta.position == 1
        assert await anext(watch) == Tally("c", 1, 1)
        assert b'"total":1' in watch.json
        following = asyncio.create_task(anext(feed))
        await owner.execute(Add("c", 1))
        assert (await following).meta.position == 2
        assert await anext(watch) == Tally("c", 2, 2)
        assert watch.position == 2
        with pytest.raises(InvalidInput, match="the log ends at position 2"):
            await anext(member.feed(3))


async def test_operators_may_call_any_process(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        await member.projections.pause("tallies", reason="a look", principal="ops")

        assert (await owner.projections.status("tallies")).state == "paused"
        [status] = await member.projections.list()
        assert status == await member.projections.status("tallies")
        [decision] = await member.projections.decisions("tallies")
        assert (decision.kind, decision.reason, decision.principal) == ("pause", "a look", "ops")
        await member.projections.resume("tallies")
        assert await member.projections.parked("tallies") == ()
        with pytest.raises(UsageError, match="no projection 'x'"):
            await member.projections.pause("x")
        await member.projections.rebuild("tallies")
        await member.projections.drop("tallies")
        assert len(member.projections) == len(owner.projections) == 1


async def test_the_gate_is_asked_wherever_a_call_comes_in(tmp_path: Path) -> None:
    def allows(principal: str | None, _: str, __: object) -> bool:
        return principal == "anna"

    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack, authorize=allows)
        receipt = await member.execute(Add("c", 1), principal="anna")

        assert await member.query(GetTally("c"), at=receipt, principal="anna") is not None
        assert (await member.projections.list(principal="anna"))[0].name == "tallies"
        with pytest.raises(Forbidden):
            await member.execute(Add("c", 1), principal="eve")
        with pytest.raises(Forbidden):
            await member.query(GetTally("c"), principal="eve")
        with pytest.raises(Forbidden):
            await anext(member.watch(GetTally("c"), principal="eve"))
        with pytest.raises(Forbidden):
            await anext(member.feed(principal="eve"))
        with pytest.raises(Forbidden):
            await member.history(Counter, "c", principal="eve")
        with pytest.raises(Forbidden):
            await member.projections.list(principal="eve")


async def test_a_member_takes_only_so_many_commands_at_a_time(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        few = Limits(commands_accepted=3, mailbox_commands=3)
        _, member = await some(tmp_path, 2, stack, limits=few)
        sent = [asyncio.create_task(member.execute(Add("c", 1))) for _ in range(5)]

        answers = await asyncio.gather(*sent, return_exceptions=True)

        assert [type(answer) for answer in answers] == [Receipt] * 3 + [Overloaded] * 2
        assert (await member.execute(Add("c", 1))).version == 4


async def test_a_deadline_goes_along(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)

        assert (await member.execute(Add("c", 1), deadline=60)).version == 1
        with pytest.raises(DeadlinePassed):
            await member.execute(Add("c", 1), deadline=-1)


async def test_what_is_changed_after_the_call_changes_nothing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)
        tags = {"a": [1]}
        sent = asyncio.create_task(member.execute(Add("c", 1, tags=tags)))
        await asyncio.sleep(0)
        tags["a"].append(2)
        tags["b"] = []
        await sent

        assert (await member.state(Counter, "c")).tags == {"a": [1]}


async def test_the_socket_is_its_owners_alone(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await some(tmp_path, 1, stack)

        assert stat.S_IMODE((tmp_path / "log.db.members").stat().st_mode) == 0o600
    assert not (tmp_path / "log.db.members").exists()


async def test_processes_meet_whatever_they_call_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    async with AsyncExitStack() as stack:
        names = [f"sqlite:{folder}/log.db", "sqlite:log.db", f"sqlite:{tmp_path}/link/log.db"]
        engines = [joined(folder, store=name) for name in names]
        for engine in engines:
            await stack.enter_async_context(engine)
        monkeypatch.chdir(tmp_path)

        versions = [(await engine.execute(Add("c", 1))).version for engine in engines]
        assert versions == [1, 2, 3]


async def test_a_log_whose_engine_lets_nobody_join_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.members.membership.PATIENCE_SECONDS", 0.0)
    async with Engine([Counter], store=f"sqlite:{tmp_path}/log.db"):
        with pytest.raises(StoreLocked, match="cannot be joined at .* give every engine"):
            await joined(tmp_path).__aenter__()


async def test_an_engine_that_does_not_join_is_kept_out(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await some(tmp_path, 2, stack)
        with pytest.raises(StoreLocked):
            await Engine([Counter], store=f"sqlite:{tmp_path}/log.db").__aenter__()


@pytest.mark.parametrize("store", ["memory:", MemoryStore()])
def test_a_store_that_nobody_can_join_is_refused(store: object) -> None:
    with pytest.raises(DefinitionError):
        Engine([Counter], store=store, join=True)  # type: ignore[arg-type]


async def test_a_member_that_knows_other_commands_is_told_so(tmp_path: Path) -> None:
    class Added2(Command):
        counter_id: Id

    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        # The owner runs a release that has no such command.
        serving = owner._joined._membership._serving  # type: ignore[union-attr]
        assert serving is not None
        serving._forms._decoders = {}

        with pytest.raises(Voided, match="runs another release. Nothing was run"):
            await member.execute(Empty("c"))


async def test_times_come_back_as_they_were(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        await member.execute(Add("c", 1))
        at = datetime.now(UTC)
        assert (await member.state(Counter, "c", at=at)).total == 1
        assert (await owner.state(Counter, "c", at=at)).total == 1
