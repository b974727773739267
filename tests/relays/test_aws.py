"""What is particular to SQS and SNS: order, sizes, hidden messages, subscriptions, credentials."""

from __future__ import annotations

import asyncio
import importlib
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import BrokerFailed, Command, DefinitionError, Engine, ProjectionLag
from engine.brokers.address import read_address
from engine.relays import Consumer, Message, Outgoing, Relay
from engine.relays.aws import GROUP_MAX, batches, entry_of, failure_of, group_of, size_of
from engine.relays.sqs import SqsOutlet
from engine.relays.sqs_inlet import opened
from tests.relays.relaying import add, check_order, published, relay_to, relaying, status
from tests.support.aws_server import SnsServer, SqsServer
from tests.support.breaking_lines import line_to
from tests.support.brokers import PASSWORD, USER
from tests.support.certificates import certify
from tests.support.counters import Add, Added, Counter, total
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def sqs(started: Any) -> SqsServer:
    server: SqsServer = started("sqs")
    return server


@pytest.fixture
def sns(sqs: SqsServer) -> SnsServer:
    """Give the same emulator, as SNS."""
    return SnsServer.of(sqs)


async def stopped(engine: Engine, *counters: str) -> str:
    """Count, wait until the relay has stopped for it, and give why."""
    with pytest.raises(ProjectionLag, match="stopped"):
        await published(engine, await add(engine, *counters))
    failure = (await status(engine)).failure
    assert failure is not None
    return failure.cause


def to_command(message: Message) -> Command:
    counter = message.attributes["subject"].partition(":")[2]
    return Add(counter, json.loads(message.body)["amount"])


def consumer_of(sqs: SqsServer, topic: str, **options: Any) -> Consumer:
    given: dict[str, Any] = {"name": "of-b", "to_command": to_command}
    given |= {"topic": SqsServer.named(sqs, topic), "dead": SqsServer.named(sqs, f"{topic}-dead")}
    return Consumer(sqs.queues_url, **(given | options))


# -- what needs no server ------------------------------------------------------------------------


def outgoing(position: int = 1, body: bytes = b"{}", **attributes: str) -> Outgoing:
    given = {"id": f"log-{position}", "type": "added", "datacontenttype": "application/json"}
    given |= {"specversion": "1.0", "source": "urn:counters"}
    return Outgoing(position, "counter:a", "counted.fifo", given | attributes, body)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"amount": 1.50,  "x": [null]}', "application/json"),
        ('{"a":"ä\ufffe\uffff"}'.encode(), "application/vnd.counter+json; charset=utf-8"),
        (b"\x00\xff of no text", "application/octet-stream"),
        (b"no json", "application/json"),
        (b"", "text/plain"),
    ],
)
def test_the_body_comes_out_as_it_went_in(body: bytes, kind: str) -> None:
    message = outgoing(body=body, datacontenttype=kind, subject="counter:ä b%")
    text = entry_of(message)["Body"]

    found, attributes = opened(text)

    if "\ufffe" in body.decode(errors="replace"):
        assert json.loads(found) == json.loads(body)
        assert "\ufffe" not in text
    else:
        assert found == body
    assert attributes == message.attributes


@pytest.mark.parametrize("text", ["a 1", "[" * 9_000, "{}", '{"Type": 5}', '{"id": "1"}', "null"])
def test_what_is_no_event_of_cloudevents_is_the_body_as_it_is(text: str) -> None:
    assert opened(text) == (text.encode(), {})


def test_a_call_has_ten_messages_and_as_many_bytes_as_are_taken_at_most() -> None:
    small = [entry_of(outgoing(n)) for n in range(23)]
    assert [len(part) for part in batches(small)] == [10, 10, 3]
    large = [entry_of(outgoing(n, b'"%s"' % (b"x" * 100_000))) for n in range(5)]
    assert [len(part) for part in batches(large)] == [2, 2, 1]
    assert size_of(large[0]) > 100_000


