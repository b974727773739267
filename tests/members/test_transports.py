"""One suite for each way to an owner: a socket with a path, TCP on loopback and with TLS, NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from engine import DefinitionError, Rejected, StoreFailed, StoreRefused
from engine.members import serving as serving_module
from engine.members.forms import error_of
from engine.members.listening import read_listen
from engine.members.wire import (
    FRAME_MAX,
    PROTOCOL,
    Called,
    Done,
    Failed,
    Hello,
    Listing,
    Refused,
    Told,
    Welcome,
)
from tests.members.transports import FORMS, TOKEN, Desk, Member, Owner, sent
from tests.support.brokers import NatsServer
from tests.support.certificates import certify
from tests.support.counters import Add


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certify(folder, "here", "DNS:localhost,IP:127.0.0.1")
    certify(folder, "elsewhere", "DNS:elsewhere.example")
    return folder


def listening(folder: Path, name: str = "here", token: str = TOKEN) -> str:
    files = f"sslcert={folder}/{name}.crt&sslkey={folder}/{name}.key"
    return f"tcp://:{token}@127.0.0.1:0?{files}&sslrootcert={folder}/{name}.crt"


@pytest.fixture(params=["unix", "tcp", "tls", "nats"])
def owner(
    request: pytest.FixtureRequest, certificates: Path, nats: Callable[[], NatsServer]
) -> Owner:
    urls: dict[str, Callable[[], str | None]] = {
        "unix": lambda: None,
        "tcp": lambda: f"tcp://:{TOKEN}@127.0.0.1:0",
        "tls": lambda: listening(certificates),
        "nats": lambda: f"{nats().url}?token={TOKEN}",
    }
    url = urls[request.param]()
    return Owner(url, url, request.param)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], NatsServer]]:
    """Give a server, which is started for the first test that asks for it."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))

    def running() -> NatsServer:
        if not server.runs:
            server.start()
        return server

    yield running
    server.close()


async def test_commands_are_answered_by_receipts_and_errors(owner: Owner) -> None:
    async with owner.open():
        member = await Member().join(owner)
        for number, amount in ((1, 5), (2, -1), (3, 6)):
            member.line.send(sent(number, amount))
        await member.answered(4)
        member.line.send(Listing(4))
        welcome, first, refused, third, told = await member.answered(5)

        assert isinstance(welcome, Welcome)
        assert owner.joining.is_owner(welcome)
        assert first == Done(1, "counter:c", 1, 1, None, names=())
        assert isinstance(refused, Failed)
        assert isinstance(error_of(refused.classes, refused.values), Rejected)
        assert isinstance(third, Done)
        assert isinstance(told, Told)
        member.line.close()


async def test_frames_may_come_in_pieces(owner: Owner) -> None:
    async with owner.open():
        member = await Member().join(owner)
        await member.answered(1)
        member.line.send(sent(1))
        frames, member.line._unsent = member.line._unsent, []
        for byte in b"".join(frames):
            member.write(bytes([byte]))
            await asyncio.sleep(0)
        await member.answered(2)

        assert len(owner.run) == 1
        member.line.close()


async def test_a_large_command_comes_whole(owner: Owner) -> None:
    name, body = FORMS.encode(Add("c", 1, tags={"x" * 3_000_000: []}))
    async with owner.open():
        member = await Member().join(owner)
        for number in (1, 2):
            member.line.send(msgspec.structs.replace(sent(number), name=name, body=body))
        got = await member.answered(3)

        assert [type(message) for message in got] == [Welcome, Done, Done]
        assert [envelope.command for envelope in owner.run] == [FORMS.decode(name, body)] * 2
        member.line.close()


async def test_a_frame_that_is_cut_is_not_run_and_hurts_no_other_line(owner: Owner) -> None:
    async with owner.open():
        member, other = await Member().join(owner), await Member().join(owner)
        await member.answered(1)
        member.line.send(sent(1))
        frames, member.line._unsent = member.line._unsent, []
        member.write(b"".join(frames)[:-1])
        member.line.close()
        await member.ended()
        other.line.send(sent(1))
        await other.answered(2)

        assert len(owner.run) == 1
        other.line.close()


