"""What is a log's own in an UmaDB server: who has it, lost answers, other programs, its limits."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine import Damaged, DefinitionError, Ports, StoreFailed, StoreLocked, StoreRefused
from engine.model.stored import EventData
from engine.stores.contract.claims import ClaimTaken, TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, Batch, Write
from engine.stores.contract.tags import TagForm
from engine.stores.umadb.address import read_address
from engine.stores.umadb.calls import umadb
from engine.stores.umadb.session import SESSIONS_MAX, Mark, read_mark
from engine.stores.umadb.store import UmadbStore
from engine.testing.conformance import ADDED, append, event, feed, numbers, request
from tests.support.breaking_lines import Line, line_to
from tests.support.certificates import certify
from tests.support.umadb_server import UmadbServer
from tests.support.waiting import settle, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[UmadbServer]:
    made = UmadbServer(tmp_path / "umadb")
    made.start()
    yield made
    made.close()


@pytest.fixture
async def store(server: UmadbServer) -> AsyncIterator[UmadbStore]:
    opened = server.store()
    await opened.open(Ports())
    yield opened
    await opened.close()


def somebody_elses(**given: str) -> list[object]:
    return [umadb().Event("theirs", b"{}", ["a:b"], uuid.uuid4(), given)]


def no_renewals(store: UmadbStore) -> None:
    """Let the lease run out, as if the process stood still."""
    assert store._keeper is not None
    store._keeper.cancel()


# -- whose log it is


async def test_an_engine_that_does_not_renew_its_lease_loses_the_log(
    server: UmadbServer, store: UmadbStore
) -> None:
    """Its append is refused by the server, though nobody has written in between."""
    await append(store, request("a:1", 0, 1))
    no_renewals(store)
    second = server.store()
    await second.open(Ports())

    assert not store.is_held()
    with pytest.raises(StoreFailed, match="another engine has taken the log") as failed:
        await append(store, request("a:1", 1, 2))
    assert (failed.value.written, failed.value.stopped) == (False, True)
    assert store.is_succeeded
    with pytest.raises(StoreFailed, match="another engine has taken the log"):
        await store.held()  # at once, whatever its patience is
    assert (await store.ended()) is failed.value
    assert await append(second, request("a:1", 1, 3)) == [Appended(2, (2,))]
    assert numbers(await feed(second)) == [1, 3]
    await store.close()  # which does not give the other's log away
    with pytest.raises(StoreLocked):
        await server.store().open(Ports())
    await second.close()


async def test_a_former_engine_is_told_so_also_of_a_stream_that_it_does_not_know(
    server: UmadbServer, store: UmadbStore
) -> None:
    """It is not told of a conflict, by which it would go on."""
    no_renewals(store)
    second = server.store()
    await second.open(Ports())
    await append(second, request("a:2", 0, 1))
    with pytest.raises(StoreFailed, match="another engine has taken the log"):
        await append(store, request("a:2", 0, 2))
    assert store.is_succeeded
    await second.close()


async def test_a_renewal_keeps_the_log_and_tells_a_former_engine(
    server: UmadbServer, store: UmadbStore
) -> None:
    """A rested engine has its log after many leases; one that was succeeded hears of it at rest."""
    with pytest.raises(StoreLocked):
        await server.store().open(Ports())
    assert store.is_held()
    writer = store._writer
    assert writer is not None
    client = server.client()
    later = Mark(read_mark(client.get_tracking_info("foldline")).session + 1, 1)
    client.append([], None, umadb().TrackingInfo("foldline", later.number))

    async with asyncio.timeout(20):
        failure = await store.ended()
    assert failure.stopped


async def test_one_of_those_that_open_at_once_has_the_log(server: UmadbServer) -> None:
    """A log that is new is made once, too."""
    stores = [server.store() for _ in range(4)]
    opened = await asyncio.gather(*(s.open(Ports()) for s in stores), return_exceptions=True)

    assert [type(each) for each in opened if each is not None] == [StoreLocked] * 3
    assert server.client().head() == 1
    for each in stores:
        await each.close()


def test_a_mark_counts_within_a_session_and_a_session_counts_more() -> None:
    first = Mark(1, 9)
    assert read_mark(first.next().number) == Mark(1, 9, 1)
    assert first.number < first.next().number < first.given_back().number < Mark(2, 1).number
    assert read_mark(first.given_back().number).is_given_back
    assert read_mark(None).is_given_back


def test_a_session_that_counted_to_its_end_begins_another() -> None:
    last = Mark(7, 9, (1 << 36) - 3)
    assert last.next() == Mark(7, 9, (1 << 36) - 2)
    assert last.next().next() == Mark(8, 9)
    assert last.next().number < last.given_back().number < last.next().next().number


async def test_a_log_that_was_opened_too_often_is_refused(server: UmadbServer) -> None:
    store = server.store()
    await store.open(Ports())
    await store.close()
    number = Mark(SESSIONS_MAX, 1).given_back().number
    server.client().append([], None, umadb().TrackingInfo("foldline", number))
    with pytest.raises(StoreRefused, match="as often as it can be"):
        await store.open(Ports())


async def test_a_log_of_a_newer_form_is_refused(server: UmadbServer) -> None:
    client = server.client()
    metadata = {"log_id": "a" * 32, "form": "2"}
    client.append([umadb().Event("foldline.log", b"", [], None, metadata)])
    with pytest.raises(StoreRefused, match="a form that this release does not know"):
        await server.store().open(Ports())
    assert client.get_tracking_info("foldline") is None


# -- answers that are lost


class Losing(Line):
    """A line on which the answer of the server is lost."""

    loses = False

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.loses:
                self.loses, self.cuts = False, self.cuts + 1
                break
            writer.write(data)
        for end in self._writers:
            end.transport.abort()


@pytest.mark.parametrize("fault", ["reply", "request"])
async def test_a_lost_answer_is_found_in_the_log(
    server: UmadbServer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Each batch is in the log once, whether it had arrived or not."""
    monkeypatch.setattr("tests.support.breaking_lines.Line", Losing)
    async with line_to(server.port) as line:
        assert isinstance(line, Losing)
        url = server.store_url("lease=250").replace(str(server.port), str(line.port))
        store = UmadbStore(read_address(url))
        await store.open(Ports())
        for number in range(12):
            if fault == "reply":
                line.loses = True
            else:
                line.left = 30 + 20 * number
            cuts = line.cuts
            outcomes = await append(store, request("a:1", 2 * number, number, number))
            assert outcomes == [Appended(2 * number + 2, (2 * number + 2,))]
            assert line.cuts > cuts
            line.loses, line.left = False, None
        statistics = store.server_statistics()
        assert statistics is not None
        found, again = statistics.batches_found, statistics.batches_sent_again
        assert found > 0 if fault == "reply" else again > 0
        assert numbers(await feed(store)) == [number for number in range(12) for _ in "ab"]
        await store.close()


