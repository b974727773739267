"""`foldline personal`: erases a person from a log, tells what it knows of one, copies the keys.

Rules: the log may be in use by its engine or at rest. To erase, the key is destroyed here and now.
What was made of the data is let go of by the engine that runs, or by the next one as it starts: the
exit status says which. With --app that is the application's own, started here until it is done. At
rest no `authorize` is asked: who may write the file of keys may do this.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import msgspec

from ..engine import Engine
from ..errors import Damaged, DefinitionError, StoreLocked, UsageError
from ..model.personal import is_subject
from ..outside.personal import known_of
from ..personal.vault import Vault
from ..running import run
from ..runtime.package import COMMAND
from ..runtime.ports import Ports
from ..stores.contract.backend import Backend
from ..stores.contract.keys import Erasure, KeysInFile
from ..stores.contract.outside import LogReader
from ..stores.urls import open_keys
from .application import APP_HELP, engine_of
from .layout import time_text
from .options import DONE, FAILED, USAGE, named_log, path, seconds
from .output import Output, tell
from .printing import counted
from .tables import Column, Table, numbers

__all__ = ["add_parser", "tell_of_keys"]

NOT_YET: Final = 3
WAIT_SECONDS: Final = 10
LOOK_SECONDS: Final = 0.1

_DESCRIPTION = """\
Erase a person from a log, show all that it knows of one, list who was erased, and copy the keys
into a new file. It is about the fields of events that are declared as Personal. The keys are found
beside a log in a file; give --keys if they are elsewhere. At rest no `authorize` is asked."""

_EPILOG = f"""\
{APP_HELP}

exit status:
  {DONE}    done, or shown
  {FAILED}    the files cannot be used, or an event not be decrypted. The error stream says why
  {USAGE}    wrong arguments
  {NOT_YET}    the key is destroyed. Views and snapshots lose the person when an engine has started
  130  interrupted"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "personal",
        help="erase a person, or show what is known of one",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    action = _add(actions, "erase", "destroy the key of a person's data")
    _add_subject(action)
    action.add_argument("--reason", metavar="R", default="", help="it is kept")
    action.add_argument(
        "--wait",
        type=seconds,
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for the engine (default: {WAIT_SECONDS})",
    )
    action.add_argument(
        "--app",
        metavar="APP",
        help="the application, started if no engine runs until its views have nothing of the "
        "person; its timers, sinks and reactors run meanwhile",
    )
    action.set_defaults(run=_run_erase)
    action = _add(actions, "show", "show all events with personal fields of a person, as JSON")
    _add_subject(action)
    action.set_defaults(run=partial(_run, _show))
    action = _add(actions, "copy", "copy the file of the keys, while an engine has it or not")
    action.add_argument("to", type=path, metavar="TO", help="a new file")
    action.set_defaults(run=partial(_run, _copy))
    action = _add(actions, "list", "list who was erased, the oldest first")
    action.add_argument("--json", action="store_true", help="one JSON object a line")
    action.set_defaults(run=partial(_run, _list))


def _run(act: Callable[[argparse.Namespace], Awaitable[int]], options: argparse.Namespace) -> int:
    return run(partial(act, options))


def _run_erase(options: argparse.Namespace) -> int:
    engine = None if options.app is None else engine_of(options.app, options.file.text)
    return run(partial(_erase, options, engine))


