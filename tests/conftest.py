"""What all tests need before they begin."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.support.installed import Installed, install

ROOT: Final = Path(__file__).parents[1]


def pytest_configure() -> None:
    """Let every process that a test starts import this checkout, from whatever folder; hear SIGINT.

    A shell has what it runs in the background ignore SIGINT, and the children too.
    """
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{others}" if others else str(ROOT)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Give an environment with Foldline installed, as its users have it."""
    return install(tmp_path_factory.mktemp("installed"))