@pytest.mark.parametrize("numbers", [(1, 1), (2, 1)], ids=["doubled", "reordered"])
async def test_a_frame_that_comes_twice_is_run_once(owner: Owner, numbers: tuple[int, int]) -> None:
    async with owner.open():
        member = await Member().join(owner)
        await member.answered(1)
        for number in numbers:
            member.line.send(sent(number))
        await member.ended()

        assert len(owner.run) == 1


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
async def test_a_line_that_sends_what_is_no_message_is_ended(owner: Owner, data: bytes) -> None:
    async with owner.open():
        member = await Member().join(owner)
        await member.answered(1)
        member.write(data)
        await member.ended()

        assert owner.run == []


async def test_another_protocol_is_refused_by_name(owner: Owner) -> None:
    async with owner.open():
        member = await Member().join(owner, PROTOCOL + 1)
        [welcome] = await member.ended()

        assert isinstance(welcome, Welcome)
        assert welcome.protocol == PROTOCOL


async def test_who_does_not_say_who_he_is_is_not_heard(owner: Owner) -> None:
    async with owner.open():
        for message in (sent(1), Called(1, "list", b"\x80")):
            member = Member()
            await owner.joining.connect(member.line)
            member.line.send(message)
            assert await member.ended() == []

        assert owner.run == []


async def test_the_owner_of_another_log_at_the_same_place_is_not_believed(owner: Owner) -> None:
    for changed in ({"log_id": "another"}, {"session": 8}):
        other = Owner(None, None, "unix")
        async with other.open(**changed):
            member = await Member().join(other)
            [welcome] = await member.answered(1)

            assert isinstance(welcome, Welcome)
            assert not other.joining.is_owner(welcome)
            member.line.close()


