"""Every store of keys passes the suite of all: a file, and a PostgreSQL server."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import KeyStore
from engine.stores.postgres.keys import PostgresKeys
from engine.stores.sqlite.keys import SqliteKeys
from engine.stores.urls import open_keys
from engine.testing.conformance import KeyStoreConformance
from tests.support.postgres import Server


class TestSqliteKeys(KeyStoreConformance):
    def new_keys(self, folder: Path) -> KeyStore:
        return SqliteKeys(str(folder / "hotel.keys.db"))

    def same_keys(self, keys: KeyStore) -> KeyStore:
        assert isinstance(keys, SqliteKeys)
        return SqliteKeys(keys._path)  # pyright: ignore[reportPrivateUsage]


class TestPostgresKeys(KeyStoreConformance):
    @pytest.fixture(autouse=True)
    def _server(self, postgres: Server) -> None:
        self.url = postgres.url(postgres.new_schema())

    def new_keys(self, folder: Path) -> KeyStore:
        keys = open_keys("memory:", self.url)
        assert isinstance(keys, PostgresKeys)
        return keys

    def same_keys(self, keys: KeyStore) -> KeyStore:
        return open_keys("memory:", self.url)
