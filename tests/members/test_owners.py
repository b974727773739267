"""Owners that stand still, go, or cannot be reached: their members say so, and say nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Closed,
    DeadlinePassed,
    Engine,
    EngineError,
    Envelope,
    KeyReused,
    Limits,
    OutcomeUnknown,
    Overloaded,
    Receipt,
    Rejected,
    StoreLocked,
    StoreRefused,
    StreamUnreadable,
)
from engine.members.forms import error_of
from engine.members.wire import PROTOCOL, Failed, Hello, Line, Message, Sent, Told, Welcome
from engine.runtime.unix_socket import listen
from tests.members.joining import joined, part, some
from tests.members.lines import Client, cut, serving_of
from tests.strangers.forking import status_of_fork
from tests.support.counters import Add, Counter
from tests.support.tallies import GetTally, Tallies, Tally
from tests.support.waiting import until

OTHER = 1
"""A process that owns a log, as it says."""


@asynccontextmanager
async def pretending(path: Path, hear: Callable[[Line, Message], None]) -> AsyncGenerator[None]:
    """Own a log and let members connect with what takes their messages as it likes."""
    async with Engine([Counter], projections=[Tallies], store=f"sqlite:{path}/log.db"):
        lines: list[Line] = []

        def line() -> Line:
            lines.append(Line(hear, lambda _: None))
            return lines[-1]

        listener = await listen(f"{path}/log.db.members", line)
        try:
            yield
        finally:
            listener.close()
            for each in lines:
                each.abort()


async def log_id_of(path: Path) -> str:
    async with Engine([Counter], projections=[Tallies], store=f"sqlite:{path}/log.db") as engine:
        return engine._store.log_id


# -- an owner that stands still ---------------------------------------------------------------


async def test_who_waits_for_an_owner_that_stands_still_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log_id, waiting = await log_id_of(tmp_path), list[tuple[Line, Message]]()
    still = asyncio.Event()

    def hear(line: Line, message: Message) -> None:
        if isinstance(message, Hello):
            line.send(Welcome(PROTOCOL, OTHER, log_id))
        elif still.is_set():
            line.send(Told(0, b""))
        waiting.append((line, message))

    monkeypatch.setattr("engine.members.membership.PATIENCE_SECONDS", 0.2)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pretending(tmp_path, hear))
        member = await stack.enter_async_context(joined(tmp_path))
        sent = [member.execute(Add("c", 1), key="k"), member.execute(Add("c", 1), deadline=60)]
        listed = member.projections.list()

        for answer in await asyncio.gather(*sent, listed, return_exceptions=True):
            assert isinstance(answer, OutcomeUnknown)
            assert f"process {OTHER} owns the log and has said nothing for" in str(answer)
        with pytest.raises(Closed, match="has said nothing .* was not run"):
            await member.execute(Add("c", 1))
        assert await member.query(GetTally("c")) is None
        assert "Commands of this process are refused until it answers" in caplog.text

        still.set()
        await until(lambda: f"process {OTHER} answers again" in caplog.text)
        late = asyncio.create_task(member.execute(Add("c", 7)))
        await until(lambda: isinstance(waiting[-1][1], Sent))
        late.cancel()


async def test_a_start_beside_an_owner_that_stands_still_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.members.membership.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("engine.members.membership._WELCOME_SECONDS", 0.01)
    async with pretending(tmp_path, lambda *_: None):
        with pytest.raises(StoreLocked, match="It does not answer at .* stands still"):
            await joined(tmp_path).__aenter__()


async def test_a_deadline_goes_on_while_its_command_waits_to_be_read(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        name, body = member._joined.forwarding._forms.encode(Add("c", 1))  # type: ignore[union-attr]
        clock = 1_000.0  # of another machine, say
        client = await Client().to(tmp_path)
        client.line.send(Hello(PROTOCOL, OTHER, clock))
        await until(lambda: client.got)
        for number, until_when in ((1, clock - 1), (2, clock + 60)):
            sent = Sent(number, name, body, None, None, None, None, None, None, until_when)
            client.line.send(sent)
        await until(lambda: len(client.got) == 3)

        [late] = [answer for answer in client.got if isinstance(answer, Failed)]
        assert isinstance(error_of(late.classes, late.values), DeadlinePassed)
        assert (late.number, owner.statistics().position) == (1, 1)
        client.line.close()


# -- a command that an owner may have run, and the next one says that it was not ----------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (DeadlinePassed("late"), OutcomeUnknown),
        (StreamUnreadable("damaged"), OutcomeUnknown),
        (Rejected("no", "no"), Rejected),
        (KeyReused("another"), KeyReused),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
async def test_no_later_owner_says_that_a_command_was_not_run_unless_it_has_looked_for_its_key(
    tmp_path: Path, said: EngineError, told: type[EngineError]
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        sent = asyncio.create_task(member.execute(Add("c", 1), key="k"))
        await until(lambda: part(member).forwarded == 1)
        serving_of(owner)._send = raising(said)
        cut(owner)

        with pytest.raises(told) as answer:
            await sent
        if told is OutcomeUnknown:
            assert "has not looked for its key" in str(answer.value)
        with pytest.raises(type(said)):  # it was sent once
            await member.execute(Add("c", 1), key="other")


def raising(error: EngineError) -> Callable[[object, object], Any]:
    def send(_: object, __: object) -> None:
        raise error

    return send


async def test_a_command_that_may_have_been_run_waits_where_the_next_owner_is_full(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        sent = [asyncio.create_task(member.execute(Add("c", 1), key=str(n))) for n in range(9)]
        await until(lambda: part(member).forwarded == 9)
        serving = serving_of(owner)
        real, full = serving._send, iter(range(5))

        def send(envelope: Envelope, origin: Any) -> Any:
            if next(full, None) is not None:
                raise Overloaded("full")
            return real(envelope, origin)

        serving._send = send
        cut(owner)

        assert [a.version for a in await asyncio.gather(*sent)] == [*range(1, 10)]
        assert next(full, None) is None


async def test_a_stream_of_commands_waits_where_the_owner_is_full(tmp_path: Path) -> None:
    few = Limits(mailbox_commands=3)
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(joined(tmp_path, limits=few))
        member = await stack.enter_async_context(joined(tmp_path))
        commands = [Add("c", 1) for _ in range(200)]

        answers = [answer async for answer in member.execute_many(commands, window=150)]

        assert [a.version for a in answers if isinstance(a, Receipt)] == [*range(1, 201)]
        assert owner.statistics().position == 200


async def test_a_command_that_may_have_been_run_is_never_said_to_be_not_run_where_no_owner_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        forwarding = member._joined.forwarding  # type: ignore[union-attr]
        sent = asyncio.create_task(member.execute(Add("c", 1), key="k", deadline=60))
        await until(lambda: part(member).forwarded == 1)
        # The next owner stops and refuses it, and there is none behind that one.
        serving_of(owner)._send = raising(Closed("stopping"))
        cut(owner)
        await until(lambda: part(member).forwarded == 2)
        [waiting] = forwarding._waiting.values()
        await until(lambda: not waiting.is_sent)
        forwarding._give_up()

        with pytest.raises(OutcomeUnknown, match="may have been run"):
            await sent


async def test_a_deadline_leaves_no_timer_behind_a_command_that_was_sent(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)
        sent = asyncio.create_task(member.execute(Add("c", 1), deadline=3_600))
        await until(lambda: part(member).forwarded == 1)
        held = [*member._joined.forwarding._waiting.values()]  # type: ignore[union-attr]
        await sent

        assert [waiting.timer for waiting in held] in ([None], [])


# -- an owner that cannot be reached --------------------------------------------------------------


async def test_a_socket_that_was_taken_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.members.serving._LOOK_SECONDS", 0.01)
    socket = tmp_path / "log.db.members"
    async with AsyncExitStack() as stack:
        await some(tmp_path, 1, stack)
        for put in (None, socket.touch, socket.mkdir):
            socket.unlink()
            if put is not None:
                put()
                await until(lambda: "what stands there is no socket" in caplog.text)
                socket.rmdir() if socket.is_dir() else socket.unlink()
            await until(socket.is_socket)
            member = await stack.enter_async_context(joined(tmp_path))
            assert part(member).role == "member"
            caplog.clear()


async def test_a_log_of_a_long_name_has_a_socket_too(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/{'ä' * 60}.db"
    async with AsyncExitStack() as stack:
        engines = [joined(tmp_path, store=store) for _ in range(2)]
        for engine in engines:
            await stack.enter_async_context(engine)

        assert part(engines[1]).role == "member"


async def test_an_owner_that_goes_takes_no_other_ones_socket_away(tmp_path: Path) -> None:
    socket = tmp_path / "log.db.members"
    async with AsyncExitStack() as stack:
        await some(tmp_path, 1, stack)
        socket.unlink()
        other = await listen(str(socket), lambda: Line(lambda *_: None, lambda _: None))
        await stack.aclose()

        assert socket.is_socket()
        other.close()
    assert not socket.exists()


async def test_a_fork_of_the_owner_does_not_listen_in_its_place(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        [owner] = await some(tmp_path, 1, stack)
        [descriptor] = serving_of(owner)._meeting._listener._descriptors

        def is_gone() -> bool:
            return Path(f"/proc/self/fd/{descriptor}").readlink() == Path("/dev/null")

        assert not is_gone()
        assert status_of_fork(is_gone) == 0


async def test_an_owner_that_leaves_welcomes_nobody(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        [owner] = await some(tmp_path, 1, stack)
        early, late = await Client().to(tmp_path), await Client().to(tmp_path)
        await until(lambda: len(serving_of(owner)._lines) == 2)
        serving_of(owner).leave()
        late.line.send(Hello(PROTOCOL, OTHER))
        await asyncio.wait_for(asyncio.gather(early.lost.wait(), late.lost.wait()), 60)

        assert early.got == late.got == []


async def test_an_owner_of_another_log_is_not_joined(tmp_path: Path) -> None:
    await log_id_of(tmp_path)

    def hear(line: Line, _: Message) -> None:
        line.send(Welcome(PROTOCOL, OTHER, "another"))

    async with pretending(tmp_path, hear):
        with pytest.raises(StoreRefused, match=f"process {OTHER} owns another log"):
            await joined(tmp_path).__aenter__()


# -- ends -----------------------------------------------------------------------------------------


async def test_a_member_that_stops_waits_for_the_answers_of_its_owner(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        [owner] = await some(tmp_path, 1, stack)
        member = joined(tmp_path)
        await member.__aenter__()
        sent = [asyncio.create_task(member.execute(Add("c", 1))) for _ in range(50)]
        await until(lambda: part(member).forwarded == 50)
        await member.__aexit__(None, None, None)

        assert [a.version for a in await asyncio.gather(*sent)] == [*range(1, 51)]
        assert (await owner.state(Counter, "c")).total == 50


async def test_an_end_that_is_cancelled_comes_to_its_end(tmp_path: Path) -> None:
    engine = joined(tmp_path)
    await engine.__aenter__()
    receipt = asyncio.create_task(engine.execute(Add("c", 1)))
    ending = asyncio.create_task(engine.__aexit__(None, None, None))
    await until(lambda: engine._life.state == "stopping")
    ending.cancel()
    with suppress(asyncio.CancelledError):
        await ending

    assert (await receipt).version == 1
    async with Engine([Counter], store=f"sqlite:{tmp_path}/log.db"):
        pass  # nothing has it open any more


async def test_what_is_watched_at_a_member_ends_with_it(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        [owner] = await some(tmp_path, 1, stack)
        member = joined(tmp_path)
        await member.__aenter__()
        await owner.execute(Add("c", 1))
        watch = await stack.enter_async_context(aclosing(member.watch(GetTally("c"), at=1)))
        assert await anext(watch) == Tally("c", 1, 1)
        following = asyncio.create_task(anext(watch, "ended"))
        asked = asyncio.create_task(member.query(GetTally("c"), at=2, timeout=60))
        await owner.projections.pause("tallies")
        await owner.execute(Add("c", 1))
        await asyncio.sleep(0)
        await member.__aexit__(None, None, None)

        assert await following == "ended"
        with suppress(EngineError):
            await asked


async def test_a_member_that_cannot_take_the_log_over_stays_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("engine.members.membership._AGAIN_SECONDS", 0.01)
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path)
        await owner.__aenter__()
        receipt = await owner.execute(Add("c", 1))
        member = await stack.enter_async_context(joined(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr("engine.host.supervisor.Supervisor.start", refused)
            await owner.__aexit__(None, None, None)
            await until(lambda: "neither take the log over nor join" in caplog.text)
            assert "the disk is full" in caplog.text
            kept: asyncio.Task[Receipt] = asyncio.create_task(member.execute(Add("c", 1)))
            assert await member.query(GetTally("c"), at=receipt) == Tally("c", 1, 1)

        assert (await kept).version == 2
        assert part(member).role == "owner"
        assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


async def refused(*_: object) -> None:
    raise StoreRefused("the disk is full")
