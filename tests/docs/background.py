"""What a reader leaves running in another terminal: a web server, a worker, a broker."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.support.aws_server import REGION, SqsServer
from tests.support.brokers import PASSWORD, USER, NatsServer, RabbitServer
from tests.support.dynamodb_server import CREDENTIALS, DynamoServer
from tests.support.kafka_server import KafkaServer
from tests.support.mongodb import MongoServer
from tests.support.opensearch import OpenSearchServer
from tests.support.other_stores import OldDatabase
from tests.support.umadb_server import UmadbServer

READY_SECONDS: Final = 60
LOOK_SECONDS: Final = 0.02
INSTALL: Final = "there is no redis-server: install it with `apt-get install -y redis-server`"
PORT: Final = "8000"
"""What the pages say; the real one is free."""

_UVICORN: Final = re.compile(r"uvicorn ")
_BY_ITS_SOCKET: Final = re.compile(r" --uds ")
_WORKERS: Final = re.compile(r" --workers (\d+)")
_BY_ITS_PORT: Final = re.compile(r"flask .*run|python serve\w*\.py|python \w+\.py runserver")
_WORKER: Final = re.compile(r"celery .* worker")


def is_server(command: str) -> bool:
    """Tell whether a command runs until it is interrupted."""
    return any(kind.match(command) for kind in (_UVICORN, _BY_ITS_PORT, _WORKER))


def _free_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


class Background:
    """One process, with its log in a file."""

    def __init__(self, command: str, folder: Path, variables: Mapping[str, str]) -> None:
        """Start it, and wait until it is ready."""
        self._command = command
        # One each, where several run at a time.
        self._log = folder / f".log-{len(list(folder.glob('.log-*')))}"
        self.port = PORT
        if _UVICORN.match(command):
            at = "" if _BY_ITS_SOCKET.search(command) else " --port 0"
            command = f"python -m {command}{at}"
        else:
            self.port = _free_port()
            command = re.sub(r"^(flask|celery) ", r"python -m \1 ", command)
            command = command.replace(PORT, self.port)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=folder,
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            alive = self._process.poll() is None and time.monotonic() < until
            assert alive, f"the server is not ready:\n{self.log}"
            time.sleep(LOOK_SECONDS)

    def _is_ready(self) -> bool:
        if _BY_ITS_PORT.match(self._command):
            with socket.socket() as asking:
                return asking.connect_ex(("127.0.0.1", int(self.port))) == 0
        if _WORKER.match(self._command):
            return " ready." in self.log
        workers = _WORKERS.search(self._command)
        # Their parent says that it runs before one of them listens.
        if workers and self.log.count("Application startup complete") < int(workers[1]):
            return False
        if _BY_ITS_SOCKET.search(self._command):
            return "running on unix socket" in self.log
        found = re.search(r"running on http://127\.0\.0\.1:(\d+) ", self.log)
        self.port = found[1] if found else PORT
        return found is not None

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def end(self) -> str:
        """Interrupt it, and wait for its end; give what it prints then, without its requests."""
        before = len(self.log)
        self._process.send_signal(signal.SIGINT)
        try:
            # A person types it again if nothing ends: gevent has lost one on a busy machine.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(READY_SECONDS / 2)
            self._process.send_signal(signal.SIGINT)
            self._process.wait(READY_SECONDS)
        finally:
            self._process.kill()
        lines = self.log[before:].splitlines(keepends=True)
        return "".join(line for line in lines if '"' not in line)


class Redis:
    """A Redis server on a free port; skips the test where there is none."""

    name = "REDIS"

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            assert not os.environ.get("CI"), INSTALL
            pytest.skip(INSTALL)
        self._port = _free_port()
        options = ["--port", self._port, "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        until = time.monotonic() + READY_SECONDS
        with socket.socket() as asking:
            while asking.connect_ex(("127.0.0.1", int(self._port))) != 0:
                assert self._process.poll() is None, "the redis-server ended"
                assert time.monotonic() < until, "the redis-server does not answer"
                time.sleep(LOOK_SECONDS)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self._port}/0"

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(READY_SECONDS)


class Nats:
    """A NATS server with JetStream on a free port."""

    name = "NATS"

    def __init__(self, folder: Path) -> None:
        self._server = NatsServer(folder / ".nats")
        self._server.start()
        self.url = self._server.url
        """Where it is."""

    def end(self) -> None:
        """End it."""
        self._server.kill()


class Rabbit:
    """A RabbitMQ server on a free port."""

    name = "RABBITMQ"

    def __init__(self, folder: Path) -> None:
        self._server = RabbitServer(folder / ".rabbitmq")
        self._server.start()
        self.url = self._server.url
        """Where it is."""

    def end(self) -> None:
        """End it."""
        self._server.close()


class Kafka:
    """A server that speaks the protocol of Kafka, on a free port."""

    name = "KAFKA"

    def __init__(self, folder: Path) -> None:
        self._server = KafkaServer(folder / ".kafka", asks=False)
        self._server.start()
        self.url = f"kafka://127.0.0.1:{self._server.port}"
        """Where it is."""

    def end(self) -> None:
        """End it."""
        self._server.close()


class Sqs:
    """An emulator of SQS on a free port, which the clients of AWS are told of too."""

    name = "SQS"

    def __init__(self, folder: Path) -> None:
        self._server = SqsServer(folder / ".sqs")
        self._server.start()
        self.url = self._server.url
        """Where it is."""
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.port}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_DEFAULT_REGION": REGION,
        }

    def end(self) -> None:
        """End it."""
        self._server.close()


class OpenSearch:
    """An emulator of OpenSearch on a free port."""

    name = "OPENSEARCH"

    def __init__(self, folder: Path) -> None:
        self._server = OpenSearchServer(folder / ".opensearch")
        self._server.start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        """Where it is."""

    def end(self) -> None:
        """End it."""
        self._server.close()


class Uma:
    """An UmaDB server on a free port."""

    name = "UMADB"

    def __init__(self, folder: Path) -> None:
        self._server = UmadbServer(folder / ".umadb")
        self._server.start()
        self.url = self._server.store_url()
        """Where it is."""

    def end(self) -> None:
        """End it."""
        self._server.close()


class Dynamo:
    """An emulator of DynamoDB on a free port."""

    name = "DYNAMODB"

    def __init__(self, folder: Path) -> None:
        self._server = DynamoServer(folder / ".dynamodb")
        self._server.start()
        self.url = self._server.store_url()
        """Where it is."""
        self.variables = CREDENTIALS

    def end(self) -> None:
        """End it."""
        self._server.close()


class Mongo:
    """A server that speaks MongoDB's protocol, on a free port."""

    name = "MONGODB"

    def __init__(self, folder: Path) -> None:
        self._server = MongoServer(folder / ".mongodb")
        self._server.start()
        self.url = self._server.url
        """Where it is."""

    def end(self) -> None:
        """End it."""
        self._server.close()


_Server: TypeAlias = (
    Redis | Nats | Rabbit | Kafka | Sqs | OldDatabase | OpenSearch | Uma | Dynamo | Mongo
)

BROKERS: Final[dict[str, type[_Server]]] = {
    "KAFKA": Kafka,
    "REDIS": Redis,
    "NATS": Nats,
    "RABBITMQ": Rabbit,
    "SQS": Sqs,
    "OLD": OldDatabase,
    "OPENSEARCH": OpenSearch,
    "UMADB": Uma,
    "DYNAMODB": Dynamo,
    "MONGODB": Mongo,
}
"""By the name of the variable that says where each is, without `_URL`."""
