"""Errors of clients of services: which tell of an outage, and which of what was answered or read.

Many libraries derive their errors from OSError, and those of Python say it of files and of data.
"""

from __future__ import annotations

import asyncio
import bz2
import errno
import gzip
import io
import socket
import ssl
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from engine import Aggregate, Command, Engine, EngineError, HandlerFailed, Id, handles
from engine.runtime.contained import is_unreached
from tests.support.waiting import until


class Call(Command):
    desk: Id


class Client:
    """What a handler calls."""

    call: Callable[[], object]


class Desk(Aggregate, kind="desk"):
    @handles
    async def ask(self, command: Call, client: Client) -> None:
        given = client.call()
        if asyncio.iscoroutine(given):
            await given


def raising(error: BaseException) -> Callable[[], object]:
    def call() -> object:
        raise error

    return call


async def nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        await asyncio.open_connection("localhost", bound.getsockname()[1])


def hides_its_cause() -> None:
    """Raise as httpx does."""
    try:
        raise ConnectionRefusedError
    except OSError as error:
        own = RuntimeError("all connection attempts failed")
        own.__context__ = error
        raise own from None


def names_no_cause() -> None:
    """Raise as the clients of Redis do, and urllib."""
    try:
        raise ConnectionResetError
    except OSError as error:
        raise URLError(error)  # noqa: B904 - as it is there


OUTAGES: dict[str, Callable[[], object]] = {
    "nobody-listens": nobody_listens,
    "hides-its-cause": hides_its_cause,
    "names-no-cause": names_no_cause,
    "too-slow": raising(TimeoutError()),
    "no-address": raising(socket.gaierror()),
    "no-way": raising(OSError(errno.EHOSTUNREACH, "no route")),
    "both-addresses": raising(OSError("Multiple exceptions: [Errno 111] one, [Errno 111] other")),
    "line-ends": raising(ssl.SSLEOFError()),
    "several": raising(ExceptionGroup("all", [ConnectionRefusedError()])),
}
NO_OUTAGES: dict[str, Callable[[], object]] = {
    "answered-404": raising(HTTPError("http://a", 404, "no", Message(), None)),
    "no-gzip": lambda: gzip.decompress(b"text"),
    "no-bz2": lambda: bz2.BZ2File(io.BytesIO(b"text")).read(),
    "no-address-at-all": lambda: socket.inet_aton("x"),
    "no-file": lambda: Path("/nowhere/at/all").read_bytes(),
    "long-name": lambda: Path("x" * 300).read_bytes(),
    "no-number": lambda: int("x"),
}


async def failure_of(engine: Engine, client: Client, call: Callable[[], object]) -> EngineError:
    client.call = call
    with pytest.raises(HandlerFailed) as raised:
        await engine.execute(Call("a"))
    return raised.value


async def test_an_outage_is_known_by_what_is_behind_an_error_also_in_another_process(
    tmp_path: Path,
) -> None:
    client = Client()
    resources: dict[type, object] = {Client: client}
    store = f"sqlite:{tmp_path}/log.db"
    async with (
        Engine([Desk], store=store, join=True, resources=resources),
        Engine([Desk], store=store, join=True, resources=resources) as member,
        Engine([Desk], resources=resources) as alone,
    ):
        await until(lambda: member.statistics().membership is not None)
        for engine in (alone, member):
            for name, call in OUTAGES.items():
                assert is_unreached(await failure_of(engine, client, call)), name
            for name, call in NO_OUTAGES.items():
                assert not is_unreached(await failure_of(engine, client, call)), name
