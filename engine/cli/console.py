"""`foldline console URL`: the console of a log, served to this machine's browser.

Rules: it listens on a loopback address, and answers whoever has the token that is in the address it
prints: other users of the machine have none. The log may be in use by its engine or at rest. It is
opened as other commands open it, and what is done is asked for as `foldline projections` does.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import importlib
import importlib.util
import signal
import socket
from collections.abc import Callable, Coroutine, MutableMapping
from contextlib import AsyncExitStack
from typing import Any, Final

from ..engine import Engine
from ..errors import UsageError
from ..integrations.console import Console, ConsoleAction
from ..operations.beside import LogOperations
from ..outside.archive import Archive
from ..running import run
from ..runtime.machine import user_name
from ..runtime.ports import Ports
from ..stores.urls import store_of_text
from .application import APP_HELP, engine_of
from .options import DONE, FAILED, USAGE, named_log, whole
from .output import say

__all__ = ["add_parser", "archive_of"]

_LOOKS: Final = frozenset({"look", "payload", "audit"})
_PORT_MAX: Final = 65_535
_STARTED_SECONDS: Final = 0.02

_DESCRIPTION = f"""\
Show the console of a log in a browser on this machine, while its engine runs or not. Open the
address that is printed: it has a token, without which nothing is answered. Until Ctrl-C.

With --app, the states of aggregates are shown too, and personal data as an engine shows it.
{APP_HELP} It is not started."""

_EPILOG = f"""\
It needs uvicorn: pip install '../foldline[web]'.

exit status:
  {DONE}    it was stopped, by Ctrl-C or by SIGTERM
  {FAILED}    the log cannot be read, or the port is in use. The reason is on the error stream
  {USAGE}    wrong arguments"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "console",
        help="show a log and its projections in a browser",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "log", type=named_log, metavar="URL", help="the log, as in sqlite:FILE or postgresql://..."
    )
    parser.add_argument("--app", metavar="APP", help="the application, as module:attribute")
    parser.add_argument(
        "--keys",
        metavar="URL",
        help="the keys of personal data, as in sqlite:FILE or postgresql://...",
    )
    parser.add_argument(
        "--port", type=_port, default=0, metavar="P", help="to listen on (default: a free one)"
    )
    parser.add_argument(
        "--read-only", action="store_true", help="let nobody change anything, only look"
    )
    parser.add_argument(
        "--no-payloads", action="store_true", help="show nothing of what people wrote"
    )
    parser.set_defaults(run=_run)


def _port(text: str) -> int:
    port = whole(text)
    if port > _PORT_MAX:
        raise argparse.ArgumentTypeError(f"{text} is no port: they are 0 to {_PORT_MAX}")
    return port


def _run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("uvicorn") is None:
        raise UsageError("the console needs a web server: pip install '../foldline[web]'")
    engine = None if options.app is None else engine_of(options.app, options.log.text)
    try:
        listening = socket.create_server(("127.0.0.1", options.port))
    except OSError as error:
        raise UsageError(
            f"the console cannot listen to port {options.port} of this machine: {error.strerror}. "
            f"Give another --port, or none for a free one"
        ) from None
    with listening:
        return run(lambda: _serve(options, engine, listening))


async def _serve(
    options: argparse.Namespace, engine: Engine | None, listening: socket.socket
) -> int:
    ports = Ports()
    token = ports.ids.new_id() + ports.ids.new_id()
    async with AsyncExitStack() as opened:
        archive = None
        if engine is not None:
            archive = await opened.enter_async_context(archive_of(options, engine))
        operations = await opened.enter_async_context(
            LogOperations(
                options.log.backend,
                ports,
                archive=archive,
                aggregates=() if engine is None else engine.aggregates,
            )
        )
        console = Console(
            operations,
            authorize=_authorize(options),
            principal_of=_principal_of(token),
            title=options.log.backend.name,
        )
        uvicorn = importlib.import_module("uvicorn")
        server = uvicorn.Server(
            uvicorn.Config(
                console,
                log_level="warning",
                lifespan="off",
                access_log=False,
                proxy_headers=False,
            )
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _pass_over)
        serving: Coroutine[Any, Any, None] = server.serve(sockets=[listening])
        task = asyncio.ensure_future(serving)
        while not server.started and not task.done():  # noqa: ASYNC110 - nothing rings there
            await asyncio.sleep(_STARTED_SECONDS)
        if server.started:
            port = listening.getsockname()[1]
            say(
                f"the console of {options.log.backend.name}: http://127.0.0.1:{port}/#token={token}"
            )
        await task
    return DONE if server.started else FAILED


def _pass_over(*_: object) -> None:
    """Do nothing: the server has handlers of its own, and raises once more what has ended it."""


def archive_of(options: argparse.Namespace, engine: Engine) -> Archive:
    """Give what reads states of a log as an application shows them."""
    return Archive(
        engine.aggregates,
        store=store_of_text(options.log.text),
        projections=engine.declared,
        upcasters=[step.function for step in engine.registry.upcasting.steps.values()],
        retired=engine.registry.upcasting.retired,
        keys=options.keys,
    )


def _principal_of(token: str) -> Callable[[MutableMapping[str, Any]], str | None]:
    """Give what tells who sends a request: this user, if the token is with it."""
    expected = f"Bearer {token}".encode()

    def principal_of(scope: MutableMapping[str, Any]) -> str | None:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        shown = len(sent) == 1 and hmac.compare_digest(sent[0], expected)
        return f"console:{user_name()}" if shown else None

    return principal_of


def _authorize(options: argparse.Namespace) -> Callable[[str | None, ConsoleAction, str], bool]:
    def authorize(principal: str | None, action: ConsoleAction, _: str) -> bool:
        if principal is None or (options.no_payloads and action == "payload"):
            return False
        return not options.read_only or action in _LOOKS

    return authorize
