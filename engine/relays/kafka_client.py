"""Reaches a Kafka cluster, looks at topics, and gives its errors a meaning.

Rules: the first connection is one of its own, since aiokafka hides why it cannot start. No topic is
made by looking at it. A setting that can lose a confirmed message is an error, unless `allow` has
it. What a server does not tell of its settings is not judged: some that speak the protocol of Kafka
tell nothing. No error has the password in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from ..brokers.address import Address
from ..brokers.client import CONNECT_SECONDS, tls_problem
from ..errors import BrokerFailed
from .outlet import ANSWER_SECONDS

__all__ = ["PREFIX", "Cluster", "Kept", "ended", "failure_of", "is_topic", "reach"]

PREFIX: Final = "ce_"
"""Of the headers that are attributes of CloudEvents, in its binding for Kafka."""
MECHANISMS: Final = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
"""Ways to sign in, in the order in which they are tried."""
TOPIC_MAX: Final = 249
"""Characters of a topic's name."""
_OF_TOPICS: Final = 2
"""What DescribeConfigs calls a topic."""
_COPIES: Final = "min.insync.replicas"
_UNCLEAN: Final = "unclean.leader.election.enable"
_FLUSH: Final = "flush.messages"
_LARGEST: Final = "max.message.bytes"
_SAFE: Final = 2
"""Servers that have a message before it is confirmed: one may be lost."""
_MISSING: Final = 3
_DENIED: Final = (29, 31)


class Kept(msgspec.Struct, frozen=True):
    """How a topic is kept."""

    partitions: Sequence[int]
    largest: int | None
    """Bytes of a message that it takes, where the server tells."""


class Cluster:
    """One connection to a cluster, and the options by which others are made."""

    def __init__(self, address: Address, connection: Any, options: Mapping[str, Any]) -> None:
        """Take a connection that is open."""
        self._address = address
        self._connection = connection
        self.options = options

    async def partitions(self, topic: str) -> tuple[Sequence[int], int]:
        """Give the partitions of a topic, and how many copies the fewest have.

        Raises BrokerFailed where there is no such topic.
        """
        metadata: Any = importlib.import_module("aiokafka.protocol.metadata")
        errors: Any = importlib.import_module("aiokafka.errors")
        request = metadata.MetadataRequest([topic], allow_auto_topic_creation=False)
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await self._connection.send(request)
        (found,) = answer.topics
        code, _, _, partitions = found
        if code == _MISSING:
            raise missing(self._address, topic)
        if code:
            raise errors.for_code(code)
        return sorted(each[1] for each in partitions), min(len(each[3]) for each in partitions)

    async def look(self, topic: str) -> Kept:
        """Give how a topic is kept; raise BrokerFailed where it is missing, or kept too weakly."""
        partitions, copies = await self.partitions(topic)
        told = await self._settings(topic)
        problem = weakness_of(told, copies, self._address.allow)
        if problem is not None:
            raise BrokerFailed(f"the topic {topic!r} of {self._address} {problem}", passes=False)
        largest = told.get(_LARGEST, "")
        return Kept(partitions, int(largest) if largest.isdigit() else None)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    async def _settings(self, topic: str) -> Mapping[str, str]:
        admin: Any = importlib.import_module("aiokafka.protocol.admin")
        errors: Any = importlib.import_module("aiokafka.errors")
        asked = (_OF_TOPICS, topic, None)  # all: Tansu does not understand a choice
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._connection.send(admin.DescribeConfigsRequest([asked]))
        except errors.IncompatibleBrokerVersion:
            return {}
        (code, _, _, _, entries) = answer.resources[0]
        if code in _DENIED and not {"fsync", "unclean"} <= self._address.allow:
            raise BrokerFailed(
                f"{self._address} does not let this user read the settings of {topic!r}, so a weak "
                f"one would go unseen: grant DescribeConfigs on the topic, or give "
                f'allow=["fsync", "unclean"]',
                passes=False,
            )
        return {entry[0]: entry[1] or "" for entry in entries}


def weakness_of(told: Mapping[str, str], copies: int, allow: Collection[str]) -> str | None:
    """Give what in a topic's settings can lose a confirmed message, where it is not allowed."""
    if told.get(_UNCLEAN) == "true" and "unclean" not in allow:
        return (
            f"lets a server that lacks messages become the leader ({_UNCLEAN}=true): set it to "
            f'false, or give allow=["unclean"]'
        )
    least = told.get(_COPIES, "")
    if not least.isdigit() or told.get(_FLUSH) == "1" or "fsync" in allow:
        return None
    if min(int(least), copies) < _SAFE:
        return (
            f"confirms a message that one server has, and before its disk has it (copies: "
            f"{copies}, {_COPIES}={least}): have both at 2 or more, or give "
            f'allow=["fsync"]'
        )
    return None


