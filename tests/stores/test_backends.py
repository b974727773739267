"""Every backend passes the suite of all: what its views promise, and what it has for others."""

from __future__ import annotations

from pathlib import Path

from engine.stores.contract.backend import Backend
from engine.stores.memory import MemoryStore
from engine.stores.own import OwnBackend
from engine.stores.sqlite.backend import SqliteBackend
from engine.stores.sqlite.log.store import SqliteStore
from engine.testing.conformance import BackendConformance, OwnConformance


class TestSqliteBackend(BackendConformance):
    def new_backend(self, folder: Path) -> Backend:
        return SqliteBackend(SqliteStore(str(folder / "shop.db")))

    def same_backend(self, backend: Backend) -> Backend:
        return SqliteBackend(SqliteStore(backend.name))

    def copy_to(self, folder: Path) -> Backend:
        return SqliteBackend(SqliteStore(str(folder / "copy.db")))


class TestOwnBackend(OwnConformance):
    keeps_views = False

    def new_backend(self, folder: Path) -> Backend:
        return OwnBackend(MemoryStore(), "memory:")

    def same_backend(self, backend: Backend) -> Backend:
        return backend
