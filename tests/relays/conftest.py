"""One server of each broker for all tests of this room; each test has a topic of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.aws_server import SqsServer
from tests.support.brokers import Broker, NatsServer, RabbitServer, RedisServer
from tests.support.kafka_server import KafkaServer

BROKERS: dict[str, type[Broker]] = {
    "kafka": KafkaServer,
    "nats": NatsServer,
    "rabbitmq": RabbitServer,
    "redis": RedisServer,
    "sqs": SqsServer,
}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Broker]]:
    """Give the server of a broker; it is started when it is first asked for."""
    running: dict[str, Broker] = {}

    def start(name: str) -> Broker:
        if name not in running:
            server = BROKERS[name](tmp_path_factory.mktemp(name))
            server.start()
            running[name] = server
        return running[name]

    yield start
    for server in running.values():
        server.close()


SLOW = {"kafka", "sqs"}
"""A chain of processes, or an emulator in Python: their tests have more time."""
PARAMETERS = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(BROKERS)
]


@pytest.fixture(params=PARAMETERS)
def broker(request: pytest.FixtureRequest, started: Any) -> Broker:
    """Give each broker's server in turn."""
    server: Broker = started(request.param)
    return server


@pytest.fixture
def topic() -> str:
    """Give the name of a topic that no other test has."""
    return f"counted{next(_numbers)}"
