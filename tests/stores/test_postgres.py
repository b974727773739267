"""The log in PostgreSQL: the suite of all stores, on the oldest and the newest release."""

from __future__ import annotations

import pytest

from tests.stores.postgres_conformance import PostgresConformance
from tests.support.postgres import Server


class TestPostgres(PostgresConformance):
    _server: Server

    @pytest.fixture(autouse=True)
    def _take_server(self, postgres: Server) -> None:
        self._server = postgres

    def server(self) -> Server:
        return self._server


class TestPostgres15(PostgresConformance):
    """As a user that owns its schema, and has no other right."""

    user = "shop"
    _server: Server

    @pytest.fixture(autouse=True)
    def _take_server(self, postgres_15: Server) -> None:
        self._server = postgres_15
        if not postgres_15.sql("SELECT 1 FROM pg_roles WHERE rolname = 'shop'"):
            postgres_15.sql("CREATE ROLE shop LOGIN; GRANT CREATE ON DATABASE postgres TO shop")

    def server(self) -> Server:
        return self._server
