"""A backend in PostgreSQL passes the suite of all: its views, and what it has for others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from engine import StoreFailed
from engine.model.projection import ProjectionDefinition
from engine.stores.contract.backend import Backend
from engine.stores.postgres.views.catalog import Catalog
from engine.stores.postgres.views.link import Link
from engine.stores.urls import open_backend
from engine.testing.conformance import BackendConformance
from engine.testing.conformance.given_views import Book, Opened, Shelf, part
from tests.support.postgres import Server, connected

WAITS_FOR_A_LOCK: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""
END_THOSE_THAT_FETCH: Final = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE query LIKE 'SELECT%shelf_books%ANY%' AND pid <> pg_backend_pid()
"""


class TestPostgresBackend(BackendConformance):
    server: Server

    @pytest.fixture(autouse=True)
    def _given(self, postgres: Server) -> None:
        self.server = postgres

    def new_backend(self, folder: Path) -> Backend:
        return open_backend(self.server.url(self.server.new_schema(), "lease=3"))

    def same_backend(self, backend: Backend) -> Backend:
        return open_backend(backend.name.replace("//", "//postgres@"))

    def copy_to(self, folder: Path) -> Backend:
        return open_backend(f"sqlite:{folder / 'copy.db'}")

    async def test_rows_for_a_projector_do_not_wait_for_a_transaction_of_views(
        self, opened: Opened
    ) -> None:
        """A batch is prepared while those before are written: with what is committed."""
        await opened.put({"books": [Book("a", 1)]})
        schema = f"{opened.backend.name.rpartition('=')[2]}_views"
        outside = await connected(self.server)
        try:
            async with outside.transaction():
                await outside.execute(f"LOCK TABLE {schema}.checkpoints IN EXCLUSIVE MODE")
                write = asyncio.ensure_future(opened.write(Shelf, 1, 2, {"books": [Book("b", 2)]}))
                while not await outside.fetchval(WAITS_FOR_A_LOCK):
                    assert not write.done(), f"it waits for nothing: {write}"
                    await asyncio.sleep(0)
                found = await opened.views.fetch(part(Shelf), {"books": ["a", "b"]})
                assert [flat[0] for flat in found["books"]] == ["a"]
                assert not write.done()
            await write
        finally:
            await outside.close()

        found = await opened.views.fetch(part(Shelf), {"books": ["a", "b"]})
        assert {flat[0] for flat in found["books"]} == {"a", "b"}

    async def test_an_engine_whose_log_was_taken_over_writes_no_views(self, opened: Opened) -> None:
        """The next one goes on from where they are."""
        await opened.put({"books": [Book("a", 1)]})
        schema = opened.backend.name.rpartition("=")[2]
        outside = await connected(self.server)
        try:
            await outside.execute(f"UPDATE {schema}.sessions SET live = false")
            with pytest.raises(StoreFailed, match="another one has the log"):
                await opened.write(Shelf, 1, 2, {"books": [Book("a", 2)]})
            await outside.execute(f"UPDATE {schema}.sessions SET live = true")
        finally:
            await outside.close()

        assert await opened.write(Shelf, 1, 2, {"books": [Book("a", 3)]}) is True

    async def test_rows_for_a_projector_are_asked_for_again_where_the_connection_was_cut(
        self, opened: Opened
    ) -> None:
        """Reading changes nothing, so nobody has to hear of it."""
        await opened.put({"books": [Book("a", 1)]})
        await opened.views.fetch(part(Shelf), {"books": ["a"]})
        assert self.server.sql(END_THOSE_THAT_FETCH) == "t"

        found = await opened.views.fetch(part(Shelf), {"books": ["a"]})
        assert [flat[0] for flat in found["books"]] == ["a"]

    async def test_a_build_whose_beginning_was_not_heard_of_is_folded_all_the_same(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The connection is cut as it is there, and who asked for it asks again."""
        know, cuts = Catalog._know, 1  # pyright: ignore[reportPrivateUsage]

        async def cut_once(
            catalog: Catalog, link: Link, definitions: Sequence[ProjectionDefinition]
        ) -> None:
            nonlocal cuts
            if cuts:
                cuts -= 1
                link.end()
            await know(catalog, link, definitions)

        monkeypatch.setattr(Catalog, "_know", cut_once)
        with pytest.raises(StoreFailed):
            await opened.views.begin_build(Shelf.__definition__)
        build = await opened.views.begin_build(Shelf.__definition__)

        found = await opened.views.fetch(part(Shelf, build=build.number), {"books": ["a"]})
        assert (cuts, found) == (0, {"books": []})
