"""`foldline mcp URL`: tools for agents over stdin and stdout, which look at a log.

Rules: nothing can be changed by them. It is started by an agent's program, as its child, and ends
with it. Only what the protocol says goes to stdout. The log may be in use by its engine or at rest.
"""

from __future__ import annotations

import argparse
import importlib.util
from contextlib import AsyncExitStack
from typing import Any

from ..engine import Engine
from ..errors import UsageError
from ..operations.beside import LogOperations
from ..running import run
from ..runtime.machine import user_name
from ..runtime.ports import Ports
from .application import APP_HELP, engine_of
from .console import archive_of
from .options import DONE, FAILED, USAGE, named_log

__all__ = ["add_parser"]

_DESCRIPTION = f"""\
Give tools to an agent, by the Model Context Protocol over stdin and stdout: overview, projections,
parked events, log, timers, members, audit. They change nothing. While the engine runs or not.

Payloads, states of aggregates and values of claims are given with --payloads only: an agent sends
on what it reads. Personal data of persons who were erased is masked. States need --app.
{APP_HELP} It is not started."""

_EPILOG = f"""\
It needs the SDK: pip install '../foldline[mcp]'. In the settings of an agent's program:
  {{"command": "foldline", "args": ["mcp", "sqlite:shop.db"]}}

exit status:
  {DONE}    stdin has ended
  {FAILED}    the log cannot be read. The reason is on the error stream
  {USAGE}    wrong arguments"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "mcp",
        help="give tools to an agent that look at a log",
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
        "--payloads", action="store_true", help="give what people wrote, too: it leaves the machine"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("mcp") is None:
        raise UsageError("the tools need the SDK of the protocol: pip install '../foldline[mcp]'")
    engine = None if options.app is None else engine_of(options.app, options.log.text)
    return run(lambda: _serve(options, engine))


async def _serve(options: argparse.Namespace, engine: Engine | None) -> int:
    from ..integrations.mcp import McpTools

    async with AsyncExitStack() as opened:
        archive = None
        if engine is not None:
            archive = await opened.enter_async_context(archive_of(options, engine))
        operations = await opened.enter_async_context(
            LogOperations(
                options.log.backend,
                Ports(),
                archive=archive,
                aggregates=() if engine is None else engine.aggregates,
            )
        )
        tools = McpTools(operations, principal=f"mcp:{user_name()}", payloads=options.payloads)
        await tools.serve_stdio()
    return DONE