async def test_a_batch_whose_answer_never_comes_is_told_as_unknown(
    server: UmadbServer,
) -> None:
    """A server that has gone is waited for as long as the URL says, and then nothing is told."""
    store = server.store("patience=1", "lease=9")
    await store.open(Ports())
    await append(store, request("a:1", 0, 1))
    server.kill()
    with pytest.raises(StoreFailed, match="nobody knows") as failed:
        await append(store, request("a:1", 1, 2))

    assert failed.value.written is None
    with pytest.raises(StoreFailed):
        await append(store, request("a:1", 1, 3))
    server.start()
    await store.close()
    again = server.store()
    await again.open(Ports())
    assert numbers(await feed(again)) == [1]
    await again.close()


async def test_a_server_that_says_nothing_blocks_no_loop(
    server: UmadbServer, store: UmadbStore
) -> None:
    """The call waits in its thread, the loop goes on, and the lease is known to have ended."""
    server.freeze()
    waiting = asyncio.create_task(append(store, request("a:1", 0, 1)))
    turns = 0

    def counted() -> bool:
        nonlocal turns
        turns += 1
        return not store.is_held()

    await until(counted)
    server.thaw()

    assert turns > 20
    assert await waiting == [Appended(1, (1,))]
    assert store.is_held()


async def test_a_store_is_closed_beside_a_server_that_says_nothing(
    server: UmadbServer, store: UmadbStore
) -> None:
    """Threads whose calls do not come back are left alone."""
    await append(store, request("a:1", 0, 1))
    server.freeze()
    waiting = [asyncio.create_task(feed(store)), asyncio.create_task(feed(store))]
    await settle()
    try:
        async with asyncio.timeout(15):
            await store.close()
    finally:
        server.thaw()
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)


