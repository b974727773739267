"""Where the owner of a log goes: its members' commands are answered, each is run once or not."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from engine import (
    Closed,
    DeadlinePassed,
    Engine,
    EngineFailed,
    OutcomeUnknown,
    Overloaded,
    Ports,
    Receipt,
)
from engine.members import serving
from engine.members.waiting import Post
from engine.members.wire import FRAME_MAX, PROTOCOL, Hello, Line, Message, Sent, Welcome
from engine.model.messages import Envelope
from engine.runtime.unix_socket import listen
from engine.write.mailbox import Origin
from engine.write.mailbox import Sent as Sending
from tests.members.joining import joined, part, some
from tests.members.lines import Client, cut, forwarding_of, serving_of
from tests.strangers.forking import status_of_fork
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.tallies import GetTally, Tally
from tests.support.waiting import until


async def test_an_owner_that_stops_leaves_no_command_unanswered(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path)
        await owner.__aenter__()
        members = [await stack.enter_async_context(joined(tmp_path)) for _ in range(2)]
        sent = [
            asyncio.create_task(members[n % 2].execute(Add(f"c{n % 7}", 1))) for n in range(200)
        ]
        await until(lambda: owner.statistics().position > 0)
        await owner.__aexit__(None, None, None)

        answers = await asyncio.gather(*sent)

        assert sorted(a.position for a in answers) == list(range(1, 201))
        await until(lambda: {part(m).role for m in members} == {"owner", "member"})
        receipts = [await member.execute(Add("c0", 1)) for member in members]
        assert [r.position for r in receipts] == [201, 202]
        for member in members:
            found = await member.query(GetTally("c0"), at=receipts[1])
            assert found == Tally("c0", 31, 31)


async def test_commands_without_keys_that_come_while_an_owner_stops_are_run_once(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path)
        await owner.__aenter__()
        member = await stack.enter_async_context(joined(tmp_path))
        leaving = asyncio.create_task(owner.__aexit__(None, None, None))
        sent: list[asyncio.Task[Receipt]] = []
        # In each turn of the loop one more, until the member owns the log.
        while part(member).role != "owner":
            if len(sent) < 3_000:
                sent.append(asyncio.create_task(member.execute(Add(f"c{len(sent) % 7}", 1))))
            await asyncio.sleep(0)
        await leaving

        answers = await asyncio.gather(*sent)

        assert sorted(a.position for a in answers) == list(range(1, len(sent) + 1))


async def test_an_owner_that_stops_asks_its_members_to_leave_and_has_not_to_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_FAREWELL_SECONDS", 600.0)
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path)
        await owner.__aenter__()
        member = await stack.enter_async_context(joined(tmp_path))

        await owner.__aexit__(None, None, None)

        await until(lambda: part(member).role == "owner")


async def test_what_was_begun_at_a_member_goes_on_when_it_becomes_the_owner(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path)
        await owner.__aenter__()
        member = await stack.enter_async_context(joined(tmp_path))
        await member.execute(Add("c", 1))
        feed = await stack.enter_async_context(aclosing(member.feed(follow=True)))
        watch = await stack.enter_async_context(aclosing(member.watch(GetTally("c"), at=1)))
        projections = member.projections
        assert (await anext(feed)).meta.position == 1
        assert await anext(watch) == Tally("c", 1, 1)
        await owner.__aexit__(None, None, None)
        await until(lambda: part(member).role == "owner")

        await member.execute(Add("c", 1))

        assert (await anext(feed)).meta.position == 2
        assert await anext(watch) == Tally("c", 2, 2)
        await projections.pause("tallies")
        assert (await projections.status("tallies")).state == "paused"
        assert part(member).terms == 1


async def test_a_command_with_a_key_is_asked_for_again_and_run_once(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        sent = [asyncio.create_task(member.execute(Add("c", 1), key=str(n))) for n in range(9)]
        await until(lambda: part(member).forwarded == 9)
        cut(owner)

        answers = await asyncio.gather(*sent)

        assert [a.version for a in answers] == list(range(1, 10))
        assert (await owner.state(Counter, "c")).total == 9


@asynccontextmanager
async def in_doubt(path: Path, heir: str) -> AsyncGenerator[tuple[Engine, asyncio.Task[Receipt]]]:
    """Give a member, and its command of which nobody knows whether the owner has run it.

    Whether its line to the owner is made anew next, or its own process owns the log then.
    """
    async with AsyncExitStack() as stack:
        owner = joined(path)
        await owner.__aenter__()
        member = await stack.enter_async_context(joined(path))
        serving = serving_of(owner)
        heard, serving._run = serving._run, lambda _, __: None
        sent = asyncio.create_task(member.execute(Add("c", 1), key="k"))
        await until(lambda: part(member).forwarded == 1)
        if heir == "member":
            leaving = asyncio.create_task(owner.__aexit__(None, None, None))
            stack.push_async_callback(asyncio.wait, [leaving])
        else:
            stack.push_async_exit(owner)
            cut(owner)
        await until(lambda: not forwarding_of(member).is_connected)
        serving._run = heard
        yield member, sent


@pytest.mark.parametrize("heir", ["owner", "member"])
async def test_a_command_that_is_asked_for_again_stands_before_what_was_sent_behind_it(
    tmp_path: Path, heir: str
) -> None:
    async with in_doubt(tmp_path, heir) as (member, first):
        second = asyncio.create_task(member.execute(Add("c", 1)))

        assert [(await sent).version for sent in (first, second)] == [1, 2]


async def test_a_command_that_is_asked_for_again_and_finds_the_engine_full_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_doubt(tmp_path, "member") as (member, first):
        forwarding, full = forwarding_of(member), iter(range(5))
        adopt = forwarding.adopt

        def adopt_full(send: Post) -> None:
            def fills(envelope: Envelope, origin: Origin | None) -> Sending:
                if next(full, None) is not None:
                    raise Overloaded("full")
                return send(envelope, origin)

            adopt(fills)

        monkeypatch.setattr(forwarding, "adopt", adopt_full)
        await until(lambda: part(member).role == "owner")
        second = asyncio.create_task(member.execute(Add("c", 1)))

        assert [(await sent).version for sent in (first, second)] == [1, 2]


async def test_nobody_knows_of_a_command_without_a_key_whose_line_broke(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        sent = [asyncio.create_task(member.execute(Add("c", 1))) for _ in range(3)]
        await until(lambda: part(member).forwarded == 3)
        cut(owner)

        answers = await asyncio.gather(*sent, return_exceptions=True)

        assert {type(answer) for answer in answers} == {OutcomeUnknown}
        assert await member.execute(Add("d", 1)) is not None
        assert (await owner.state(Counter, "c")).total in (0, 3)


async def test_a_command_that_its_caller_gave_up_before_it_was_sent_is_not_sent(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        member._joined.forwarding.hold()  # type: ignore[union-attr]
        sent = asyncio.create_task(member.execute(Add("c", 1)))
        kept = asyncio.create_task(member.execute(Add("c", 10)))
        await asyncio.sleep(0)
        sent.cancel()
        with suppress(asyncio.CancelledError):
            await sent
        cut(owner)

        assert (await kept).version == 1
        assert (await owner.state(Counter, "c")).total == 10


async def test_without_an_owner_a_command_waits_for_its_deadline_or_the_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path)
        await owner.__aenter__()
        member = await stack.enter_async_context(joined(tmp_path))
        # Somebody who lets nobody join takes the log.
        monkeypatch.setattr("engine.members.membership.Membership._own", never)
        await owner.__aexit__(None, None, None)
        async with Engine([Counter], store=f"sqlite:{tmp_path}/log.db"):
            await until(lambda: part(member).role == "waiting")
            with pytest.raises(DeadlinePassed, match="before a process owned the log"):
                await member.execute(Add("c", 1), deadline=0.01)
            late = asyncio.create_task(member.execute(Add("c", 1)))
            await asyncio.sleep(0)
            member._joined.forwarding._give_up()  # type: ignore[union-attr]
            with pytest.raises(Closed, match="no process owns the log"):
                await late
            with pytest.raises(Closed, match="no process owns the log"):
                await member.execute(Add("c", 1))
            with pytest.raises(Closed):
                await member.projections.list()
            assert await member.query(GetTally("c")) is None


async def never(*_: object) -> Exception:
    return RuntimeError("another has it")


async def test_a_member_that_stops_answers_its_callers(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        await some(tmp_path, 1, stack)
        member = joined(tmp_path)
        await member.__aenter__()
        member._joined.forwarding.hold()  # type: ignore[union-attr]
        sent = asyncio.create_task(member.execute(Add("c", 1)))
        await asyncio.sleep(0)
        await member.__aexit__(None, None, None)

        with pytest.raises(Closed, match="this process is stopping"):
            await sent
        with pytest.raises(Closed):
            await member.execute(Add("c", 1))
        with pytest.raises(Closed):
            await member.query(GetTally("c"))


async def test_an_engine_that_fails_gives_its_log_to_a_member(tmp_path: Path) -> None:
    class Fault(RuntimeError):
        pass

    failing: list[str] = []

    def fail(step: str) -> None:
        if step == "journal.durable" and failing:
            raise Fault

    async with AsyncExitStack() as stack:
        owner = joined(tmp_path, ports=Ports(failpoint=fail))
        await owner.__aenter__()
        member = await stack.enter_async_context(joined(tmp_path))
        failing.append("now")
        kept = member.execute(Add("c", 1), key="k")

        assert (await kept).version == 1
        assert isinstance(owner.failed, Fault)
        with pytest.raises(Closed):
            await owner.execute(Add("c", 1))
        with pytest.raises(EngineFailed):
            await owner.__aexit__(None, None, None)
        assert (await member.execute(Add("c", 1))).version == 2


async def test_a_fork_of_the_owner_keeps_no_member_waiting(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        await member.execute(Add("c", 1))
        descriptors = [line._socket for line in serving_of(owner)._lines]

        def are_gone() -> bool:
            return all(
                Path(f"/proc/self/fd/{d}").readlink() == Path("/dev/null") for d in descriptors
            )

        assert descriptors
        assert status_of_fork(are_gone) == 0
        assert (await member.execute(Add("c", 1))).version == 2


# -- what comes over the line -----------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        (FRAME_MAX + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x03abc",
        b"\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\x00\x00\x02\x91\xa1",
    ],
    ids=["too-large", "no-message", "empty", "http", "cut"],
)
async def test_a_line_that_sends_what_is_no_message_is_ended(tmp_path: Path, data: bytes) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        client = await Client().to(tmp_path)
        client.line.send(Hello(PROTOCOL, 1))
        await until(lambda: client.got)
        client.write(data)
        await asyncio.wait_for(client.lost.wait(), 60)

        assert (await member.execute(Add("c", 1))).version == 1
        assert part(owner).role == "owner"


async def test_frames_may_come_in_pieces(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        name, body = member._joined.forwarding._forms.encode(Add("c", 1))  # type: ignore[union-attr]
        sent = [Sent(n, name, body, str(n), None, None, None, None, None, None) for n in range(3)]
        client = await Client().to(tmp_path)
        frames: list[bytes] = []
        messages: list[Message] = [Hello(PROTOCOL, 1), *sent]
        for message in messages:
            client.line.send(message)
            frames += client.line._unsent
            client.line._unsent = []
        for byte in b"".join(frames):
            client.write(bytes([byte]))
            await asyncio.sleep(0)
        await until(lambda: len(client.got) == 4)

        assert (await owner.state(Counter, "c")).total == 3
        client.line.close()


async def test_who_does_not_say_who_he_is_first_is_not_heard(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        owner, member = await some(tmp_path, 2, stack)
        name, body = member._joined.forwarding._forms.encode(Add("c", 1))  # type: ignore[union-attr]
        client = await Client().to(tmp_path)
        client.line.send(Sent(1, name, body, None, None, None, None, None, None, None))
        await until(lambda: client.lost.is_set() or client.got)

        assert client.got == []
        assert owner.statistics().position == 0


async def test_another_protocol_is_refused_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        await some(tmp_path, 1, stack)
        client = await Client().to(tmp_path)
        client.line.send(Hello(PROTOCOL + 1, 7))
        await asyncio.wait_for(client.lost.wait(), 60)

    [welcome] = client.got
    assert isinstance(welcome, Welcome)
    assert welcome.protocol == PROTOCOL
    assert f"process 7 speaks protocol {PROTOCOL + 1}" in caplog.text


async def test_a_member_of_another_protocol_says_so(tmp_path: Path) -> None:
    def answer(line: Line, _: Message) -> None:
        line.send(Welcome(PROTOCOL + 1, 7, "log"))

    async with Engine([Counter], store=f"sqlite:{tmp_path}/log.db"):
        server = await listen(f"{tmp_path}/log.db.members", lambda: Line(answer, lambda _: None))
        with pytest.raises(EngineFailed, match=f"speaks protocol {PROTOCOL + 1}"):
            await joined(tmp_path).__aenter__()
        server.close()


async def test_receipts_are_as_the_owner_gave_them(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        _, member = await some(tmp_path, 2, stack)
        receipts = await asyncio.gather(*(member.execute(Add("c", 1)) for _ in range(50)))

        assert receipts == [Receipt("counter:c", n, n) for n in range(1, 51)]


async def test_nobody_makes_a_new_log_in_the_place_of_one_that_was_moved_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A member that took it over would run again what it has a receipt for."""
    kept = tmp_path / "kept"
    kept.mkdir()
    owner = joined(tmp_path)
    await owner.__aenter__()
    async with joined(tmp_path) as member:
        first = await member.execute(Add("a", 1), key="k")
        for path in tmp_path.glob("log.*"):
            path.rename(kept / path.name)
        await owner.__aexit__(None, None, None)
        again = asyncio.create_task(member.execute(Add("a", 1), key="k"))
        await until(lambda: "log.db has no log" in caplog.text or (tmp_path / "log.db").exists())
        assert not (tmp_path / "log.db").exists()
        for path in kept.glob("*.db*"):
            if path.is_file():  # and no socket
                shutil.copy2(path, tmp_path)

        assert await again == first
        assert part(member).role == "owner"


async def test_nobody_makes_a_schema_anew_that_was_dropped_as_a_tenants_is(
    postgres: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schema = postgres.new_schema()
    url = postgres.url(schema, "lease=2")
    owner = joined(tmp_path, store=url)
    await owner.__aenter__()
    async with joined(tmp_path, store=url) as member:
        await member.execute(Add("a", 1), key="k")
        postgres.sql(f"DROP SCHEMA {schema} CASCADE; DROP SCHEMA {schema}_views CASCADE")
        with suppress(EngineFailed):
            await owner.__aexit__(None, None, None)
        await until(lambda: f"schema={schema} has no log now" in caplog.text)
    found = f"SELECT count(*) FROM pg_namespace WHERE nspname LIKE '{schema}%'"
    assert postgres.sql(found) == "0"
