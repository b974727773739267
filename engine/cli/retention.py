"""`foldline retention FILE RULES`: erases people and archives streams that are due by rules.

Rules: it has the log as an engine has it, so that nobody writes for a person who is being erased.
`--dry-run` only looks, beside an engine or not. First all people are found, then they are erased,
then streams are archived. Each erasure is kept with its rule, and each run of the archive too.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, cast

import msgspec

from ..errors import UsageError
from ..model.aggregate import Aggregate
from ..model.retention import Retention, closed_before
from ..outside.retention import DuePerson, Fold, due_people, is_closed
from ..personal.vault import Vault
from ..running import run
from ..runtime.ports import Ports
from ..stores.contract.archiving import Archiver, ArchiveRule
from ..stores.contract.backend import Archives, Outside
from ..stores.urls import open_keys
from .application import APP_HELP, attribute_of, engine_of
from .archive import NOT_SHRUNK
from .folding import folding
from .options import DONE, FAILED, USAGE, named_log
from .output import say, tell
from .printing import counted
from .progress import ending_tidily

__all__ = ["add_parser"]

NOT_YET: Final = 3
_PRINCIPAL: Final = "retention"

_DESCRIPTION = """\
Do what rules of retention say: erase people, and archive streams. RULES is module:attribute, a list
of Retention, as in shop:RULES.

A person is erased if each stream with personal data of that person is closed, and old enough by a
rule with erase_after. One open stream of any kind keeps the person. Streams that are due by
archive_after are moved as `archive` does it. A rule with closed_if asks a function of the state of
each such stream: --app names the application whose code folds it.

Nobody is erased by a clock that is more than 30 days ahead of the last event, since no key comes
back. If the log is at rest and the clock is right, give --at-rest.

Look with --dry-run first, which is possible beside an engine. Otherwise stop the engine first:
while one has the log open, this is refused. In PostgreSQL engines go on while streams are archived,
and people are not erased by this command.
"""

_EPILOG = f"""\
JSON: a line for each person (action "erase", subject, streams, reason), and for each rule that
archives (action "archive", rule, streams, events, bytes). done tells whether it was done.
{APP_HELP}