async def reach(address: Address, name: str, tls: ssl.SSLContext | None) -> Cluster:
    """Connect to the first server that answers; raise BrokerFailed where none does."""
    _quieten()
    # Its import takes long: in a thread, so that the loop is not blocked the first time.
    loop = asyncio.get_running_loop()
    module: Any = await loop.run_in_executor(None, importlib.import_module, "aiokafka.conn")
    errors: Any = importlib.import_module("aiokafka.errors")
    failed: BrokerFailed | None = None
    for host, port in address.hosts:
        for mechanism in MECHANISMS if address.password is not None else (None,):
            options = _options(address, name, tls, mechanism)
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection = await module.create_conn(host, port, **options)
            except errors.UnsupportedSaslMechanismError as error:
                failed = failure_of(address, error)
                continue
            except (errors.KafkaError, OSError, TimeoutError, ValueError, KeyError) as error:
                failed = failure_of(address, error)
                break
            servers = [f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in address.hosts]
            return Cluster(address, connection, {**options, "bootstrap_servers": servers})
        if failed is not None and not failed.passes:
            break
    assert failed is not None
    raise failed


def _quieten() -> None:
    """Leave the words of aiokafka out of the log, unless the host has given its logger a level.

    It logs errors that are raised here too, and at DEBUG what signs in, which is left out always.
    """
    logger = logging.getLogger("aiokafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    logging.getLogger("aiokafka.conn").addFilter(_without_secrets)


def _without_secrets(record: logging.LogRecord) -> bool:
    """Tell whether a record of aiokafka may be logged."""
    shown: Any = record.args
    return not (
        isinstance(shown, tuple)
        and any(type(each).__name__.startswith("SaslAuth") for each in cast("Any", shown))
    )


def _options(
    address: Address, name: str, tls: ssl.SSLContext | None, mechanism: str | None
) -> dict[str, Any]:
    protocol = "SSL" if address.is_encrypted else "PLAINTEXT"
    options: dict[str, Any] = {
        "client_id": name,
        "request_timeout_ms": int(ANSWER_SECONDS * 1_000),
        "security_protocol": protocol if mechanism is None else f"SASL_{protocol}",
        "ssl_context": address.tls(tls),
    }
    if mechanism is not None and address.password is not None:
        options["sasl_mechanism"] = mechanism
        options["sasl_plain_username"] = address.user
        options["sasl_plain_password"] = address.password.revealed
    return options


def is_topic(name: str) -> bool:
    """Tell whether a topic can have a name."""
    signs = name.replace(".", "a").replace("_", "a").replace("-", "a")
    return (
        len(name) <= TOPIC_MAX and signs.isascii() and signs.isalnum() and name not in {".", ".."}
    )


def missing(address: Address, topic: str) -> BrokerFailed:
    """Give the error of a topic that is not there."""
    return BrokerFailed(
        f"{address} has no topic {topic!r}, and none is made by accident: create it, then go on",
        passes=False,
    )


def failure_of(address: Address, error: BaseException) -> BrokerFailed:
    """Give what an error of the client means, in words that have no secret in them."""
    errors: Any = importlib.import_module("aiokafka.errors")
    problem = tls_problem(address, error)
    if problem is not None:
        return problem
    name = type(error).__name__
    if isinstance(error, BrokerFailed):
        return error
    # A KeyError is what aiokafka makes of an end of SCRAM that is no signature but an error.
    refused = (errors.AuthenticationFailedError, errors.SaslAuthenticationFailed, KeyError)
    if isinstance(error, refused):
        return BrokerFailed(
            f"{address} refuses the credentials of the URL: mend user or password", passes=False
        )
    if isinstance(error, errors.UnsupportedSaslMechanismError | errors.IllegalSaslStateError):
        return BrokerFailed(
            f"{address} takes none of the ways to sign in that this release has: "
            f"{', '.join(MECHANISMS)}",
            passes=False,
        )
    if name.endswith(("AuthorizationFailedError", "AuthorizationFailed")):
        return BrokerFailed(
            f"{address} does not allow it ({name}): see the rights of this user", passes=False
        )
    if isinstance(error, errors.IncompatibleBrokerVersion | errors.UnsupportedVersionError):
        return BrokerFailed(
            f"{address} is of a version that the library aiokafka does not speak", passes=False
        )
    alone = (errors.NotEnoughReplicasError, errors.NotEnoughReplicasAfterAppendError)
    if isinstance(error, alone):
        return BrokerFailed(
            f"{address} has fewer servers in sync than min.insync.replicas asks for", passes=True
        )
    late = (TimeoutError, errors.KafkaTimeoutError, errors.RequestTimedOutError)
    if isinstance(error, late):
        return BrokerFailed(f"{address} has not answered within {ANSWER_SECONDS:g} s", passes=True)
    closed = isinstance(error, errors.KafkaConnectionError) and address.password is None
    hint = ", or it asks for user and password" if closed else ""
    return BrokerFailed(f"{address} cannot be reached ({name}){hint}", passes=True)


async def ended(producer: Any) -> None:
    """End a producer at once: what it has not confirmed is not sent by it any more."""
    producer._closed = True  # its `stop` would send what waits, and wait for a server that is down
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.gather(
                producer._sender.close(), producer.client.close(), return_exceptions=True
            )
