"""Reads the URL of a message broker, or of a database for rows, and keeps its password to itself.

Rules: the password is in no message, repr or name. Off this machine a URL asks for an encrypted
connection, unless `allow` says less by name. Nothing is connected or resolved here.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from ..errors import DefinitionError
from ..runtime.secret import Secret

__all__ = ["Address", "Broker", "Weakness", "read_address"]

Broker: TypeAlias = Literal[
    "kafka", "mongodb", "nats", "opensearch", "rabbitmq", "redis", "sns", "sqs"
]
Weakness: TypeAlias = Literal["memory", "fsync", "unclean", "plaintext"]
"""What a broker may lack if `allow` names it: a copy on disk, a sync of it or a second copy before
it confirms, a leader that has all that was confirmed, and encryption off this machine."""

_SCHEMES: Final[dict[str, tuple[Broker, bool, int]]] = {
    "kafka": ("kafka", False, 9092),
    "kafkas": ("kafka", True, 9093),
    "nats": ("nats", False, 4222),
    "tls": ("nats", True, 4222),
    "amqp": ("rabbitmq", False, 5672),
    "amqps": ("rabbitmq", True, 5671),
    "redis": ("redis", False, 6379),
    "rediss": ("redis", True, 6379),
    "sns+http": ("sns", False, 80),
    "sns": ("sns", True, 443),
    "sqs+http": ("sqs", False, 80),
    "sqs": ("sqs", True, 443),
    "http": ("opensearch", False, 9200),
    "https": ("opensearch", True, 9200),
    "mongodb": ("mongodb", False, 27017),
    "mongodb+srv": ("mongodb", True, 27017),
}
"""By scheme: which broker, whether encrypted, and at which port it listens."""
DATABASES: Final = ("mongodb", "opensearch")
"""What takes rows of a read model, and no messages."""
AWS: Final = ("sns", "sqs")
_REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says: which broker is where, and who asks."""

    broker: Broker
    scheme: str
    hosts: tuple[tuple[str, int], ...]
    """Names or addresses with their ports; more than one for Kafka, MongoDB and NATS only."""
    user: str | None = None
    password: Secret | None = None
    path: str = ""
    """A database of Redis, a virtual host of RabbitMQ, or a region of AWS: without one its host is
    the region."""
    is_encrypted: bool = False
    allow: frozenset[Weakness] = frozenset()

    def __str__(self) -> str:
        """Show where it is, and not who asks."""
        where = ",".join(
            f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in self.hosts
        )
        return f"{self.scheme}://{where}"

    def tls(self, given: ssl.SSLContext | None) -> ssl.SSLContext | None:
        """Give what encrypts the connection, where it is to be."""
        return (given or ssl.create_default_context()) if self.is_encrypted else None


def read_address(
    url: object, allow: Sequence[Weakness] = (), *, database: Broker | None = None
) -> Address:
    """Give what a URL says of a broker, or of a database where that is asked for.

    Raises DefinitionError, with no password in it, where it says none.
    """
    known = [
        scheme
        for scheme, (broker, _, _) in _SCHEMES.items()
        if (broker not in DATABASES if database is None else broker == database)
    ]
    weak = frozenset(allow)
    if isinstance(allow, str) or not weak <= set(get_args(Weakness)):
        raise DefinitionError(f"allow= is a list of {', '.join(get_args(Weakness))}")
    try:
        assert isinstance(url, str)
        parts = urlsplit(url)
        assert parts.scheme in known
        broker, is_encrypted, port = _SCHEMES[parts.scheme]
        hosts = tuple(_host(each, port) for each in parts.netloc.rpartition("@")[2].split(","))
        user, password = _who(parts)
    except (AssertionError, KeyError, ValueError):
        raise DefinitionError(
            f"the URL of {database or 'a broker'} is none that this release knows: it begins with "
            f"one of {', '.join(f'{scheme}://' for scheme in known)}, then has a host"
        ) from None
    if parts.query or parts.fragment:
        raise DefinitionError(
            "the URL of a broker has no options behind a question mark: give them by keyword"
        )
    path = unquote(parts.path.removeprefix("/"))
    _check_path(broker, hosts[0][0], path)
    if broker in {"kafka", *AWS} and password is not None and user is None:
        raise DefinitionError(f"the URL of {broker} has a user and a password, or neither")
    if len(hosts) > 1 and broker not in {"kafka", "mongodb", "nats"}:
        raise DefinitionError(f"the URL of {broker} names one host, and this one {len(hosts)}")
    address = Address(
        broker=broker,
        scheme=parts.scheme,
        hosts=hosts,
        user=user,
        password=password,
        path=path,
        is_encrypted=is_encrypted,
        allow=weak,
    )
    if not is_encrypted and "plaintext" not in weak and not all(_is_local(h) for h, _ in hosts):
        secure = next(s for s, (b, tls, _) in _SCHEMES.items() if b == broker and tls)
        raise DefinitionError(
            f"{address} is not on this machine, and the connection would not be encrypted: write "
            f'{secure}://, or allow=["plaintext"] for a network that you trust'
        )
    return address


def _check_path(broker: Broker, host: str, path: str) -> None:
    """Raise DefinitionError where a URL says more than is read, or names no region."""
    if broker in AWS:
        if not _REGION.fullmatch(path or host):
            raise DefinitionError(
                f"the URL of {broker} names a region, as {broker}://eu-central-1, or a host and "
                f"its region, as {broker}://{broker}.example.com/eu-central-1"
            )
    elif path and not (
        broker == "rabbitmq" or (broker == "redis" and path.isascii() and path.isdigit())
    ):
        raise DefinitionError(
            "the URL of a broker ends with its host; one of Redis may have the number of a "
            "database behind it, as redis://localhost/0, and one of RabbitMQ a virtual host"
        )


def _host(text: str, default: int) -> tuple[str, int]:
    found = urlsplit(f"//{text}")
    if not found.hostname:
        raise ValueError("no host")
    return found.hostname, found.port or default


def _who(parts: SplitResult) -> tuple[str | None, Secret | None]:
    """Give user and password; a name without a password is a token of NATS, so it is secret."""
    named, at, _ = parts.netloc.rpartition("@")
    if not at:
        return None, None
    user, colon, password = named.partition(":")
    if not colon:
        return None, Secret(unquote(user))
    return unquote(user) or None, Secret(unquote(password))


def _is_local(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
