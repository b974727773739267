"""Reads the URL of a PostgreSQL server, and keeps its password to itself.

Rules: an option that there is not is refused by name, and so is a value that an option does not
take. The password is in no message, no repr and no name. Off this machine the connection is
encrypted and the server proves who it is, unless the URL says less by name. Nothing is connected
or resolved here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, cast
from urllib.parse import unquote_to_bytes

import msgspec

from ...errors import DefinitionError
from ...runtime.secret import Secret
from ..contract.hosts import is_this_machine

__all__ = ["SCHEMES", "Address", "Host", "SslMode", "Weakness", "read_address"]

SCHEMES: Final = ("postgresql", "postgres")

SslMode: TypeAlias = Literal["disable", "require", "verify-ca", "verify-full"]
Weakness: TypeAlias = Literal["fsync", "full_page_writes", "synchronous_commit", "plaintext"]
"""What a server may lack if the URL allows it by name, at the cost of what it protects."""

DEFAULT_PORT: Final = 5432
DEFAULT_SCHEMA: Final = "foldline"
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_SSL_MODES: Final = ("disable", "require", "verify-ca", "verify-full")
_WEAKNESSES: Final = ("fsync", "full_page_writes", "synchronous_commit", "plaintext")
_POOLERS: Final = ("none", "transaction")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ANSWER_SECONDS: Final = 10.0
_ATTEMPT_SECONDS: Final = 6.0
"""A little more than a lock is waited for."""
_ATTEMPTS: Final = 3
_SECONDS_MAX: Final = 3_600.0

_OPTIONS: Final = (
    "schema",
    "host",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "pooler",
    "allow",
    "patience",
    "lease",
)


class Host(msgspec.Struct, frozen=True):
    """Where one server listens: a name or an address, or the folder of its socket."""

    name: str
    port: int = DEFAULT_PORT

    @property
    def is_local(self) -> bool:
        """Whether what is sent to it stays on this machine."""
        return self.name.startswith("/") or is_this_machine(self.name)

    def __str__(self) -> str:
        """Show it as in a URL."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port == DEFAULT_PORT else f"{name}:{self.port}"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says: where the server is, who asks, and which schema of which database."""

    hosts: tuple[Host, ...]
    """Those to try, in this order, where the first one that takes writes is used."""
    user: str | None
    """None for the name of the process's own user."""
    password: Secret | None
    database: str
    schema: str = DEFAULT_SCHEMA
    sslmode: SslMode
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    pooler: bool = False
    """Whether a pooler in transaction mode is known to stand between; else it is found out."""
    allowed: frozenset[Weakness] = frozenset()
    patience_seconds: float = 30.0
    """How long a server that has gone is waited for."""
    lease_seconds: float = 9.0
    """How long an engine that has gone keeps the log from the next one."""

    @property
    def answer_seconds(self) -> float:
        """How long a connection may take for one answer before it is taken for dead."""
        return max(self.patience_seconds, _ANSWER_SECONDS)

    @property
    def attempt_seconds(self) -> float:
        """How long one attempt to find something out may take, to leave time for another one."""
        return max(self.answer_seconds / _ATTEMPTS, _ATTEMPT_SECONDS)

    @property
    def name(self) -> str:
        """What people call the store: its URL without user and password."""
        hosts = ",".join(map(str, self.hosts))
        if self.hosts[0].name.startswith("/"):
            return f"postgresql:///{self.database}?host={hosts}&schema={self.schema}"
        return f"postgresql://{hosts}/{self.database}?schema={self.schema}"

    def sql(self, text: str) -> str:
        """Fill in what the schema is called, where a text says {s}."""
        return text.replace("{s}", self.schema)

    def __repr__(self) -> str:
        """Show the name only."""
        return f"Address({self.name!r})"


def read_address(url: str) -> Address:
    """Read the URL of a server; raise DefinitionError for what it cannot mean.

    `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?schema=NAME`. Several hosts stand behind each
    other with commas. Without a host, the option `host` names the folder of a socket.
    """
    scheme, _, rest = url.partition(":")
    if scheme not in SCHEMES or not rest.startswith("//"):
        raise _refused('it is no URL of a server: write "postgresql://USER@HOST/DATABASE"')
    if any(c.isspace() or not c.isprintable() for c in rest):
        raise _refused("there is a space, a line end or another character that is not shown in it")
    if "#" in rest:
        raise _refused('there is a "#" in it: write %23')
    # The password ends at the last "@" before the path: what is behind the mark is options.
    place, _, query = rest[2:].partition("?")
    before, slash, database = place.partition("/")
    if "@" in database:
        raise _refused('there is a "/" or an "@" in its password or behind it: write %2F or %40')
    if not slash or not database:
        raise _refused("it names no database: write one behind the host, as in HOST/DATABASE")
    if "/" in database:
        raise _refused("there is more than one name behind its host: write %2F for a slash in one")
    credentials, _, hosts = before.rpartition("@")
    if "@" in credentials:
        raise _refused('there is an "@" in its password or its user: write %40')
    user, colon, password = credentials.partition(":")
    options = _options(query)
    return _address(
        _hosts(hosts, options),
        _decoded(user, "user") or None,
        Secret(_decoded(password, "password")) if colon else None,
        _decoded(database, "database"),
        options,
    )


