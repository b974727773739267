"""How the server is spoken to: a small protocol, and asyncpg behind it.

Rules: every connection of a store comes from `Driver.connect`; an engine's ports may bring another
driver. No setting of a session is needed, so that a pooler may stand between: statements are sent
unnamed, and `prepare` names one where `is_pooled` is false. Only this file imports asyncpg, when it
first connects. A connection serves one call at a time.
"""

from __future__ import annotations

import importlib
import importlib.util
import ssl
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeAlias, cast

from ...errors import DefinitionError, StoreFailed
from ...runtime.ports import Ports
from .address import Address
from .failures import cannot_begin_tls, cannot_connect, has_no_connection

__all__ = [
    "Asyncpg",
    "Connection",
    "Driver",
    "LogMessage",
    "Record",
    "Statement",
    "Telling",
    "check_installed",
    "driver_of",
]

CONNECT_SECONDS: Final = 10.0
"""How long one attempt to connect may take."""

Record: TypeAlias = Sequence[Any]
"""A row: its values in order."""


class LogMessage(Protocol):
    """What a server says besides an answer."""

    @property
    def severity_en(self) -> str | None:
        """`WARNING`, `NOTICE` and so on, in English whatever the server speaks."""
        ...


class Statement(Protocol):
    """A statement that the server has planned, or that is sent anew each time."""

    async def fetch(self, *values: Any) -> Sequence[Record]:
        """Run it; give its rows."""
        ...

    async def fetchrow(self, *values: Any) -> Record | None:
        """Run it; give its first row."""
        ...


class Connection(Protocol):
    """One session with the server, as asyncpg has it."""

    async def execute(self, query: str, *values: Any) -> str:
        """Run a statement, or several without values; give the server's tag of the last."""
        ...

    async def fetch(self, query: str, *values: Any) -> Sequence[Record]:
        """Run a statement; give its rows."""
        ...

    async def fetchrow(self, query: str, *values: Any) -> Record | None:
        """Run a statement; give its first row."""
        ...

    async def fetchval(self, query: str, *values: Any) -> Any:
        """Run a statement; give the first value of its first row."""
        ...

    async def prepare(self, query: str, *, name: str) -> Statement:
        """Give a statement that the server keeps by this name; not where a pooler is."""
        ...

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False
    ) -> AbstractAsyncContextManager[Any]:
        """Give a block that commits as it ends, or takes all back."""
        ...

    def add_log_listener(self, callback: Callable[[Any, LogMessage], None]) -> None:
        """Have called, before the answer is given, what the server says besides it."""
        ...

    def remove_log_listener(self, callback: Callable[[Any, LogMessage], None]) -> None:
        """Call it no more."""
        ...

    async def add_listener(
        self, channel: str, callback: Callable[[Any, int, str, str], None]
    ) -> None:
        """Listen to a channel; have called, with the notice as its last value, what comes."""
        ...

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None:
        """Have called when the connection has ended."""
        ...

    def is_closed(self) -> bool:
        """Tell whether it is of no use any more."""
        ...

    def terminate(self) -> None:
        """Close it at once, without a word to the server."""
        ...

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Close it in peace."""
        ...


class Driver(Protocol):
    """What connects."""

    async def connect(self, address: Address) -> tuple[Connection, bool]:
        """Connect; also tell whether a pooler stands between, so that nothing may be prepared.

        Raises StoreRefused where somebody must act, StoreFailed where it may work later.
        """
        ...


class Asyncpg:
    """The driver that goes without saying."""

    async def connect(self, address: Address) -> tuple[Connection, bool]:
        """Connect by asyncpg, within CONNECT_SECONDS."""
        check_installed()
        driver: Any = importlib.import_module("asyncpg")
        errors = (driver.PostgresError, driver.InterfaceError, driver.InternalClientError)
        connection: Any = None
        try:
            connection = await driver.connect(**_arguments(address))
            # A pooler gives a number of its own for what is to be cancelled.
            pooled = address.pooler or (
                await connection.fetchval("SELECT pg_catalog.pg_backend_pid()")
                != connection.get_server_pid()
            )
        except (OSError, EOFError, UnicodeError, *errors) as error:  # of a name that is no host's
            if connection is not None:
                connection.terminate()
            raise cannot_connect(address, error) from _without_frames(error)
        except BaseException:
            if connection is not None:
                connection.terminate()
            raise
        return cast("Connection", connection), pooled


class Telling:
    """A driver that also tells where the server, or a pooler before it, has no connection left."""

    def __init__(self, driver: Driver, lacks: Callable[[], None]) -> None:
        self._driver = driver
        self._lacks = lacks

    async def connect(self, address: Address) -> tuple[Connection, bool]:
        """Connect; raise what the driver does."""
        try:
            return await self._driver.connect(address)
        except StoreFailed as error:
            if has_no_connection(error.__cause__):
                self._lacks()
            raise


def _without_frames(error: BaseException) -> BaseException:
    """Take away the frames that it came through: the driver's have the password among locals."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _arguments(address: Address) -> dict[str, Any]:
    several = len(address.hosts) > 1
    return {
        "host": [host.name for host in address.hosts],
        "port": [host.port for host in address.hosts],
        "user": address.user,
        "password": None if address.password is None else address.password.revealed,
        "database": address.database,
        "ssl": _tls(address),
        "timeout": CONNECT_SECONDS,
        # Nothing is prepared without being asked for: a pooler would give it to somebody else.
        "statement_cache_size": 0,
        "server_settings": {"application_name": "foldline"},
        "target_session_attrs": "read-write" if several else "any",
    }


def _tls(address: Address) -> ssl.SSLContext | bool:
    if address.sslmode == "disable":
        return False
    try:
        context = ssl.create_default_context(cafile=address.sslrootcert)
        if address.sslcert is not None:
            # Without a password OpenSSL would ask the terminal for one, and block the event loop.
            context.load_cert_chain(address.sslcert, address.sslkey, password="")
    except OSError as error:
        raise cannot_begin_tls(address, error) from error
    if address.sslmode != "verify-full":
        context.check_hostname = False
    if address.sslmode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context


def check_installed() -> None:
    """Raise DefinitionError where asyncpg is not installed; nothing is imported."""
    if importlib.util.find_spec("asyncpg") is None:
        raise DefinitionError(
            "a PostgreSQL store needs asyncpg, which is not installed: install Foldline from its "
            "clone with the extra `postgres`, as in pip install '../foldline[postgres]'"
        )


def driver_of(ports: Ports) -> Driver:
    """Give how an engine's ports connect: asyncpg unless they say otherwise."""
    return Asyncpg() if ports.database is None else cast("Driver", ports.database)
