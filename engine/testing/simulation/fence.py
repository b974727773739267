"""Refuses, at the call, what would let the real world into a simulated one.

Rules: while it stands, real clocks, the process's own randomness, new threads and sockets raise
`Fenced` in the thread that runs the simulation, and work in every other one. It sees what is
reached through its module (`time.time()`), not a function that was imported by name before.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from typing import Any, Final

__all__ = ["Fenced", "fence"]


class Fenced(Exception):
    """Simulated code reached for the real world."""


_FENCED: Final[tuple[tuple[Any, str, str], ...]] = (
    *((time, name, "the loop's time or the clock port") for name in ("time", "time_ns")),
    *((time, name, "the loop's time or the clock port") for name in ("monotonic", "monotonic_ns")),
    *((time, name, "the stopwatch port") for name in ("perf_counter", "perf_counter_ns")),
    (time, "sleep", "asyncio.sleep"),
    *((random, name, "the ids port") for name in ("random", "randrange", "randint", "choice")),
    *((random, name, "the ids port") for name in ("shuffle", "uniform", "getrandbits", "sample")),
    *((uuid, name, "the ids port") for name in ("uuid1", "uuid4")),
    *((secrets, name, "the ids port") for name in ("token_bytes", "token_hex", "randbits")),
    (os, "urandom", "the ids port"),
    (threading.Thread, "start", "the workers port"),
    (socket.socket, "connect", "nothing: a simulated world has no network"),
    (socket.socket, "bind", "nothing: a simulated world has no network"),
)


@contextlib.contextmanager
def fence() -> Generator[None]:
    """Stand as long as the block runs."""
    inside = threading.get_ident()
    originals = [getattr(owner, name) for owner, name, _ in _FENCED]
    for (owner, name, instead), original in zip(_FENCED, originals, strict=True):
        setattr(owner, name, _refusing(original, owner.__name__, name, instead, inside))
    try:
        yield
    finally:
        for (owner, name, _), original in zip(_FENCED, originals, strict=True):
            setattr(owner, name, original)


def _refusing(
    original: Callable[..., Any], owner: str, name: str, instead: str, inside: int
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != inside:
            return original(*args, **kwargs)
        raise Fenced(f"{owner}.{name} in a simulated world: use {instead}")

    return call
