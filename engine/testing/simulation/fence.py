"""Refuses, at the call, what would let the real world into a simulated one.

Rules: while it stands, real clocks, the process's own randomness, new threads, processes and
sockets raise `Fenced` in the thread that runs the simulation, and work in every other one. It sees
what is reached through its module (`time.time()`), not a function that was imported by name before.
Where `logs` is set, records of `logging` have their real time, by which nothing is decided.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import secrets
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Generator
from typing import Any, Final

__all__ = ["Fenced", "fence"]


class Fenced(Exception):
    """Simulated code reached for the real world."""


_NO_CHANCE: Final = {"Random", "SystemRandom", "seed", "getstate", "setstate"}
_SECRETS: Final = ("choice", "randbelow", "randbits", "token_bytes", "token_hex")
_NO_NETWORK: Final = "nothing: a simulated world has no network"
_NO_PROCESSES: Final = "nothing: a simulated world has one process"
_FENCED: Final[tuple[tuple[Any, str, str], ...]] = (
    *((time, name, "the loop's time or the clock port") for name in ("time", "time_ns")),
    *((time, name, "the loop's time or the clock port") for name in ("monotonic", "monotonic_ns")),
    *((time, name, "the stopwatch port") for name in ("perf_counter", "perf_counter_ns")),
    (time, "sleep", "asyncio.sleep"),
    *((random, name, "the ids port") for name in random.__all__ if name not in _NO_CHANCE),
    *((uuid, name, "the ids port") for name in ("uuid1", "uuid4")),
    *((secrets, name, "the ids port") for name in _SECRETS),
    (os, "urandom", "the ids port"),
    (threading.Thread, "start", "the workers port"),
    *((socket.socket, name, _NO_NETWORK) for name in ("connect", "connect_ex", "bind", "sendto")),
    *((socket, name, _NO_NETWORK) for name in ("getaddrinfo", "gethostbyname")),
    (subprocess.Popen, "__init__", _NO_PROCESSES),
    *((os, name, _NO_PROCESSES) for name in ("system", "fork")),
)


@contextlib.contextmanager
def fence(*, logs: bool = False) -> Generator[list[str]]:
    """Stand as long as the block runs; give a list of what was refused meanwhile."""
    refused: list[str] = []
    inside = threading.get_ident()

    def refuse(text: str) -> bool:
        """Take note of what is to be refused; give whether it is."""
        if threading.get_ident() != inside:
            return False
        if logs and _is_called_by_logging():
            return False
        refused.append(text)
        return True

    originals = [getattr(owner, name) for owner, name, _ in _FENCED]
    for (owner, name, instead), original in zip(_FENCED, originals, strict=True):
        text = f"{owner.__name__}.{name} in a simulated world: use {instead}"
        setattr(owner, name, _refusing(original, text, refuse))
    try:
        yield refused
    finally:
        for (owner, name, _), original in zip(_FENCED, originals, strict=True):
            setattr(owner, name, original)


def _is_called_by_logging() -> bool:
    frame = inspect.currentframe()
    for _ in range(3):  # this one, what asks it, and what stands in for the function
        frame = frame and frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == "logging"


def _refusing(
    original: Callable[..., Any], text: str, refuse: Callable[[str], bool]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if refuse(text):
            raise Fenced(text)
        return original(*args, **kwargs)

    return call
