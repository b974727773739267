"""A backend in PostgreSQL passes the suite of all: its views, and what it has for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import DefinitionError
from engine.runtime.ports import Ports
from engine.stores.contract.backend import Backend
from engine.stores.urls import open_backend
from engine.testing.conformance import BackendConformance
from engine.testing.conformance.given_views import Opened
from tests.support.postgres import Server


class TestPostgresBackend(BackendConformance):
    server: Server

    @pytest.fixture(autouse=True)
    def _given(self, postgres: Server) -> None:
        self.server = postgres

    def new_backend(self, folder: Path) -> Backend:
        return open_backend(self.server.url(self.server.new_schema(), "lease=1"))

    def same_backend(self, backend: Backend) -> Backend:
        return open_backend(backend.name.replace("//", "//postgres@"))

    def copy_to(self, folder: Path) -> tuple[str, Backend]:
        return str(folder / "copy.db"), open_backend(f"sqlite:{folder / 'copy.db'}")

    async def test_log_and_views_are_copied_beside_their_engine(
        self, opened: Opened, tmp_path: Path
    ) -> None:
        """A server's own means copy it: whoever asks for a file is told which."""
        with pytest.raises(DefinitionError, match="use pg_dump"):
            opened.backend.outside(Ports()).copy(self.copy_to(tmp_path)[0])

        assert not list(tmp_path.iterdir())
