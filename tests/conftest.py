"""What all tests need before they begin."""

from __future__ import annotations

import signal

import pytest

from tests.support.installed import Installed, install


def pytest_configure() -> None:
    """Hear SIGINT: a shell has what it runs in the background ignore it, and the children too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Give an environment with Foldline installed, as its users have it."""
    return install(tmp_path_factory.mktemp("installed"))
