"""What all tests need before they begin."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.support import smoke
from tests.support.installed import Installed, install
from tests.support.postgres import Server, debian_programs, postgres_server, wheel_programs

ROOT: Final = Path(__file__).parents[1]
SERVERS: Final = {"postgres", "postgres_15", "started", "server", "servers", "emulator", "nats"}
"""The fixtures that start a server."""


def pytest_configure() -> None:
    """Let every process that a test starts import this checkout, from whatever folder; hear SIGINT.

    A shell has what it runs in the background ignore SIGINT, and the children too.
    """
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{others}" if others else str(ROOT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A busy machine makes no example wrong: how long one takes is measured in benchmarks.
    patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("patient", patient)
    settings.load_profile("patient")


def _is_smoke(path: Path) -> bool:
    tests = ROOT / "tests"
    return path.is_relative_to(tests) and path.relative_to(tests).as_posix() in smoke.FILES


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing but smoke tests if only they are asked for: that would take the most time."""
    if config.getoption("markexpr") != "smoke" or collection_path.suffix != ".py":
        return None
    return None if _is_smoke(collection_path) or collection_path.name == "__init__.py" else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the files that are smoke tests, and the tests that take a server."""
    for item in items:
        if _is_smoke(item.path):
            item.add_marker("smoke")
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("server")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Give an environment with Foldline installed, as its users have it."""
    return install(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Give a PostgreSQL server, the newest one; each test takes a schema of its own in it."""
    with postgres_server(wheel_programs()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_15() -> Iterator[Server]:
    """Give a PostgreSQL server of the oldest release that is supported, which is Debian's."""
    with postgres_server(debian_programs()) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Server) -> str:
    """Give the URL of a log that is not there yet, in a schema of its own."""
    return postgres.url(postgres.new_schema())
