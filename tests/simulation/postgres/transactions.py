"""What a transaction of the modelled server's has and may ask: settings, locks, and its changes.

Rules: nothing is seen of its changes before its commit, which is the server's work. A lock of the
session's outlives it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .database import Change, Shelves, Tables

if TYPE_CHECKING:
    from .server import Backend

__all__ = ["Settings", "Transaction", "server_error"]

_exceptions: Final[Any] = importlib.import_module("asyncpg.exceptions")


def server_error(sqlstate: str, message: str) -> Exception:
    """Give the driver's exception for an error of the server's."""
    error: Exception = _exceptions.PostgresError.new({"C": sqlstate, "M": message, "S": "ERROR"})
    return error


class Settings(msgspec.Struct):
    """What a server is set to."""

    fsync: str = "on"
    full_page_writes: str = "on"
    synchronous_commit: str = "on"
    standby_names: str = ""
    standby: bool = False
    version: str = "18.0"

    def row(self) -> Sequence[str]:
        """Give them as the log reads them."""
        return (
            *("true" if self.standby else "false", self.fsync, self.full_page_writes),
            *(self.synchronous_commit, self.standby_names),
            *(f"{float(self.version):.0f}0000", self.version, "UTF8"),
            *("read committed", "on", "origin"),
        )


class Transaction:
    """One transaction of a backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._server = backend.server
        self._local: dict[str, str] = {}
        self.changes: list[Change] = []
        self.locks: list[Any] = []
        self.lock_seconds = 0.0
        """0 for as long as it takes."""
        self.idle_seconds = 0.0
        """How long it may wait for its client; 0 for ever."""
        self.failed = False
        self.is_snapshot = False
        """Whether all its statements see what the first one saw."""
        self.snapshot: Shelves | None = None

    @property
    def tables(self) -> Tables:
        """What is committed."""
        return self._server.tables

    @property
    def has_locked_rows(self) -> bool:
        """Whether it has locked rows of the log, which a server writes to its own log as well."""
        return any(key[0] in ("session", "member") for key in self.locks)

    @property
    def settings(self) -> Sequence[str]:
        """The server's settings."""
        return self._server.settings.row()

    def change(self, *change: Any) -> None:
        """Change something with the commit."""
        self.changes.append(change)

    def clock(self) -> float:
        """Give the database's time."""
        return self._server.clock()

    def started_at(self) -> float:
        """Give the database's time at the start of the server."""
        return self._server.started_at

    def setting(self, name: str) -> str:
        """Give a setting."""
        settings = self._server.settings
        if name == "synchronous_standby_names":
            return settings.standby_names
        assert name == "synchronous_commit", f"the setting {name}"
        return self._local.get(name, settings.synchronous_commit)

    def set_local(self, name: str, value: str) -> None:
        """Set something up to the end of the transaction."""
        self._local[name] = value

    def fail(self, sqlstate: str, message: str) -> Exception:
        """Give an error."""
        return server_error(sqlstate, message)

    def try_lock(self, key: Any) -> bool:
        """Take a lock for the session, if it is free."""
        owner = self._server.locks.get(key)
        if owner is not None and owner is not self._backend:
            return False
        self._server.locks[key] = self._backend
        self._backend.kept.append(key)
        return True

    def unlock(self, key: Any) -> None:
        """Give a lock of the session's back; it may have it several times."""
        if key in self._backend.kept:
            self._backend.kept.remove(key)
            if key not in self._backend.kept:
                self._server.free(key)
