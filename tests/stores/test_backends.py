"""Every backend passes the suite of all: what its views promise, and what it has for others."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from engine import StoreFailed
from engine.model.projection import ProjectionDefinition
from engine.stores.contract.backend import Backend
from engine.stores.memory import MemoryStore
from engine.stores.own import OwnBackend
from engine.stores.sqlite.backend import SqliteBackend
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.views.catalog import Catalog
from engine.testing.conformance import BackendConformance, OwnConformance
from engine.testing.conformance.given_views import Opened, Shelf, part


class TestSqliteBackend(BackendConformance):
    def new_backend(self, folder: Path) -> Backend:
        return SqliteBackend(SqliteStore(str(folder / "shop.db")))

    def same_backend(self, backend: Backend) -> Backend:
        return SqliteBackend(SqliteStore(backend.name))

    def copy_to(self, folder: Path) -> Backend:
        return SqliteBackend(SqliteStore(str(folder / "copy.db")))

    async def test_a_build_whose_beginning_was_not_heard_of_is_folded_all_the_same(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file cannot be read as it is there, and who asked for it asks again."""
        know, failures = Catalog._know, 1  # pyright: ignore[reportPrivateUsage]

        def fail_once(
            catalog: Catalog, connection: apsw.Connection, definition: ProjectionDefinition
        ) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise apsw.IOError("disk I/O error")
            know(catalog, connection, definition)

        monkeypatch.setattr(Catalog, "_know", fail_once)
        with pytest.raises(StoreFailed):
            await opened.views.begin_build(Shelf.__definition__)
        build = await opened.views.begin_build(Shelf.__definition__)

        found = await opened.views.fetch(part(Shelf, build=build.number), {"books": ["a"]})
        assert (failures, found) == (0, {"books": []})


class TestOwnBackend(OwnConformance):
    keeps_views = False

    def new_backend(self, folder: Path) -> Backend:
        return OwnBackend(MemoryStore(), "memory:")

    def same_backend(self, backend: Backend) -> Backend:
        return backend
