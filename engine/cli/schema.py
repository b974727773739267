"""`foldline schema`: do the declared types of events fit; and the SQL that a log in a server needs.

Rules: the application is imported and never started; the log is read beside whoever has it open,
and nothing is written to it. `check` tells every finding with its mend; `record` writes samples
that are missing and leaves those that are there. Samples hold payloads, so they are recorded from a
log of tests. `sql` prints, and connects to nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..engine import Engine
from ..errors import UsageError
from ..model.codec import UNDECODABLE, EventRegistry
from ..model.personal import Masking
from ..model.schema import Finding, Sample, check_commands, check_samples, check_types
from ..model.stored import EventType
from ..runtime.ports import Ports
from ..stores.contract.backend import Backend
from ..stores.contract.log import StreamRead
from ..stores.contract.outside import LogReader
from ..stores.urls import sql_of_schema
from ..timers.schedule import RunSchedule, ScheduleSet
from .application import APP_HELP, engine_of
from .options import DONE, FAILED, USAGE, named_log
from .output import say, tell
from .printing import counted

__all__ = ["add_parser"]

_PAGE_EVENTS = 1_000
_PAGE_BYTES = 8 * 1024 * 1024

_DESCRIPTION = """\
Compare the types of events that an application declares with those that a log has stored, and with
samples kept in its repository. Names, versions, schema hashes and upcasters are compared. Run
`check` before a release: an engine does not start on a log with findings. With --log it also reads
the commands of all timers that wait: one that cannot be read would fail when it is due."""

_EPILOG = f"""\
{APP_HELP}

exit status:
  {DONE}    everything fits
  {FAILED}    findings, each with its mend, or something that cannot be read
  {USAGE}    wrong arguments"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "schema",
        help="check the types of events against a log and samples",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, run, told in (
        ("check", _check, "report what does not fit"),
        ("record", _record, "write the samples that are missing, out of a log of tests"),
    ):
        action = actions.add_parser(
            name, help=told, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        recording = name == "record"
        action.add_argument("app", metavar="APP", help="module:attribute")
        action.add_argument(
            "--log", type=named_log, metavar="FILE", required=recording, help="as in sqlite:FILE"
        )
        action.add_argument(
            "--samples", metavar="FOLDER", type=Path, required=recording, help="of JSON files"
        )
        action.set_defaults(run=run)
    _add_sql(actions)


def _add_sql(actions: Any) -> None:
    action = actions.add_parser(
        "sql",
        help="print the SQL that makes the schema of a log in a server, for its owner to run",
        description="Print the SQL that makes the schema of a log in PostgreSQL. An engine that "
        "may make it does so by itself.",
    )
    action.add_argument("store", metavar="URL", help="as in postgresql://HOST/DATABASE?schema=shop")
    action.add_argument("--role", metavar="NAME", help="grant this role what an engine needs")
    action.add_argument(
        "--since", type=int, default=0, metavar="VERSION", help="of a schema that is there already"
    )
    action.set_defaults(run=_sql)


def _sql(options: argparse.Namespace) -> int:
    for line in sql_of_schema(options.store, since=options.since, role=options.role).splitlines():
        say(line)
    return DONE


def _check(options: argparse.Namespace) -> int:
    named = options.log
    engine = engine_of(options.app, None if named is None else named.text)
    registry = _registry_of(engine)
    findings: list[Finding] = []
    compared: list[str] = []
    if named is not None:
        with named.backend.outside(Ports()).log_reader() as log:
            stored = log.event_types()
            findings += check_types(registry, stored)
            findings += check_commands(engine.timed.decode, _waiting(log))
        compared.append(f"{len(stored)} stored in {named.backend.name}")
    if options.samples is not None:
        samples = _read(options.samples)
        findings += check_samples(registry, samples)
        compared.append(f"{counted(len(samples), 'sample')} in {options.samples}")
    if not compared:
        tell("error: nothing to compare with: give --log FILE, --samples FOLDER, or both")
        return USAGE
    for finding in findings:
        say(f"{finding.rule}: {finding.message}")
    tell(
        f"{len(registry.types)} types of events are declared, {' and '.join(compared)}: "
        + (counted(len(findings), "finding") if findings else "everything fits")
    )
    return FAILED if findings else DONE


def _waiting(log: LogReader) -> Iterable[tuple[str, str, bytes]]:
    after = "", ""
    while page := log.read_timers(after, timers_max=_PAGE_EVENTS):
        for timer in page:
            yield f"{timer.name} of {timer.stream}", timer.command, timer.payload
            if timer.command == RunSchedule.command_name:
                yield from _scheduled(log, timer.stream)
        after = page[-1].stream, page[-1].name


def _scheduled(log: LogReader, stream: str) -> Iterable[tuple[str, str, bytes]]:
    """Give the command that a schedule runs: of its last event that names one."""
    after, found = 0, None
    while True:
        (page,) = log.read_streams(
            [StreamRead(stream, after)], events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES
        )
        named = [event for event in page.events if event.name == ScheduleSet.event_name]
        found = named[-1] if named else found
        if not page.more:
            break
        after = page.events[-1].version
    if found is not None:
        scheduled = msgspec.json.decode(found.payload, type=_Scheduled)
        yield f"of the schedule {stream}", scheduled.command, scheduled.payload.encode()


class _Scheduled(msgspec.Struct):
    """What is stored of a schedule, as far as it is looked at here."""

    command: str
    payload: str


def _record(options: argparse.Namespace) -> int:
    registry = _registry_of(engine_of(options.app, options.log.text))
    folder: Path = options.samples
    folder.mkdir(parents=True, exist_ok=True)
    kept = {(sample.name, sample.version) for sample in _read(folder)}
    wanted = {
        (kind.name, kind.version): kind
        for kind in registry.types
        if (kind.name, kind.version) not in kept
    }
    for sample in _find(options.log.backend, wanted):
        text = msgspec.json.format(msgspec.json.encode(sample), indent=2)
        path = folder / f"{sample.name}.{sample.version}.json"
        path.write_bytes(text + b"\n")
        tell(f"wrote {path}")
    for name, version in wanted:
        tell(f"still missing: {name} version {version}, which is not in {options.log.backend.name}")
    return FAILED if wanted else DONE


def _find(log: Backend, wanted: dict[tuple[str, int], EventType]) -> Iterable[Sample]:
    """Give a sample of each type that the log has, and take it out of `wanted`."""
    with log.outside(Ports()).log_reader() as reader:
        hashes = {(t.name, t.version): t.schema_hash for t in reader.event_types()}
        after = 0
        while wanted:
            page = reader.read_feed(after, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES)
            if not page:
                return
            after = page[-1].position
            for event in page:
                kind = (event.name, event.event_version)
                if wanted.pop(kind, None) is not None:
                    yield Sample(*kind, hashes[kind], msgspec.Raw(event.payload))


def _read(folder: Path) -> Sequence[Sample]:
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    samples: list[Sample] = []
    for path in sorted(folder.glob("*.json")):
        try:
            samples.append(msgspec.json.decode(path.read_bytes(), type=Sample))
        except UNDECODABLE as error:
            raise UsageError(f"{path} is no sample: {error}") from error
    return samples


def _registry_of(engine: Engine) -> EventRegistry:
    """Give what an application declares, with personal fields masked."""
    registry = engine.registry
    registry.sealer = Masking()
    return registry
