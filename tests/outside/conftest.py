"""Stores for tests of copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.outside.copied import NewStore
from tests.support.postgres import Server


@pytest.fixture
def new(tmp_path: Path, postgres: Server) -> NewStore:
    """Give the URL of a store that is not there yet, of a kind."""
    made = 0

    def give(kind: str) -> str:
        nonlocal made
        made += 1
        if kind == "postgresql":
            return postgres.url(postgres.new_schema(), "lease=1")
        return f"sqlite:{tmp_path / f'log-{made}.db'}"

    return give