@pytest.mark.parametrize("waits", [True, False], ids=["waited-for", "at-rest"])
async def test_a_server_that_lost_events_is_appended_to_no_more(
    server: UmadbServer, store: UmadbStore, tmp_path: Path, waits: bool
) -> None:
    """What was acknowledged is gone: nothing is built on that."""
    await append(store, request("a:1", 0, 1))
    await store.close()
    server.stop()
    shutil.copy(server.folder / "db", tmp_path / "old")
    server.start()
    await store.open(Ports())
    await append(store, request("a:1", 1, 2), request("b:1", 0, 3))
    server.kill()
    shutil.copy(tmp_path / "old", server.folder / "db")
    calls: list[object] = []
    assert store._writer is not None

    def counted(client: object) -> object:
        calls.append(client)
        return client

    store._writer.calls.wrap = counted
    waiting = asyncio.create_task(append(store, request("a:1", 2, 4))) if waits else None
    if waiting is not None:
        await until(lambda: len(calls) > 2)
    await asyncio.to_thread(server.start)

    with pytest.raises(StoreFailed, match="went back") as failed:
        await (waiting or append(store, request("a:1", 2, 4)))
    assert failed.value.stopped
    # A client that has connected again by itself is told by the place that its events got.
    assert server.client().head() == 2 if waits else server.client().head() in (2, 3)


# -- other programs


async def test_a_program_that_writes_to_the_log_ends_its_engine(
    server: UmadbServer, store: UmadbStore
) -> None:
    """Nothing is appended behind what this engine has not seen."""
    await append(store, request("a:1", 0, 1))
    server.client().append(somebody_elses())
    with pytest.raises(StoreFailed, match="another program has written") as failed:
        await append(store, request("a:1", 1, 2))

    assert (failed.value.written, failed.value.stopped) == (False, True)
    assert server.client().head() == 3
    await store.close()
    with pytest.raises(Damaged, match="none of this engine's"):
        await server.store().open(Ports())


async def test_a_database_of_another_program_is_left_alone(server: UmadbServer) -> None:
    """Not even a session is begun in it."""
    client = server.client()
    client.append(somebody_elses())
    with pytest.raises(StoreRefused, match="events of another program"):
        await server.store().open(Ports())

    assert client.head() == 1
    assert client.get_tracking_info("foldline") is None


async def test_other_programs_find_events_by_type_tags_and_stream(
    server: UmadbServer, store: UmadbStore
) -> None:
    """As UmaDB's own documents say it: the payload is the data."""
    await store.index_tags([TagForm("added", 1, (("course", "course"),))])
    data = EventData(ADDED, b'{"number":1,"course":"c-1"}', tags=("course:c-1",))
    await append(store, request("a:0", 0, 5), AppendRequest([Write("a:1", 0, [data])]))
    module = umadb()
    client = server.client()
    for tag in ("course:c-1", "stream=a:1"):
        query = module.Query([module.QueryItem(types=["added"], tags=[tag])])
        (found,) = client.read(query)
        assert (found.position, bytes(found.event.data)) == (3, data.payload)


