"""Serving the shop from the command line; the demo's process by process, one after the other.

Rules: without the demo it is one process, or several workers that share one log (`join=True`). With
it, a parent has the port and the files, and starts
a process that serves; one that was killed is replaced, one that ended is not. The parent opens no
store. Whoever waits for an answer meanwhile is taken by the next process, since the port stays
open. When the parent goes, however it goes, its process goes too.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import msgspec
import uvicorn
from starlette.applications import Starlette

from engine import run
from engine.cli.output import tell
from engine.integrations.origin import names_of

from ..shop import ALONE, open_shop
from .app import create_app
from .demo import Demo, is_loopback

__all__ = ["main"]

STOPPING_SECONDS = 10
"""Within which open connections must end when the shop stops."""
STORE = "sqlite:shop.db"
REPLAY_SECONDS = 60
WORKERS_MAX = 64
WORKER_SECONDS = 15
"""Within which a worker must answer its parent, from its start on.

A worker that takes longer to start on a busy machine is taken for dead. But a worker that is killed
while its parent waits for its answer keeps the parent waiting for so long: until then it neither
starts another nor hears SIGTERM.
"""
_WORKER = "FOLDLINE_SHOP_WORKER"
"""What workers are to serve: uvicorn gives them nothing but the environment."""


def main(arguments: Sequence[str]) -> int:
    """Serve the shop: `python -m domain.web --store sqlite:shop.db --port 8000`."""
    options = _parser().parse_args(arguments)
    if options.life is not None:
        run(_serve_demo, options)
        return 0
    if options.replay is not None or options.demo:
        return _supervise(options)
    store, hosts = options.store or STORE, [*options.name, options.host]
    if options.workers > 1:
        os.environ[_WORKER] = msgspec.json.encode((store, hosts)).decode()
    uvicorn.run(
        f"{__name__}:worker" if options.workers > 1 else create_app(store, hosts=hosts),
        factory=options.workers > 1,
        workers=options.workers,
        timeout_worker_healthcheck=WORKER_SECONDS,
        host=options.host,
        port=options.port,
        # A page whose connection hangs would keep the shop from stopping for ever.
        timeout_graceful_shutdown=STOPPING_SECONDS,
    )
    return 0


def worker() -> Starlette:
    """Give the application of one of several workers, which uvicorn starts as processes."""
    store, hosts = msgspec.json.decode(os.environ[_WORKER], type=tuple[str, list[str]])
    return create_app(store, open_engine=lambda name: open_shop(name, join=True), hosts=hosts)


# -- the parent -----------------------------------------------------------------------------


def _supervise(options: argparse.Namespace) -> int:
    """Keep a process of the demo alive; give the status of the one that ended by itself."""
    with (
        tempfile.TemporaryDirectory(prefix="shop-demo-") as folder,
        socket.create_server((options.host, options.port), backlog=512) as listening,
    ):
        host, port = listening.getsockname()[:2]
        tell(f"the shop is running on http://{host}:{port} (Ctrl-C ends it)")
        store = options.store or f"sqlite:{folder}/shop.db"
        parent = _Parent(options, store, Path(folder) / "acks", listening.fileno())
        return parent.live()


class _Parent:
    """Starts one process after the other."""

    def __init__(self, options: argparse.Namespace, store: str, acks: Path, port: int) -> None:
        self._options = options
        self._store = store
        self._acks = acks
        self._port = port
        self._ending = False
        self._process: subprocess.Popen[bytes] | None = None

    def live(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        for life in itertools.count(1):
            with subprocess.Popen(  # noqa: S603 - this program
                self._command(life),
                stdin=subprocess.PIPE,  # at whose end it notices that its parent has gone
                pass_fds=(self._port,),
                start_new_session=True,  # Ctrl-C is for the parent, which tells it
            ) as self._process:
                if self._ending:
                    self._process.terminate()
                status = self._process.wait()
            if self._ending:
                return 0
            if status != -signal.SIGKILL:
                return status
            tell(f"process {self._process.pid} was killed: the next one takes its place")
        raise AssertionError("lives are counted for ever")

    def _command(self, life: int) -> Sequence[str]:
        options = self._options
        command = [sys.executable, "-m", "domain.web", "--life", str(life)]
        command += ["--fd", str(self._port), "--acks", str(self._acks), "--store", self._store]
        command += ["--host", options.host]
        for name in options.name:
            command += ["--name", name]
        if options.replay is not None:
            command += ["--replay", str(options.replay)]
        return command

    def _end(self, _: int, __: FrameType | None) -> None:
        self._ending = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()


# -- its process ----------------------------------------------------------------------------


async def _serve_demo(options: argparse.Namespace) -> None:
    # A name is for those elsewhere, and behind a proxy everybody seems to be here.
    killable = is_loopback(options.host) and not options.name
    demo = Demo(options.life, options.acks, options.replay, killable=killable)
    app = create_app(
        options.store,
        open_engine=lambda store: open_shop(store, ALONE),
        hosts=[*options.name, options.host],
        demo=demo,
    )
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=STOPPING_SECONDS, lifespan="on"
    )
    server = uvicorn.Server(config)

    def parent_left() -> None:
        server.should_exit = True
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), parent_left)
    await server.serve(sockets=[socket.socket(fileno=options.fd)])


# -- arguments ------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m domain.web", description="Serve the shop.")
    parser.add_argument(
        "--store", help=f"default: {STORE}; of a demo, a file that is removed at its end"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=8000)
    parser.add_argument(
        "--name",
        type=_name,
        action="append",
        default=[],
        metavar="HOST",
        help="a name that the shop goes by, as shop.example, besides this machine's own; requests "
        "under other names are refused, since another site's page may have sent them. Give it "
        "again for several, or * behind a proxy that knows the names",
    )
    parser.add_argument(
        "--workers", type=_workers, default=1, help="processes that share one log in a file"
    )
    parser.add_argument(
        "--replay",
        type=_seconds,
        nargs="?",
        const=REPLAY_SECONDS,
        metavar="SECONDS",
        help="send the sample's two weeks of orders in so many seconds (60 if none are given), as "
        "a demo",
    )
    parser.add_argument(
        "--demo",
        action="store_true",
        help="let the page kill the process, which is then replaced; from this machine only",
    )
    for internal in ("--life", "--fd"):
        parser.add_argument(internal, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--acks", type=Path, help=argparse.SUPPRESS)
    return parser


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= WORKERS_MAX):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number from 1 to {WORKERS_MAX}")
    return int(text)


def _seconds(text: str) -> float:
    if not (text.isascii() and text.replace(".", "", 1).isdigit() and 1 <= float(text) <= 86_400):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number of seconds from 1 to 86400")
    return float(text)


def _name(text: str) -> str:
    try:
        names_of([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65_536):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a port from 0 to 65535")
    return int(text)
