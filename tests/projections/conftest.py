"""Fixtures of the projections that sum counters: their kinds, their stores, a healthy world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projections.summing import (
    AILING,
    DEAD,
    IN_BOTH,
    IN_SQL,
    OUTSIDE,
    RECEIVED,
    SEEN,
    TABLES,
    TRIES,
    Kind,
)


@pytest.fixture(autouse=True)
def _healthy() -> Iterator[None]:
    yield
    for kept in (AILING, DEAD, SEEN, TRIES, RECEIVED):
        kept.clear()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'log.db'}"


@pytest.fixture(params=[TABLES, IN_SQL, OUTSIDE], ids=["tables", "sql", "sink"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return fitting(request)


@pytest.fixture(params=[TABLES, IN_SQL], ids=["tables", "sql"])
def tabled(request: pytest.FixtureRequest) -> Kind:
    """One that has tables."""
    return fitting(request)


def fitting(request: pytest.FixtureRequest) -> Kind:
    """Give the kind that a test is for, in SQL that its store understands."""
    found: Kind = request.param
    on_a_server = "postgresql" in request.node.name
    return IN_BOTH if found is IN_SQL and on_a_server else found