def test_the_client_leaves_ctrl_c_to_its_host() -> None:
    """The package would take it away, and could not be loaded in another thread."""
    program = (
        "import signal, threading\n"
        "from engine.stores.umadb.calls import umadb\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "thread = threading.Thread(target=umadb)\n"
        "thread.start()\n"
        "thread.join()\n"
        "assert umadb().Client and signal.getsignal(signal.SIGINT) is before\n"
        "import umadb as package\n"
        "assert package.Client is umadb().Client\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# -- limits


async def test_a_batch_larger_than_a_message_is_stored_whole(store: UmadbStore) -> None:
    """In several appends, each of whole requests."""
    large = EventData(ADDED, b'{"number":7,"x":"' + b"x" * 900_000 + b'"}')
    requests = [AppendRequest([Write(f"a:{n}", 0, [large, event(n)])]) for n in range(9)]
    committed = await store.append(Batch(requests, 1))

    assert committed.outcomes == [Appended(2 * n + 2, (2,)) for n in range(9)]
    assert numbers(await feed(store))[1::2] == list(range(9))


async def test_a_command_larger_than_a_message_is_refused(store: UmadbStore) -> None:
    """By name, with nothing written; the store goes on."""
    large = EventData(ADDED, b'"' + b"x" * 1_000_000 + b'"')
    with pytest.raises(StoreFailed, match="4 MiB") as failed:
        await append(store, AppendRequest([Write("a:1", 0, [large] * 4)]))

    assert failed.value.written is False
    assert await append(store, request("a:1", 0, 1)) == [Appended(1, (1,))]


async def test_tags_larger_than_a_page_are_refused(store: UmadbStore) -> None:
    tags = tuple(f"t{n}:{chr(0x1F4E6) * 250}" for n in range(8))
    with pytest.raises(StoreFailed, match="3,700 bytes") as failed:
        await append(store, AppendRequest([Write("a:1", 0, [EventData(ADDED, b"{}", tags=tags)])]))

    assert failed.value.written is False
    assert await append(store, request("a:1", 0, 1)) == [Appended(1, (1,))]


async def test_a_command_may_have_as_many_claims_as_there_may_be(store: UmadbStore) -> None:
    """They have short tags, which other claims may share."""
    stream = "a:" + "\U0001f4e6" * 255
    takes = [TakeClaim("email", f"{n}" * 100, stream) for n in range(256)]
    write = Write(stream, 0, [event(1)])
    assert await append(store, AppendRequest([write], takes)) == [Appended(1, (1,))]
    assert len(await store.read_claims(claims_max=999)) == 256


# -- keys and encryption


async def test_a_wrong_key_is_told_and_not_shown(tmp_path: Path) -> None:
    certificate = certify(tmp_path, "umadb", "IP:127.0.0.1", signs=False)
    server = UmadbServer(tmp_path / "umadb", tls=(certificate, certificate.with_suffix(".key")))
    server.key = "the-right-word"
    server.start()
    try:
        options = ("tls=on", f"ca={certificate}")
        store = server.store(*options)
        await store.open(Ports())
        assert await append(store, request("a:1", 0, 1)) == [Appended(1, (1,))]
        assert "word" not in repr(store.address) + store.address.name
        await store.close()
        for key in ("a-wrong-word@", ""):
            url = server.store_url(*options).replace("the-right-word@", key)
            with pytest.raises(StoreRefused, match="API key") as refused:
                await UmadbStore(read_address(url)).open(Ports())
            assert "word" not in str(refused.value)
    finally:
        server.close()


async def test_an_encrypted_server_proves_who_it_is(tmp_path: Path) -> None:
    """With the certificate that signs it. Another one is refused, and none is out of reach."""
    certificate = certify(tmp_path, "umadb", "IP:127.0.0.1", signs=False)
    other = certify(tmp_path, "other", "IP:127.0.0.1", signs=False)
    server = UmadbServer(tmp_path / "umadb", tls=(certificate, certificate.with_suffix(".key")))
    server.start()
    try:
        store = server.store("tls=on", f"ca={certificate}")
        await store.open(Ports())
        assert await append(store, request("a:1", 0, 1)) == [Appended(1, (1,))]
        await store.close()
        with pytest.raises(StoreRefused, match="does not prove who it is"):
            await server.store("tls=on", f"ca={other}").open(Ports())
        with pytest.raises(StoreFailed, match="speaks TLS") as failed:
            await server.store("patience=1", "tls=off").open(Ports())
        assert failed.value.passes
    finally:
        server.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("umadb:localhost:1", "write umadb"),
        ("umadb://localhost", "write umadb"),
        ("umadb://localhost:0", "write umadb"),
        ("umadb://localhost:70000", "write umadb"),
        ("umadb://localhost:1/name", "write umadb"),
        ("umadb://localhost:1?leese=3", "'leese' is none"),
        ("umadb://localhost:1?lease=0", "whole seconds"),
        ("umadb://localhost:1?lease=251", "whole seconds"),
        ("umadb://localhost:1?lease=1&lease=2", "given twice"),
        ("umadb://localhost:1?tls=maybe", "on or off"),
        ("umadb://localhost:1?allow=all", "plaintext"),
        ("umadb://key@localhost:1", "sent over TLS"),
        ("umadb://db.example:1?tls=off", "leaves this machine"),
    ],
)
def test_a_url_that_means_nothing_is_refused(url: str, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        read_address(url)


def test_a_url_says_how_the_server_is_reached() -> None:
    here, there = read_address("umadb://[::1]:1"), read_address("umadb://k%40y@db.example:1")
    assert (here.url, here.lease_seconds, here.key) == ("http://[::1]:1", 9, None)
    assert there.url == "https://db.example:1"
    assert there.key is not None
    assert there.key.revealed == "k@y"
    plain = read_address("umadb://db.example:1?tls=off&allow=plaintext")
    assert plain.url == "http://db.example:1"


async def test_a_claim_that_shares_its_tag_is_told_apart(
    store: UmadbStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All claims have one tag here, as two of a million have anyway."""
    for module in ("form", "reading"):
        monkeypatch.setattr(f"engine.stores.umadb.{module}.claim_tag", lambda _: "c=aaaaa")
    for number, name in enumerate(("ann", "bob")):
        stream = f"a:{number}"
        take = [TakeClaim("email", name, stream)]
        await append(store, AppendRequest([Write(stream, 0, [event(number)])], take))
    for stream, outcome in (("a:1", ClaimTaken(0)), ("a:0", Appended(3, (2,)))):
        takes = [TakeClaim("email", "ann", stream)]
        again = AppendRequest([Write(stream, 1, [event(2)])], takes)
        assert await append(store, again) == [outcome]
