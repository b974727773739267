"""Stores and folders for tests of backups."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.outside.copied import Letters, NewStore
from tests.support.postgres import Server


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Letters.delivered.clear()


@pytest.fixture
def new(tmp_path: Path, request: pytest.FixtureRequest) -> NewStore:
    """Give the URL of a store that is not there yet, of a kind; a server is begun for its own."""
    made = 0

    def give(kind: str) -> str:
        nonlocal made
        made += 1
        if kind == "postgresql":
            server: Server = request.getfixturevalue("postgres")
            return server.url(server.new_schema(), "lease=1")
        return f"sqlite:{tmp_path / f'log-{made}.db'}"

    return give
