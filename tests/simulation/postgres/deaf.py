"""Modelled servers tell of no commit: whoever waits for one has to look.

Rules: a notice is a hint, and nothing may depend on it. The model knows no statement that sends
one.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from unittest import mock

from engine.stores.postgres.notices import Notice

__all__ = ["deaf"]


@contextmanager
def deaf() -> Generator[None]:
    """Let no store tell of what it commits."""
    with mock.patch.object(Notice, "note", return_value=None):
        yield