def _add(actions: Any, name: str, told: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(
        name,
        help=told,
        description=told,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.add_argument(
        "file",
        type=named_log,
        metavar="FILE",
        help="the log, as in sqlite:FILE or postgresql://...",
    )
    action.add_argument(
        "--keys", metavar="URL", help="the keys, as in sqlite:FILE or postgresql://..."
    )
    return action


def _add_subject(action: argparse.ArgumentParser) -> None:
    action.add_argument("subject", metavar="SUBJECT", help="the person, as the events name it")


@asynccontextmanager
async def _opened(
    options: argparse.Namespace, *, only_reads: bool
) -> AsyncGenerator[tuple[LogReader, Vault]]:
    """Open the log and its keys."""
    ports = Ports()
    with options.file.backend.outside(ports).log_reader() as reader:
        vault = Vault(open_keys(options.file.backend.log(), options.keys))
        # Looked at first: what is not there is not made here.
        await vault.open(ports, reader.log_id, only_reads=True)
        if not only_reads:
            await vault.close()
            await vault.open(ports, reader.log_id)
        try:
            yield reader, vault
        finally:
            await vault.close()


@asynccontextmanager
async def _started(engine: Engine | None) -> AsyncGenerator[None]:
    """Run the application meanwhile, unless an engine has the log already."""
    async with AsyncExitStack() as running:
        if engine is not None:
            with suppress(StoreLocked):
                await running.enter_async_context(engine)
        yield


async def _erase(options: argparse.Namespace, engine: Engine | None) -> int:
    subject: str = options.subject
    if not is_subject(subject):
        raise UsageError(f"{subject!r} names no person: nobody was erased")
    async with _opened(options, only_reads=False) as (_, vault):
        begun = await vault.erase(subject, options.reason, None)
        tell(f"{counted(begun.keys, 'key')} destroyed: nobody reads what {subject} had in the log")
        if not begun.keys:
            tell(
                f"nothing of {subject} was encrypted, or it is erased already: a person is named "
                f"as the events name it, as in guest:g-1"
            )
        try:
            async with _started(engine), asyncio.timeout(options.wait):
                while await _is_unfinished(vault, begun):  # noqa: ASYNC110 - it is another process
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            tell("views and snapshots may have it still: an engine that runs lets go of it")
            return NOT_YET
    tell("views and memory have nothing of it any more")
    return DONE


async def _is_unfinished(vault: Vault, begun: Erasure) -> bool:
    return any(each.number == begun.number for each in await vault.unfinished())


async def _show(options: argparse.Namespace) -> int:
    output = Output(utf8=True)
    found, unread = 0, list[Damaged]()
    async with _opened(options, only_reads=True) as (reader, vault):
        for known in known_of(reader, vault, options.subject, unread.append):
            found += 1
            output.show([msgspec.json.encode(known).decode()])
    output.flush()
    tell(f"{counted(found, 'event')} of {options.subject}")
    if unread:
        told = f"{counted(len(unread), 'event')} could not be decrypted, and may be of this person"
        tell(f"{told}. The first: {unread[0]}")
        return FAILED
    return DONE


async def _copy(options: argparse.Namespace) -> int:
    async with _opened(options, only_reads=True) as (_, vault):
        keys = vault.store
        if not isinstance(keys, KeysInFile):
            raise UsageError(f"{keys!r} is no file: copy the keys with what their server has")
        keys.copy(options.to)
    tell(f"copied: whoever has {options.to} and the log reads all of its personal data")
    return DONE


def tell_of_keys(log: Backend) -> None:
    """Say that a copy of a log lacks the keys in the file beside it, if there is one."""
    with suppress(DefinitionError):
        keys = open_keys(log.log(), None)
        if isinstance(keys, KeysInFile) and keys.is_there():
            tell(
                f"its keys of personal data are not in it, without which nobody reads these "
                f"fields: copy them apart, with `{COMMAND} personal copy`"
            )


async def _list(options: argparse.Namespace) -> int:
    async with _opened(options, only_reads=True) as (_, vault):
        kept = [each for each in await vault.store.erasures() if is_subject(each.subject)]
    output = Output(utf8=options.json)
    if options.json:
        output.show(msgspec.json.encode(each).decode() for each in kept)
    elif kept:
        output.show([_table(kept)])
    output.flush()
    if not kept:
        tell("nobody was erased")
    return DONE


def _table(kept: Sequence[Erasure]) -> Table:
    table = Table(
        *numbers(NUMBER=0, KEYS=0),
        *(Column(each) for each in ("SUBJECT", "ASKED", "FINISHED", "PRINCIPAL", "REASON")),
    )
    for each in kept:
        finished = "" if each.finished is None else time_text(each.finished)
        table.add(
            f"{each.number}",
            f"{each.keys}",
            each.subject,
            time_text(each.asked),
            finished,
            each.principal or "",
            each.reason,
        )
    return table