# -- over a network -------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "another-token-than-the-right"])
@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_a_wrong_token_is_refused_and_shown_nowhere(
    certificates: Path, kind: str, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = listening(certificates) if kind == "tls" else f"tcp://:{TOKEN}@127.0.0.1:0"
    member_url = url.replace(TOKEN, token) if token else url.replace(f":{TOKEN}@", "")
    if not token and kind == "tls":
        member_url = f"tcp://127.0.0.1:0?sslrootcert={certificates}/here.crt"
    owner = Owner(url, member_url, kind)
    async with owner.open():
        member = await Member().join(owner)
        member.line.send(sent(1))
        [refused] = await member.ended()

    assert isinstance(refused, Refused)
    assert owner.run == []
    shown = f"{refused} {caplog.text} {owner.meeting._where!r} {Hello(1, 1, 0.0, TOKEN)!r}"
    assert "wrong token" in caplog.text
    assert TOKEN not in shown
    assert token == "" or token not in shown


async def test_a_wrong_certificate_is_refused_by_the_member(certificates: Path) -> None:
    owner = Owner(listening(certificates), listening(certificates, "elsewhere"), "tls")
    async with owner.open():
        with pytest.raises(StoreRefused, match="does not prove who it is.*sslrootcert") as refused:
            await Member().join(owner)
    assert TOKEN not in str(refused.value)
    owner = Owner(listening(certificates, "elsewhere"), listening(certificates, "elsewhere"), "tls")
    async with owner.open():
        with pytest.raises(StoreRefused, match="does not prove who it is"):
            await Member().join(owner)


async def test_nothing_is_sent_without_tls_off_this_machine(certificates: Path) -> None:
    owner = Owner(None, f"tcp://:{TOKEN}@127.0.0.1:0", "unix")
    owner.desk.address = "tcp://192.0.2.1:7000"
    with pytest.raises(StoreRefused, match="asks for no encryption"):
        await Member().join(owner)


async def test_a_stranger_sends_little_and_not_for_long(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "_STRANGER_SECONDS", 0.0)
    owner = Owner(f"tcp://:{TOKEN}@127.0.0.1:0", f"tcp://:{TOKEN}@127.0.0.1:0", "tcp")
    async with owner.open():
        silent = Member()
        await owner.joining.connect(silent.line)
        assert await silent.ended() == []
        monkeypatch.setattr(serving_module, "_STRANGER_SECONDS", 60.0)
        large = Member()
        await owner.joining.connect(large.line)
        large.write((1 << 20).to_bytes(4, "big"))
        assert await large.ended() == []
        monkeypatch.setattr(serving_module, "_STRANGERS_MAX", 0)
        many = Member()
        await owner.joining.connect(many.line)
        assert await many.ended() == []


async def test_a_port_that_is_taken_is_told(certificates: Path) -> None:
    owner = Owner(f"tcp://:{TOKEN}@127.0.0.1:0", None, "tcp")
    async with owner.open():
        port = owner.desk.address.rpartition(":")[2]
        other = Owner(f"tcp://:{TOKEN}@127.0.0.1:{port}", None, "tcp")
        with pytest.raises(
            StoreFailed, match=f"members cannot be listened for at 127.0.0.1:{port}"
        ):
            await other.meeting.prepare(cast("Any", other.desk))
    missing = listening(certificates).replace("here.key", "none.key")
    with pytest.raises(StoreFailed, match="cannot be listened for"):
        await Owner(missing, None, "tls").meeting.prepare(cast("Any", Desk()))


async def test_an_owner_is_gone_when_its_lease_is_over_or_another_has_the_log() -> None:
    owner = Owner(None, None, "unix")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(owner.open())
        for change in ({"seconds_left": 0.0}, {"session": 8}, {"address": ""}):
            member = await Member().join(owner)
            gone = asyncio.ensure_future(owner.joining.until_gone())
            await asyncio.sleep(0)
            before = {name: getattr(owner.desk, name) for name in change}
            vars(owner.desk).update(change)
            await asyncio.wait_for(gone, 60)
            vars(owner.desk).update(before)
            member.line.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("tcp://0.0.0.0:7000", "advertise=NAME"),
        ("tcp://:abc@127.0.0.1:7000", "fewer than 16 characters"),
        ("tcp://db.example:7000", "token, and a certificate"),
        (f"tcp://:{TOKEN}@db.example:7000", "token, and a certificate"),
        ("tcp://db.example:7000?sslcert=a&sslkey=b", "token, and a certificate"),
        ("tcp://127.0.0.1:7000?advertise=db.example", "token, and a certificate"),
        (f"tcp://:{TOKEN}@127.0.0.1:70000", "1 to 65535|0 to 65535"),
        (f"tcp://:{TOKEN}@127.0.0.1:7000?sslcert=a", "together"),
        (f"tcp://:{TOKEN}@127.0.0.1:7000?nothing=a", "its options are"),
        (f"tcp://:{TOKEN}@127.0.0.1:7000?sslkey=", "empty or given twice"),
        (f"http://:{TOKEN}@127.0.0.1:7000", "write"),
        (f"tcp://{TOKEN}@127.0.0.1:7000", "write"),
        (7000, "write"),
        ("nats://db.example", "write tls://, and give a token"),
        ("tls://db.example", "write tls://, and give a token"),
        (f"nats://db.example?token={TOKEN}", "write tls://, and give a token"),
        ("nats://127.0.0.1?token=abc", "fewer than 16 characters"),
        (f"nats://127.0.0.1?token={TOKEN}&sslcert=a", "its options are token, sslrootcert"),
    ],
)
def test_a_place_to_listen_at_that_is_not_safe_is_refused(url: object, why: str) -> None:
    with pytest.raises(DefinitionError, match=why) as refused:
        read_listen(url)
    assert TOKEN not in str(refused.value)
