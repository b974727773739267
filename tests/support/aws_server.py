"""SQS and SNS for tests: an emulator (moto), behind a gate that can be killed.

`kill` kills the gate, so that every connection breaks and nobody is reached; the emulator goes on,
since it keeps its queues in memory. So no durability is shown here: that is the service's own.
"""

from __future__ import annotations

import importlib
import itertools
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.support.brokers import LOOK_SECONDS, PASSWORD, SECONDS, USER, Broker, Seen
from tests.support.kafka_server import listens
from tests.support.postgres import free_port

ROOT = Path(__file__).parents[2]
REGION = "us-east-1"
ACCOUNT = "123456789012"
VISIBILITY_SECONDS = 2
_numbers = itertools.count()


class SqsServer(Broker):
    """SQS, whose topics are FIFO queues."""

    emulated = True
    scheme = "sqs+http"
    safe_scheme = "sqs"
    keeps_what_was_read = False
    too_large = 262_144

    def __init__(self, folder: Path, *, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(folder, tls=tls)
        self._inner = free_port()
        self._emulator: subprocess.Popen[bytes] | None = None
        self._taken: dict[str, list[Any]] = defaultdict(list)
        """What `messages` has taken: to read is to delete."""

    def named(self, topic: str) -> str:
        return f"{topic}.fifo"

    def url_of(
        self, user: str, password: str, *, port: int | None = None, safe: bool = False
    ) -> str:
        return f"{super().url_of(user, password, port=port, safe=safe)}/{REGION}"

    @property
    def queues_url(self) -> str:
        """Give where queues are read, also if this is SNS."""
        return f"sqs+http://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{REGION}"

    def command(self) -> Sequence[str]:
        files = [str(file) for file in self.tls or ()]
        python = [sys.executable, "-m"]
        return [*python, "tests.support.gate", str(self.port), str(self._inner), *files]

    def start(self) -> None:
        """Start it; the first time with the emulator behind it."""
        if self._emulator is None:
            arguments = [str(self._inner), USER, PASSWORD]
            path = self.folder / "emulator.log"
            with path.open("ab") as log:
                self._emulator = process = subprocess.Popen(
                    [sys.executable, "-m", "tests.support.aws_emulator", *arguments],
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                )
            until = time.monotonic() + SECONDS
            while not listens(self._inner):
                alive = process.poll() is None and time.monotonic() < until
                assert alive, f"the emulator is not ready:\n{path.read_text()[-2_000:]}"
                time.sleep(LOOK_SECONDS)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=ROOT)
        self.wait(self.is_ready)

    @contextmanager
    def encrypted_by(self, certificate: Path) -> Generator[int]:
        """Give a port where the same emulator is reached by encrypted connections only."""
        port, files = free_port(), [str(certificate), str(certificate.with_suffix(".key"))]
        arguments = [str(port), str(self._inner), *files]
        gate = subprocess.Popen([sys.executable, "-m", "tests.support.gate", *arguments], cwd=ROOT)
        try:
            until = time.monotonic() + SECONDS
            while not listens(port):
                assert time.monotonic() < until, "the gate is not ready"
                time.sleep(LOOK_SECONDS)
            yield port
        finally:
            gate.kill()
            gate.wait(SECONDS)

    def close(self) -> None:
        super().close()
        if self._emulator is not None:
            self._emulator.kill()
            self._emulator.wait(SECONDS)

    def _end(self, how: signal.Signals) -> None:
        super()._end(signal.SIGKILL)

    # -- what a reader outside does ----------------------------------------------------------

    @asynccontextmanager
    async def client(self, service: str = "sqs") -> AsyncGenerator[Any]:
        """Give a client that passes the gate by."""
        made: Any = importlib.import_module("aiobotocore.session")
        async with made.get_session().create_client(
            service,
            region_name=REGION,
            endpoint_url=f"http://127.0.0.1:{self._inner}",
            aws_access_key_id=USER,
            aws_secret_access_key=PASSWORD,
        ) as client:
            yield client

    async def create(self, topic: str, **options: Any) -> None:
        name = self.named(topic).rpartition(":")[2]
        given = {"VisibilityTimeout": str(VISIBILITY_SECONDS), **options}
        given.setdefault("MaximumMessageSize", str(self.too_large))
        if name.endswith(".fifo"):
            given["FifoQueue"] = "true"
        async with self.client() as client:
            await client.create_queue(QueueName=name, Attributes=given)

    async def queue(self, client: Any, topic: str) -> str:
        """Give the URL of a topic's queue."""
        name = self.named(topic).rpartition(":")[2]
        url: str = (await client.get_queue_url(QueueName=name))["QueueUrl"]
        return url

    async def put(self, topic: str, name: str, body: bytes, **attributes: str) -> None:
        given = {f"ce_{key}": value for key, value in attributes.items()}
        given |= {"ce_id": name} if name else {}
        async with self.client() as client:
            await client.send_message(
                QueueUrl=await self.queue(client, topic),
                MessageBody=body.decode(),
                MessageAttributes={
                    key: {"DataType": "String", "StringValue": value}
                    for key, value in given.items()
                },
                MessageGroupId="everything",
                MessageDeduplicationId=f"put-{next(_numbers)}",
            )

    async def messages(self, topic: str) -> list[Seen]:
        return [_seen(topic, raw) for raw in await self.raw(topic)]

    async def raw(self, topic: str) -> list[Any]:
        """Give all messages that a topic ever had and no consumer has taken."""
        taken = self._taken[topic]
        async with self.client() as client:
            url = await self.queue(client, topic)
            while True:
                answer = await client.receive_message(
                    QueueUrl=url,
                    MaxNumberOfMessages=10,
                    MessageSystemAttributeNames=["All"],
                    MessageAttributeNames=["All"],
                )
                found = answer.get("Messages", [])
                if not found:
                    return taken
                taken += found
                await client.delete_message_batch(
                    QueueUrl=url,
                    Entries=[
                        {"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]}
                        for n, each in enumerate(found)
                    ],
                )


class SnsServer(SqsServer):
    """SNS, whose topics are FIFO topics with a FIFO queue of the same name that subscribes."""

    scheme = "sns+http"
    safe_scheme = "sns"

    @classmethod
    def of(cls, server: SqsServer) -> SnsServer:
        """Give the same emulator, which is both."""
        made = cls.__new__(cls)
        made.__dict__ = server.__dict__
        return made

    def named(self, topic: str) -> str:
        return f"arn:aws:sns:{REGION}:{ACCOUNT}:{topic}.fifo"

    async def create(self, topic: str, *, raw: bool = True, **options: Any) -> None:
        await super().create(topic, **options)
        async with self.client("sns") as client:
            made = await client.create_topic(Name=f"{topic}.fifo", Attributes={"FifoTopic": "true"})
            await client.subscribe(
                TopicArn=made["TopicArn"],
                Protocol="sqs",
                Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{topic}.fifo",
                Attributes={"RawMessageDelivery": "true"} if raw else {},
            )


def _seen(topic: str, raw: Any) -> Seen:
    """Read a message as somebody else would, by the form of CloudEvents."""
    headers = {
        name: attribute["StringValue"]
        for name, attribute in raw.get("MessageAttributes", {}).items()
    }
    if headers.get("content-type") != "application/cloudevents+json":
        names = {name.removeprefix("ce_"): value for name, value in headers.items()}
        return Seen(topic, names.get("id", ""), names, raw["Body"].encode())
    form = json.loads(raw["Body"])
    if "data" in form:
        body = json.dumps(form.pop("data"), separators=(",", ":")).encode()
    else:
        base64: Any = importlib.import_module("base64")
        body = base64.b64decode(form.pop("data_base64"))
    return Seen(topic, form["id"], form, body)
