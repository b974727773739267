"""Members that meet their owner on a NATS server: who else is there, and a server that dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import Engine, OutcomeUnknown, Receipt, StoreRefused
from engine.members.listening import read_listen
from engine.members.meeting import LeaseMeeting
from engine.members.wire import Done, Listing, Welcome
from tests.members.joining import joined, nowhere, part, running
from tests.members.transports import FORMS, TOKEN, Member, Owner, sent
from tests.support.brokers import NatsServer
from tests.support.certificates import certify
from tests.support.counters import Add, Counter
from tests.support.postgres import Server
from tests.support.waiting import until


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.close()


@pytest.fixture
def nats(started: NatsServer) -> NatsServer:
    """Give a server that runs, which a test may end."""
    if not started.runs:
        started.start()
    return started


@pytest.fixture
def url(nats: NatsServer) -> str:
    return f"{nats.url}?token={TOKEN}"


@pytest.fixture
def owner(url: str) -> Owner:
    return Owner(url, url, "nats")


class Listener:
    """Somebody else on the server, who hears all and may say all."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.heard: list[Any] = []

    async def say(self, message: Any, data: bytes | None = None) -> None:
        """Say something again, or something else in its place."""
        said = message.data if data is None else data
        await self.client.publish(message.subject, said, reply=message.reply)
        await self.client.flush()

    def of_owner(self) -> list[Any]:
        """Give what was sent on a line to the owner, in order."""
        return [each for each in self.heard if each.subject.count(".") == 2]


@pytest.fixture
async def listener(nats: NatsServer) -> AsyncIterator[Listener]:
    found = Listener(await nats.client())

    async def hear(message: Any) -> None:
        found.heard.append(message)

    await found.client.subscribe("foldline.>", cb=hear)
    await found.client.flush()
    yield found
    await found.client.close()


