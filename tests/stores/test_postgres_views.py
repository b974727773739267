"""Views in PostgreSQL pass the suite of all views, with a log of any store beside them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NoReturn

import pytest

from engine.runtime.ports import Ports
from engine.stores.contract.backend import Backend
from engine.stores.contract.log import Store
from engine.stores.memory import MemoryStore
from engine.stores.postgres.address import read_address
from engine.stores.postgres.views.store import PostgresViews
from engine.testing.conformance.views import ViewsConformance


class ViewsAlone:
    """A log in memory, and its views in PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._log = MemoryStore()

    def log(self) -> Store:
        return self._log

    def views(self, logger: logging.Logger) -> PostgresViews:
        return PostgresViews(read_address(self.name), logger=logger)

    def outside(self, ports: Ports) -> NoReturn:
        raise NotImplementedError


class TestPostgresViews(ViewsConformance):
    url = ""

    @pytest.fixture(autouse=True)
    def _given(self, postgres_url: str) -> None:
        self.url = postgres_url

    def new_backend(self, folder: Path) -> Backend:
        return ViewsAlone(self.url)

    def same_backend(self, backend: Backend) -> Backend:
        return backend