def _address(
    hosts: tuple[Host, ...],
    user: str | None,
    password: Secret | None,
    database: str,
    options: Mapping[str, str],
) -> Address:
    allowed = _allowed(options)
    local = all(host.is_local for host in hosts)
    sslmode = _one_of(options, "sslmode", _SSL_MODES, "disable" if local else "verify-full")
    if sslmode == "disable" and not local and "plaintext" not in allowed:
        raise _refused(
            "it leaves this machine and asks for no encryption: take sslmode=disable away, or add "
            "allow=plaintext if whoever reads the network may read and change everything"
        )
    if ("sslkey" in options) != ("sslcert" in options):
        raise _refused("sslcert and sslkey are given together or not at all")
    return Address(
        hosts=hosts,
        user=user,
        password=password,
        database=database,
        schema=_schema(options),
        sslmode=cast("SslMode", sslmode),
        sslrootcert=options.get("sslrootcert"),
        sslcert=options.get("sslcert"),
        sslkey=options.get("sslkey"),
        pooler=_one_of(options, "pooler", _POOLERS, "none") == "transaction",
        allowed=allowed,
        patience_seconds=_seconds(options, "patience", 30.0, 0.1),
        lease_seconds=_seconds(options, "lease", 9.0, 1.0),
    )


def _options(query: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if name not in _OPTIONS:
            # Not shown where it may be the rest of a password.
            shown = repr(name) if re.fullmatch(r"[a-z_]{1,30}", name) else "a part of it"
            raise _refused(f"{shown} is none of the options that there are: {', '.join(_OPTIONS)}")
        if not equals or not value:
            raise _refused(f"the option {name} has no value")
        if name in found:
            raise _refused(f"the option {name} is given twice")
        found[name] = _decoded(value, name)
    return found


def _hosts(hosts: str, options: Mapping[str, str]) -> tuple[Host, ...]:
    folder = options.get("host")
    if folder is not None:
        if not folder.startswith("/"):
            raise _refused("the option host names the folder of a socket, from the root on")
        if hosts.strip(":0123456789"):
            raise _refused("it names a host twice: behind // and by the option host")
        return (Host(folder, _port(hosts.removeprefix(":"))),)
    if not hosts:
        raise _refused('it names no host: write one behind "//", or the folder of a socket as host')
    return tuple(_host(one) for one in hosts.split(","))


def _host(text: str) -> Host:
    found = _HOST.match(text)
    if found is None:
        raise _refused("one of its hosts is no name and no address")
    rest = text[found.end() :]
    if rest and not rest.startswith(":"):
        raise _refused("one of its hosts is no name and no address")
    return Host(found[0].strip("[]"), _port(rest[1:]) if rest else DEFAULT_PORT)


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16):
        raise _refused("its port is no number from 1 to 65535")
    return int(text)


def _schema(options: Mapping[str, str]) -> str:
    schema = options.get("schema", DEFAULT_SCHEMA)
    if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_") or schema == "information_schema":
        raise _refused(
            f"the schema {schema!r} is no name of at most 48 small letters, digits and "
            f"underscores, or it is PostgreSQL's own"
        )
    return schema


def _allowed(options: Mapping[str, str]) -> frozenset[Weakness]:
    names = options["allow"].split(",") if "allow" in options else []
    for name in names:
        if name not in _WEAKNESSES:
            raise _refused(f"allow takes {', '.join(_WEAKNESSES)}, and {name!r} is none of them")
    return frozenset(cast("list[Weakness]", names))


def _one_of(options: Mapping[str, str], name: str, values: tuple[str, ...], default: str) -> str:
    value = options.get(name, default)
    if value not in values:
        raise _refused(f"{name} takes {', '.join(values)}, and {value!r} is none of them")
    return value


def _seconds(options: Mapping[str, str], name: str, default: float, least: float) -> float:
    text = options.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text):
        raise _refused(f"{name} takes seconds, as in {name}=10, and {text!r} is none")
    if not least <= float(text) <= _SECONDS_MAX:
        raise _refused(f"{name} takes {least:g} to {_SECONDS_MAX:g} seconds, and not {text}")
    return float(text)


def _decoded(text: str, what: str) -> str:
    if _ESCAPE.search(text):
        raise _refused(f'there is a "%" in its {what} with no two hexadecimal digits: write %25')
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise _refused(f"its {what} is no UTF-8") from None
    if "\0" in decoded:
        raise _refused(f"there is a NUL in its {what}")
    return decoded


def _refused(why: str) -> DefinitionError:
    # Nothing of the URL is shown: what cannot be read may have its password anywhere.
    return DefinitionError(f"the URL of a PostgreSQL store is refused: {why}. Nothing was made")