# -- who else is there ----------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "another-token-than-the-right"])
async def test_a_member_with_another_token_is_refused_and_the_token_is_sent_by_nobody(
    url: str, token: str | None, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    other = url.partition("?")[0] if token is None else url.replace(TOKEN, token)
    owner = Owner(url, other, "nats")
    async with owner.open():
        with pytest.raises(StoreRefused, match="token of listen= is not the one") as refused:
            await Member().join(owner)
        owner.joining = owner.meeting
        member = await Member().join(owner)
        member.line.send(sent(1))
        assert isinstance((await member.answered(2))[1], Done)
        member.line.close()

    assert len(owner.run) == 1
    shown = f"{refused.value} {caplog.text} {owner.meeting._on_nats!r}"
    said = b" ".join(message.data for message in listener.heard)
    assert len(listener.heard) > 5
    assert TOKEN not in shown
    assert TOKEN.encode() not in said
    assert token is None or token.encode() not in said


async def test_who_knows_the_subjects_and_not_the_token_is_not_heard(
    owner: Owner, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    async with owner.open():
        member = await Member().join(owner)
        await member.answered(1)
        await listener.say(listener.of_owner()[0], b"0" * 200)
        await member.ended()
        exchange = owner.meeting._exchange
        assert exchange is not None
        await listener.client.publish(exchange.subject, b"1x", reply="foldline.me")
        await listener.client.flush()
        await until(lambda: [m for m in listener.heard if m.subject == "foldline.me"])
        answers = [m for m in listener.heard if m.subject == "foldline.me"]
        await listener.client.publish(answers[0].reply, b"0" * 200, reply="foldline.me")
        await until(lambda: "wrong token" in caplog.text)

    assert owner.run == []


@pytest.mark.parametrize("how", ["doubled", "late", "changed", "elsewhere"])
async def test_what_others_say_on_a_line_ends_it_and_runs_nothing(
    owner: Owner, listener: Listener, how: str
) -> None:
    async with owner.open():
        member, other = await Member().join(owner), await Member().join(owner)
        await asyncio.gather(member.answered(1), other.answered(1))
        member.line.send(sent(1))
        await member.answered(2)
        member.line.send(Listing(2))
        await member.answered(3)
        await until(lambda: len(listener.of_owner()) >= 4)
        lines: dict[str, list[Any]] = {}
        for message in listener.of_owner():
            lines.setdefault(message.subject, []).append(message)
        [short, [_, first, last]] = sorted(lines.values(), key=len)
        if how == "doubled":
            await listener.say(last)
        elif how == "late":
            await listener.say(first)
        elif how == "changed":
            frame = msgspec.msgpack.encode(sent(3))
            rest = (3).to_bytes(8, "big") + b"D" + len(frame).to_bytes(4, "big") + frame
            await listener.say(last, last.data[:16] + rest)  # the next one, but for its proof
        else:
            await listener.say(short[0], first.data)
        spoilt = other if how == "elsewhere" else member
        heard = len(spoilt.got)
        await until(lambda: spoilt.lost.is_set() or len(spoilt.got) > heard)

        assert spoilt.lost.is_set()
        assert len(spoilt.got) == heard
        assert len(owner.run) == 1
        for each in (member, other):
            each.line.close()


async def test_an_answer_that_is_not_the_owners_is_not_believed(
    owner: Owner, listener: Listener
) -> None:
    async with owner.open():
        member = await Member().join(owner)
        await member.answered(1)
        member.line.send(sent(1))
        await member.answered(2)
        [back] = [m for m in listener.heard if b"done" in m.data]
        await listener.say(back)
        await member.ended()

    assert [type(message) for message in member.got] == [Welcome, Done]


async def test_a_member_that_is_gone_is_noticed_by_the_owner(owner: Owner) -> None:
    async with owner.open():
        member = await Member().join(owner)
        await member.answered(1)
        assert len(owner.serving.members()) == 2
        transport: Any = member.line._transport
        await transport._connection.client._close(0, False)  # as where its process is killed
        await until(lambda: len(owner.serving.members()) == 1)


async def test_the_server_proves_who_it_is(tmp_path: Path) -> None:
    certify(tmp_path, "here", "IP:127.0.0.1")
    certify(tmp_path, "elsewhere", "DNS:elsewhere.example")
    server = NatsServer(tmp_path / "nats", tls=(tmp_path / "here.crt", tmp_path / "here.key"))
    server.start()
    try:
        place = f"{server.url.replace('nats:', 'tls:')}?token={TOKEN}&sslrootcert={tmp_path}"
        owner = Owner(f"{place}/here.crt", f"{place}/here.crt", "nats")
        async with owner.open():
            member = await Member().join(owner)
            member.line.send(sent(1))
            assert isinstance((await member.answered(2))[1], Done)
            member.line.close()
            owner.joining = LeaseMeeting(owner.desk, read_listen(f"{place}/elsewhere.crt"))
            with pytest.raises(StoreRefused, match="no encrypted connection"):
                await Member().join(owner)
    finally:
        server.close()


async def test_a_server_that_takes_small_messages_carries_large_commands(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.too_large = 1_000
    server.start()
    try:
        place = f"{server.url}?token={TOKEN}"
        owner = Owner(place, place, "nats")
        name, body = FORMS.encode(Add("c", 1, tags={"x" * 30_000: []}))
        async with owner.open():
            member = await Member().join(owner)
            member.line.send(msgspec.structs.replace(sent(1), name=name, body=body))
            await member.answered(2)
            member.line.close()
        assert [envelope.command for envelope in owner.run] == [FORMS.decode(name, body)]
    finally:
        server.close()


# -- engines --------------------------------------------------------------------------------------


@pytest.fixture
def log(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a log whose members are as on machines of their own."""
    monkeypatch.setattr("engine.members.meeting._folders", nowhere)
    return postgres.url(postgres.new_schema(), "lease=1")


async def test_a_server_that_dies_loses_and_doubles_nothing_and_the_owner_goes_on(
    log: str, url: str, nats: NatsServer, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        owner, member = [joined(tmp_path, store=log, listen=url) for _ in range(2)]
        await stack.enter_async_context(owner)
        await stack.enter_async_context(member)
        assert [part(each).role for each in (owner, member)] == ["owner", "member"]
        await member.execute(Add("c", 1))
        keyed = [asyncio.create_task(member.execute(Add("c", 1), key=f"k{n}")) for n in range(3)]
        keyless = [asyncio.create_task(member.execute(Add("c", 1))) for _ in range(3)]
        await until(lambda: part(member).forwarded == 7)
        nats.kill()
        alone = [await owner.execute(Add("d", 1)) for _ in range(3)]
        assert [receipt.version for receipt in alone] == [1, 2, 3]
        assert part(owner).terms == 1
        nats.start()

        async with asyncio.timeout(60):
            rest = await asyncio.gather(*keyless, return_exceptions=True)
            found = await asyncio.gather(*keyed)
            assert (await member.execute(Add("d", 1))).version == 4
        assert {type(answer) for answer in rest} <= {Receipt, OutcomeUnknown}
        assert part(owner).role == "owner"
        again = [await owner.execute(Add("c", 1), key=f"k{n}") for n in range(3)]
        assert again == found
        told = sum(isinstance(answer, Receipt) for answer in rest)
        assert 4 + told <= (await owner.state(Counter, "c")).total <= 7


async def test_an_owner_begins_without_the_server_and_is_joined_when_it_is_there(
    log: str, url: str, nats: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nats.kill()
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(joined(tmp_path, store=log, listen=url))
        assert (await owner.execute(Add("c", 1))).version == 1
        await until(lambda: "no process can join this one over NATS" in caplog.text)
        nats.start()
        member = await stack.enter_async_context(joined(tmp_path, store=log, listen=url))
        assert (await member.execute(Add("c", 1))).version == 2
        assert part(member).role == "member"


async def test_an_owner_that_leaves_hands_over_at_once_and_leaves_nothing_unknown(
    log: str, url: str, tmp_path: Path
) -> None:
    long = log.replace("lease=1", "lease=60")
    async with AsyncExitStack() as stack:
        owner = joined(tmp_path, store=long, listen=url)
        await owner.__aenter__()
        member = await stack.enter_async_context(joined(tmp_path, store=long, listen=url))
        sending = [asyncio.create_task(member.execute(Add("c", 1))) for _ in range(20)]
        await until(lambda: part(member).forwarded == 20)
        async with asyncio.timeout(15):  # a lease is four times as long
            await owner.__aexit__(None, None, None)
            answers = await asyncio.gather(*sending)
            await until(lambda: part(member).role == "owner")
        assert sorted(answer.version for answer in answers) == [*range(1, 21)]


async def test_an_owner_that_is_killed_is_followed_when_its_lease_is_over(
    log: str, url: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(running(log, url))
        member: Engine = await stack.enter_async_context(joined(tmp_path, store=log, listen=url))
        await asyncio.gather(*(member.execute(Add("c", 1)) for _ in range(50)))
        process.send_signal(signal.SIGKILL)
        answer = await asyncio.wait_for(member.execute(Add("c", 1), key="k"), 30)

        assert answer.version == 51
        assert part(member).role == "owner"