def test_the_group_of_a_stream_is_its_name_as_far_as_the_service_takes_that() -> None:
    assert group_of("counter:a-1") == "counter:a-1"
    assert group_of("counter:ä b%") == "counter:%C3%A4%20b%25"
    long = {group_of(f"counter:{'ä' * 60}{n}") for n in range(3)}
    assert len(long) == 3
    assert all(len(name) <= GROUP_MAX for name in long)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqs://localhost", "names a region"),
        ("sqs+http://127.0.0.1:5000", "names a region"),
        ("sqs://a-token@eu-central-1", "a user and a password, or neither"),
        ("sqs+http://example.com/eu-central-1", "would not be encrypted"),
        ("sns://one,two/eu-central-1", "names one host"),
    ],
)
def test_a_url_that_names_no_region_or_no_safe_way_is_refused(url: str, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        read_address(url)


@pytest.mark.parametrize(
    "url", ["sqs://eu-central-1", "sns://u:p@us-gov-west-1", "sqs://h.example/eu-west-1"]
)
def test_a_url_names_a_region_alone_or_a_host_with_its_region(url: str) -> None:
    assert read_address(url).is_encrypted


def test_a_topic_of_sns_is_not_read() -> None:
    with pytest.raises(DefinitionError, match="subscribe a FIFO queue"):
        Consumer("sns://eu-west-1", topic="t", dead="d", name="n", to_command=to_command)


@pytest.mark.parametrize(
    ("code", "status", "passes"),
    [
        ("RequestThrottled", 403, True),
        ("OverLimit", 403, True),
        ("ServiceUnavailable", 503, True),
        ("", 502, True),
        ("AccessDeniedException", 400, False),
        ("ExpiredToken", 403, False),
        ("AWS.SimpleQueueService.NonExistentQueue", 400, False),
        ("UnsupportedOperation", 400, False),
    ],
)
def test_an_error_of_the_service_passes_or_is_for_somebody_to_mend(
    code: str, status: int, passes: bool
) -> None:
    errors: Any = importlib.import_module("botocore.exceptions")
    told: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    failed = failure_of(read_address("sqs://u:p@eu-west-1"), errors.ClientError(told, "Send"))

    assert failed.passes is passes


# -- SQS -----------------------------------------------------------------------------------------


async def test_a_queue_without_order_is_refused_by_name(sqs: SqsServer, topic: str) -> None:
    async with sqs.client() as client:
        await client.create_queue(QueueName=topic)
    relay = Relay("outbound", to=sqs.url, events=[Added], topic=topic)
    async with relaying(relay) as engine:
        assert f"the queue {topic!r} of" in (cause := await stopped(engine, "a"))
        assert "not FIFO" in cause


async def test_a_message_has_its_stream_as_group_and_its_event_as_deduplication_id(
    sqs: SqsServer, topic: str
) -> None:
    await sqs.create(topic)
    async with relaying(relay_to(sqs, topic)) as engine:
        await published(engine, await add(engine, *["a", "b"] * 7))
        log_id = engine._store.log_id
    found = [raw["Attributes"] for raw in await sqs.raw(topic)]

    assert {each["MessageGroupId"] for each in found} == {"counter:a", "counter:b"}
    ids = {each["MessageDeduplicationId"].rpartition("-")[0] for each in found}
    assert ids == {f"{log_id}-{position}" for position in range(1, 15)}


async def test_a_message_of_a_call_that_is_refused_alone_is_overtaken_by_none_of_its_stream(
    sqs: SqsServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may take some of a call of ten and not the others; moto never does."""
    await sqs.create(topic)
    plain = SqsOutlet._send
    refusals = [3, 0, 5]

    async def send(self: SqsOutlet, target: str, entries: Any) -> Any:
        if not refusals:
            return await plain(self, target, entries)
        lost = entries[refusals.pop() % len(entries)]
        kept = [entry for entry in entries if entry is not lost]
        if kept:
            await plain(self, target, kept)
        return {"Failed": [{"Id": lost["Id"], "Code": "InternalError", "SenderFault": False}]}

    monkeypatch.setattr(SqsOutlet, "_send", send)
    async with relaying(relay_to(sqs, topic)) as engine:
        await published(engine, await add(engine, *"abc" * 10))
        retries = engine.statistics().projectors["outbound"].retries
        assert check_order(await sqs.messages(topic), engine._store.log_id, 30) == 0
    assert retries >= 3


async def test_the_size_that_a_queue_takes_is_its_own(sqs: SqsServer, topic: str) -> None:
    await sqs.create(topic, MaximumMessageSize="1024")
    async with relaying(relay_to(sqs, topic)) as engine:
        await add(engine, "a")
        position = await add(engine, "b", tags={"x" * 1_024: [1]})
        await published(engine, position)
        assert (await status(engine)).parked == 1
        assert len(await sqs.messages(topic)) == 1


async def test_a_message_is_hidden_for_as_long_as_its_command_takes(
    sqs: SqsServer, topic: str
) -> None:
    """One that takes longer than the visibility timeout does not come again."""
    for name in (topic, f"{topic}-dead"):
        await sqs.create(name, VisibilityTimeout="1")
    await sqs.put(topic, "m-1", b"{}", subject="counter:a")
    begun, may_end = asyncio.Event(), asyncio.Event()

    class Slow(Engine):
        async def execute(self, *args: Any, **options: Any) -> Any:
            begun.set()
            await may_end.wait()
            return await super().execute(*args, **options)

    consumer = consumer_of(sqs, topic, to_command=lambda _: Add("a", 1))
    async with Slow([Counter]) as engine, consumer.running(engine):
        await begun.wait()
        async with sqs.client() as client:
            answer = await client.receive_message(
                QueueUrl=await sqs.queue(client, topic), WaitTimeSeconds=3
            )
        assert "Messages" not in answer
        may_end.set()
        await until(lambda: consumer.statistics().executed == 1)
    assert consumer.statistics().received == 1
    assert await sqs.messages(topic) == []


async def test_what_a_consumer_had_in_hand_as_it_stopped_comes_again_at_once(
    sqs: SqsServer, topic: str
) -> None:
    for name in (topic, f"{topic}-dead"):
        await sqs.create(name, VisibilityTimeout="600")
    for n in range(15):
        await sqs.put(topic, f"m-{n}", b"{}")
    begun = asyncio.Event()

    class Stuck(Engine):
        async def execute(self, *args: Any, **options: Any) -> Any:
            begun.set()
            await asyncio.Event().wait()

    consumer = consumer_of(sqs, topic, to_command=lambda _: Add("a", 1))
    async with Stuck([Counter]) as engine, consumer.running(engine):
        await begun.wait()
    again = consumer_of(sqs, topic, to_command=lambda _: Add("a", 1))
    async with Engine([Counter]) as engine, again.running(engine):
        await until(lambda: again.statistics().executed == 15)
        assert await total(engine, "a") == "15 at 15"


async def test_a_message_that_nobody_can_bury_goes_to_the_dead_letter_queue_of_its_own(
    sqs: SqsServer, topic: str
) -> None:
    """Ten attributes leave no place for the reason; then the queue's own policy has it."""
    await sqs.create(f"{topic}-last")
    await sqs.create(f"{topic}-dead")
    arn = f"arn:aws:sqs:us-east-1:123456789012:{topic}-last.fifo"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    await sqs.create(topic, RedrivePolicy=policy, VisibilityTimeout="1")
    await sqs.put(topic, "m-1", b"x", **{f"a{n}": "1" for n in range(9)})
    consumer = consumer_of(sqs, topic)
    async with Engine([Counter]) as engine, consumer.running(engine), sqs.client() as client:
        url = await sqs.queue(client, f"{topic}-last")
        async with asyncio.timeout(60):
            while "Messages" not in await client.receive_message(QueueUrl=url, VisibilityTimeout=0):
                await asyncio.sleep(0.1)
    assert consumer.statistics().buried == 0
    assert await sqs.messages(f"{topic}-dead") == []


async def test_a_queue_that_is_missing_ends_the_consumer(sqs: SqsServer, topic: str) -> None:
    await sqs.create(topic)
    consumer = consumer_of(sqs, topic)
    async with Engine([Counter]) as engine:
        with pytest.raises(BrokerFailed, match=f"has no queue '{topic}-dead.fifo'"):
            await consumer.run(engine)


async def test_an_encrypted_connection_needs_an_authority_that_is_trusted(
    sqs: SqsServer, topic: str, tmp_path: Path
) -> None:
    certificate = certify(tmp_path, "here", "IP:127.0.0.1")
    other = certify(tmp_path, "elsewhere", "DNS:elsewhere.example")
    await sqs.create(topic)
    for file, said in ((certificate, "self-signed certificate"), (other, "IP address mismatch")):
        with sqs.encrypted_by(file) as port:
            url = sqs.url_of(USER, PASSWORD, port=port, safe=True)
            trusted = ssl.create_default_context(cafile=str(file))
            unfit = trusted if file is other else None
            async with relaying(relay_to(sqs, topic, url=url, tls=unfit)) as engine:
                assert said in await stopped(engine, "a")
            if file is certificate:
                async with relaying(relay_to(sqs, topic, url=url, tls=trusted)) as engine:
                    await published(engine, await add(engine, "a"))
    url = sqs.url_of(USER, PASSWORD, safe=True)  # a server that encrypts nothing
    async with relaying(relay_to(sqs, topic, url=url)) as engine:
        assert "no encrypted connection" in await stopped(engine, "a")


@asynccontextmanager
async def answering(status: str, *lines: str) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """Give the port of a server that answers each request with the same, and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        head = [f"HTTP/1.1 {status}", *lines, "Content-Length: 0", "Connection: close", "", ""]
        writer.write("\r\n".join(head).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1], asked


async def test_a_redirection_is_not_followed_with_a_signature(sqs: SqsServer, topic: str) -> None:
    async with answering("200 OK") as (elsewhere, asked_elsewhere):
        where = f"Location: http://127.0.0.1:{elsewhere}/"
        async with answering("307 Temporary Redirect", where) as (port, asked):
            url = sqs.url_of(USER, PASSWORD, port=port)
            async with relaying(relay_to(sqs, topic, url=url)) as engine:
                assert "sends its callers elsewhere (307)" in await stopped(engine, "a")
    assert len(asked) == 1
    assert asked_elsewhere == []


async def test_a_gateway_in_front_of_a_service_that_is_down_is_waited_for(
    sqs: SqsServer, topic: str
) -> None:
    async with answering("502 Bad Gateway") as (port, _):
        url = sqs.url_of(USER, PASSWORD, port=port)
        async with relaying(relay_to(sqs, topic, url=url)) as engine:
            await add(engine, "a")
            await until(lambda: engine.statistics().projectors["outbound"].retries > 1)
            found = await status(engine)
    assert found.retrying is not None
    assert "takes no calls now (502)" in found.retrying.cause


# -- SNS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
async def test_events_come_by_sns_to_a_queue_and_become_commands_once(
    sns: SnsServer, topic: str, tmp_path: Path, raw: bool
) -> None:
    await sns.create(topic, raw=raw)
    await SqsServer.create(sns, f"{topic}-dead")
    consumer = consumer_of(sns, topic)
    async with relaying(relay_to(sns, topic)) as sender, Engine([Counter]) as receiver:
        position = await add(sender, *["a", "b", "ä b"] * 5)
        await published(sender, position)
        async with consumer.running(receiver):
            await until(lambda: consumer.statistics().executed == 15)
        for counter in ("a", "b", "ä b"):
            assert await total(receiver, counter) == "5 at 5"
        keys = [e.meta.key async for e in receiver.history(Counter, "a")]
        log_id = sender._store.log_id
    assert str(keys[0]).startswith(f"urn:foldline:log:{log_id} {log_id}-1-")


async def test_a_topic_that_drops_what_it_confirms_is_refused(sns: SnsServer, topic: str) -> None:
    async with sns.client("sns") as client:
        await client.create_topic(Name=f"{topic}.fifo", Attributes={"FifoTopic": "true"})
        async with relaying(relay_to(sns, topic)) as engine:
            assert "nobody subscribes" in await stopped(engine, "a", "a")
            await sns.create(topic)
            await engine.projections.resume("outbound")
            await published(engine, 2)
            assert check_order(await sns.messages(topic), engine._store.log_id, 2) == 0


async def test_a_topic_that_lost_its_last_subscription_stops_the_relay(
    sns: SnsServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again after a minute."""
    monkeypatch.setattr("engine.relays.sqs.LOOK_SECONDS", 0)
    await sns.create(topic)
    async with sns.client("sns") as client, relaying(relay_to(sns, topic)) as engine:
        await published(engine, await add(engine, "a"))
        found = await client.list_subscriptions_by_topic(TopicArn=sns.named(topic))
        for each in found["Subscriptions"]:
            await client.unsubscribe(SubscriptionArn=each["SubscriptionArn"])
        assert "nobody subscribes" in await stopped(engine, "a")


async def test_a_topic_that_is_missing_or_without_order_is_refused_by_name(
    sns: SnsServer, topic: str
) -> None:
    async with relaying(relay_to(sns, topic)) as engine:
        assert f"has no topic {sns.named(topic)!r}" in await stopped(engine, "a")
    async with sns.client("sns") as client:
        arn = (await client.create_topic(Name=topic))["TopicArn"]
    relay = Relay("outbound", to=sns.url, events=[Added], topic=arn)
    async with relaying(relay) as engine:
        assert "not FIFO" in await stopped(engine, "a")


async def test_wrong_credentials_are_refused_by_sns_too(sns: SnsServer, topic: str) -> None:
    await sns.create(topic)
    async with relaying(relay_to(sns, topic, url=sns.url_of(USER, "wr0ng-secret"))) as engine:
        cause = await stopped(engine, "a")
    assert "refuses the credentials" in cause
    assert "wr0ng" not in cause


async def test_a_line_to_sns_that_is_cut_in_the_middle_of_a_batch_loses_nothing(
    sns: SnsServer, topic: str, tmp_path: Path
) -> None:
    await sns.create(topic)
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Counter], store=store) as engine:
        for turn in range(20):
            for counter in "abc":
                await engine.execute(Add(counter, turn))
    async with line_to(sns.port) as line:
        line.left = 20_000
        url = sns.url_of(USER, PASSWORD, port=line.port)
        async with relaying(relay_to(sns, topic, url=url), store) as engine:
            await published(engine, 60)
            log_id = engine._store.log_id
        assert line.cuts == 1
    assert check_order(await sns.messages(topic), log_id, 60) == 0
