"""`foldline import FROM TO`: a new log out of JSON lines, or of another event store.

Rules: the application is imported for its classes, and never started. FROM is only read. TO is a
new place, or one where the same import was begun; it is no log before it is whole and verified.
Nothing is written before all events have been found good.
"""

from __future__ import annotations

import argparse
from typing import Any, Final, cast

from ..engine import Engine
from ..errors import UsageError
from ..imports.drafts import Drafts, ExportedDrafts, MappedDrafts
from ..imports.event_stores import FORMS, TablesSource
from ..imports.events import Mapping, Source
from ..imports.importing import ImportedLog, import_log, looked_at
from ..imports.json_lines import JsonLinesSource
from ..imports.kurrentdb import KurrentSource
from ..model.aggregate import definitions_of
from ..runtime.package import COMMAND
from ..runtime.ports import Ports
from ..stores.urls import open_tables
from .application import APP_HELP, attribute_of, engine_of
from .options import DONE, FAILED, USAGE, named_log
from .output import say, tell
from .printing import counted
from .progress import Shown, ending_tidily

__all__ = ["add_parser"]

LINES: Final = "jsonl"
KURRENTDB: Final = "kurrentdb"

_DESCRIPTION = """\
Make a new log of events that are stored elsewhere. Each keeps its time and its order. FROM has
JSON lines, also those that KurrentDB's clients write, or the tables of the Python library
eventsourcing, of Marten or of Message DB. Those of eventsourcing may be in a SQLite file; the
others are in PostgreSQL.

MAP is a function that takes one event of FROM, and says what it becomes. It gives an Imported of
foldline.imports, or a list of them. It gives None for one that is passed over. JSON
lines of `export` and of `log --json --payload` need no MAP.

All events are read and checked first, then written, then read again and compared. The first that
does not fit ends the command, with its place and the reason, and nothing is written then. If the
command is interrupted while it writes, run it again: it continues."""

_EPILOG = f"""\
{APP_HELP}

examples:
  {COMMAND} import events.jsonl bank.db --app bank:make_engine
  {COMMAND} import old.db bank.db --format eventsourcing --app bank:make_engine --map moving:moved
  {COMMAND} import postgresql://ann@db.example/shop shop.db --format marten \\
      --app shop:make_engine --map moving:moved

exit status:
  {DONE}    imported, and verified
  {FAILED}    not imported. The reason is on the error stream
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "import",
        help="make a log of another event store, or of JSON lines",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="FROM", help="a file, or postgresql://...")
    parser.add_argument(
        "to", metavar="TO", type=named_log, help="the new log: a file, or postgresql://..."
    )
    parser.add_argument(
        "--format",
        choices=(LINES, KURRENTDB, *FORMS),
        default=LINES,
        help=f"of FROM (default: {LINES})",
    )
    parser.add_argument("--app", metavar="APP", required=True, help="the application that reads TO")
    parser.add_argument("--map", metavar="MAP", help="the mapping function, as module:function")
    parser.add_argument(
        "--table", metavar="T", help="the table of events, if it has another name than usual"
    )
    parser.add_argument(
        "--check", action="store_true", help="read and check all events, and write nothing"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    ports = Ports()
    engine = engine_of(options.app, options.to.text)
    source, drafts = _read(options, engine, ports)
    shown, now = Shown(ports), ports.clock.now()
    with ending_tidily():
        try:
            if options.check:
                done = looked_at(source, drafts, now, shown.show)
            else:
                target = options.to.backend.outside(ports).copy_target()
                done = import_log(source, drafts, target, now, shown.show)
        except (KeyboardInterrupt, SystemExit):
            shown.end()
            tell("interrupted: run it again, it continues where it was")
            raise
        finally:
            shown.end()
    _tell(done, options)
    return DONE


def _read(options: argparse.Namespace, engine: Engine, ports: Ports) -> tuple[Source, Drafts]:
    form = FORMS.get(options.format)
    if form is None:
        if options.table is not None:
            raise UsageError("--table names a table, and a file of JSON lines has none")
        source: Source = JsonLinesSource(options.source)
        if options.format == KURRENTDB:
            source = KurrentSource(options.source)
            _check_map(options)
    else:
        in_server = options.source.startswith(("postgresql:", "postgres:"))
        if not in_server and not form.file_table:
            raise UsageError(f"{options.format} keeps events in PostgreSQL: give postgresql://...")
        tables = open_tables(options.source, ports)
        source = TablesSource(tables, form, options.table, in_file=not in_server)
        _check_map(options)
    if options.map is None:
        return source, ExportedDrafts(
            source.name, engine.registry, definitions_of(engine.aggregates)
        )
    mapping = attribute_of(options.map)
    if not callable(mapping):
        raise UsageError(f"{options.map} is no function")
    given = cast("Mapping", mapping)
    return source, MappedDrafts(
        source.name, given, engine.registry, definitions_of(engine.aggregates), engine.limits
    )


def _check_map(options: argparse.Namespace) -> None:
    if options.map is None:
        raise UsageError("--map is needed: it says what each event becomes here")


def _tell(done: ImportedLog, options: argparse.Namespace) -> None:
    what = f"{counted(done.events, 'event')} of {counted(done.streams, 'stream')}"
    if options.check:
        say(f"{what} can be imported, and nothing was written")
    else:
        resumed = f", from {done.resumed_at:,} on" if done.resumed_at else ""
        say(f"imported {what}{resumed}, and verified: digest {done.digest:#010x}")
    if done.due:
        tell(
            f"an engine fires {counted(done.due, 'timer')} when it starts, as their time has come: "
            f"no event says whether the old log had fired or cancelled them. Look with `{COMMAND} "
            f"timers`, and give it --cancel for those that are not to be fired"
        )
    if done.passed_over:
        say(f"{counted(done.passed_over, 'event')} of the source became nothing")
