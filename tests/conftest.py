"""What all tests need before they begin."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Hear SIGINT: a shell has what it runs in the background ignore it, and the children too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