exit status:
  {DONE}    done, or shown
  {FAILED}    not done, or the log's file is not smaller yet: why is on the error stream
  {USAGE}    wrong arguments
  {NOT_YET}    people were erased. Views and snapshots lose them when an engine has started
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "retention",
        help="erase people and archive streams by declared rules",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=named_log, metavar="FILE", help="the log, a file or a URL")
    parser.add_argument("rules", metavar="RULES", help="the rules, as module:attribute")
    parser.add_argument(
        "--app", metavar="APP", help="the application, for rules with a function of the state"
    )
    parser.add_argument(
        "--keys", metavar="URL", help="the keys, as in sqlite:FILE or postgresql://..."
    )
    parser.add_argument(
        "--at-rest",
        action="store_true",
        help="the clock is right, though the last event is more than 30 days old",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    rules = _rules_of(options)
    outside = options.file.backend.outside(Ports())
    if not isinstance(outside, Archives):
        raise UsageError(
            f"{options.file.backend.name} cannot be archived: rules are only run on logs in files "
            f"and in PostgreSQL. Nothing was changed"
        )
    with ending_tidily():
        return run(partial(_retained, options, rules, outside))


def _rules_of(options: argparse.Namespace) -> Sequence[Retention]:
    name: str = options.rules
    found: object = attribute_of(name)
    rules = cast("Sequence[object]", found if isinstance(found, list | tuple) else ())
    given = [rule for rule in rules if isinstance(rule, Retention)]
    if not given or len(given) < len(rules):
        raise UsageError(f"{name} is no list of Retention: nothing was changed")
    if options.app is None and any(rule.closed_if is not None for rule in given):
        raise UsageError(
            f"{name} has a rule with closed_if, which takes states that only the application's "
            f"code folds: name it with --app. Nothing was changed"
        )
    return given


@asynccontextmanager
async def _states(options: argparse.Namespace, outside: Outside) -> AsyncGenerator[Fold]:
    """Give what folds states, where a rule can ask for one."""
    if options.app is None:
        yield _nobody
        return
    async with folding(engine_of(options.app, options.file.text), outside) as fold:
        yield fold


async def _nobody(aggregate: type[Aggregate], aggregate_id: str) -> Aggregate:
    raise UsageError(f"no code folds {aggregate.__name__} {aggregate_id!r}: give --app")


async def _retained(
    options: argparse.Namespace, rules: Sequence[Retention], outside: Archives
) -> int:
    archiver = outside.archiver()
    if not archiver.has_log and any(rule.erase_after is not None for rule in rules):
        raise UsageError(
            f"an engine may write to {options.file.backend.name} meanwhile, for a person who is "
            f"being erased: give rules without erase_after, and erase people by "
            f"`engine.personal.erase`. Nothing was changed"
        )
    async with _states(options, outside) as fold:
        if options.dry_run:
            people = await _people(options, rules, outside, fold)
            _tell_people(people, options)
            await _archive(options, rules, archiver, fold)
            return DONE
        async with archiver:
            people = await _people(options, rules, outside, fold)
            is_shrunk = await _archive(options, rules, archiver, fold)
    if not is_shrunk:
        tell(NOT_SHRUNK)
        return FAILED
    return NOT_YET if people else DONE


async def _people(
    options: argparse.Namespace, rules: Sequence[Retention], outside: Archives, fold: Fold
) -> list[DuePerson]:
    """Find who is due, and erase them unless that is only to be shown."""
    if all(rule.erase_after is None for rule in rules):
        return []
    async with _opened(options, outside) as vault:
        with outside.log_reader() as reader:
            now = Ports().clock.now()
            people = await due_people(reader, vault, rules, now, fold, at_rest=options.at_rest)
        if not options.dry_run:
            for person in people:
                await vault.erase(person.subject, person.reason, _PRINCIPAL)
                _tell_people([person], options)
    if people and not options.dry_run:
        tell("views and snapshots may have them still: the next engine lets go of them")
    return people


@asynccontextmanager
async def _opened(options: argparse.Namespace, outside: Archives) -> AsyncGenerator[Vault]:
    """Open the keys, which are not made where there are none."""
    ports = Ports()
    with outside.log_reader() as reader:
        log_id = reader.log_id
    vault = Vault(open_keys(options.file.backend.log(), options.keys))
    try:
        await vault.open(ports, log_id, only_reads=True)
        if not options.dry_run:
            await vault.close()
            await vault.open(ports, log_id)
        yield vault
    finally:
        await vault.close()


async def _archive(
    options: argparse.Namespace, rules: Sequence[Retention], archiver: Archiver, fold: Fold
) -> bool:
    """Archive by each rule; tell whether the log's file has given back its room."""
    now, is_shrunk = Ports().clock.now(), True
    for rule in rules:
        if rule.archive_after is None:
            continue
        judge = None if rule.closed_if is None else partial(is_closed, rule, fold)
        before = closed_before(rule.archive_after, now)
        closed = ArchiveRule(rule.kind, rule.names, before, judge, str(rule))
        done = await archiver.archive(closed, _silent, dry_run=options.dry_run)
        is_shrunk = is_shrunk and done.is_shrunk
        if options.json:
            found = {"streams": done.streams, "events": done.events, "bytes": done.bytes}
            _say_json({"action": "archive", "rule": str(rule), **found}, options)
        else:
            verb = "would be archived" if options.dry_run else "archived"
            what = f"{counted(done.events, 'event')} of {counted(done.streams, 'stream')}"
            say(f"{what} {verb}: {rule}, {rule.archive_after.days} days")
    return is_shrunk


def _silent(_moved: int, _events: int) -> None:
    """Show nothing: each rule is told when it is done."""


def _tell_people(people: Sequence[DuePerson], options: argparse.Namespace) -> None:
    verb = "would be erased" if options.dry_run else "erased"
    for person in people:
        if options.json:
            _say_json({"action": "erase", **msgspec.structs.asdict(person)}, options)
        else:
            streams = counted(person.streams, "stream")
            say(f"{person.subject} {verb}, with {streams}: {person.reason}")


def _say_json(line: Mapping[str, object], options: argparse.Namespace) -> None:
    say(msgspec.json.encode({**line, "done": not options.dry_run}).decode())
