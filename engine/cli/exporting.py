"""`foldline export FILE --to WHERE`: events or a view as Parquet, JSON lines or CSV.

Rules: the log may be in use, and is only read. A file is complete, or not there; nothing is written
over. Where it goes to a folder, each run adds a file of what is new.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import msgspec

from ..errors import UsageError
from ..exports.files import FORMATS, check_format, write_csv, write_lines, write_parquet
from ..exports.folder import Folder
from ..exports.lines import COLUMNS, Omitted, line_of, record_of
from ..log.selection import Selection
from ..model.private import private_fields
from ..model.stored import StoredEvent
from ..runtime.package import COMMAND
from ..runtime.ports import Ports
from ..stores.contract.outside import LogReader, Rows
from .application import APP_HELP, engine_of
from .options import DONE, FAILED, USAGE, moment, named_log, path, some, stream, whole
from .output import say, tell
from .printing import counted, spreadsheet_cell
from .progress import ending_tidily
from .search import Search

__all__ = ["add_parser"]

ROWS_MAX: Final = 10_000_000
SECONDS: Final = 3_600
FILE_EVENTS: Final = 1_000_000

_DESCRIPTION = f"""\
Write the events of a log, or the rows of a view, into a file for other programs. The ending of
WHERE gives the form: .parquet, .jsonl or .csv. Parquet needs the extra `analytics` (DuckDB).

If WHERE ends with a slash, or is a folder, each run adds a file of the events that are new.
There --format gives the form. The names of the files say which positions they have.
--since says where a new folder begins, and --until how far this run goes.

JSON lines have all that an event means, with its checksum: `import` makes the same log of them.
It refuses what is encrypted for a person.
Payloads and headers are what people wrote. --omit leaves a field of all payloads out.
With --app what its classes mark as `Private` or `Personal` is left out, of events and of views.
Parquet and CSV never have what is encrypted.

{APP_HELP}"""

_EPILOG = f"""\
examples:
  {COMMAND} export bank.db --to events.jsonl
  {COMMAND} export bank.db --to 2026.parquet --since 2026-01-01 --until 2026-12-31T23:59:59
  {COMMAND} export bank.db --to lake/ --format parquet --omit email
  {COMMAND} export bank.db --to balances.parquet --view balances_rows

exit status:
  {DONE}    exported, also if nothing is new
  {FAILED}    not exported. The reason is on the error stream, and there is no file
  {USAGE}    wrong arguments
  130  interrupted
  143  ended by SIGTERM"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export",
        help="write events or a view into Parquet, JSON lines or CSV",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=named_log, metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument(
        "--to", required=True, type=path, metavar="WHERE", help="a new file, or a folder"
    )
    parser.add_argument("--format", choices=FORMATS, help="of files in a folder")
    parser.add_argument(
        "--view", metavar="V", help="the rows of this table, as balances_rows, instead of events"
    )
    parser.add_argument(
        "--stream", type=stream, metavar="KIND:ID", help="only this stream, as order:536365"
    )
    parser.add_argument(
        "--name", action="append", default=[], metavar="N", help="only events of this name"
    )
    parser.add_argument("--since", type=moment, metavar="T", help="only events recorded from T on")
    parser.add_argument("--until", type=moment, metavar="T", help="only events recorded up to T")
    parser.add_argument("--after", type=whole, metavar="P", help="only events behind position P")
    parser.add_argument("--upto", type=whole, metavar="P", help="only events up to position P")
    parser.add_argument(
        "--omit", action="append", default=[], metavar="F", help="leave this field of payloads out"
    )
    parser.add_argument(
        "--app", metavar="APP", help="the application, whose private fields are left out"
    )
    parser.add_argument(
        "--file-events",
        type=some,
        default=FILE_EVENTS,
        metavar="N",
        help=f"most events of a file in a folder (default: {FILE_EVENTS:,})",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    to = Path(options.to)
    grows = options.to.endswith("/") or to.is_dir()
    form = options.format if grows else to.suffix.removeprefix(".")
    if form not in FORMATS:
        raise UsageError(
            "a folder needs --format parquet, jsonl or csv"
            if grows
            else f"{to.name} has no ending that gives a form: .parquet, .jsonl or .csv"
        )
    if not grows and options.format not in (None, form):
        raise UsageError(f"{to.name} ends with .{form}, and --format says {options.format}")
    check_format(form)
    with ending_tidily():
        if options.view is not None:
            return _export_view(options, to, form, grows=grows)
        with options.file.backend.outside(Ports()).log_reader() as reader:
            if grows:
                with Folder(to, form, reader) as folder:
                    return _add_files(options, reader, folder, form)
            omitted = _omitted(options, form)
            count = _write(to, form, _selected(options, reader), omitted)
    say(f"exported {counted(count, 'event')}")
    _tell_undeclared(options, omitted)
    return DONE


def _selected(options: argparse.Namespace, reader: LogReader) -> Iterator[StoredEvent]:
    """Give the events up to the end as it is now."""
    head = reader.head().position
    end = head if options.upto is None else min(head, options.upto)
    search = Search(
        reader,
        Selection(
            stream=options.stream,
            names=tuple(options.name),
            since=options.since,
            until=options.until,
        ),
    )
    search.begin(options.after or 0)
    return _upto(search.forward(), end)


def _upto(events: Iterator[StoredEvent], end: int) -> Iterator[StoredEvent]:
    return takewhile(lambda stored: stored.position <= end, events)


def _add_files(options: argparse.Namespace, reader: LogReader, folder: Folder, form: str) -> int:
    """Write what is new into files of a folder, each of a range of positions."""
    given = (options.after, options.upto, options.stream)
    if any(each is not None for each in given):
        raise UsageError(
            "a folder has all positions from its first on: --after, --upto and --stream go with a "
            "file"
        )
    after, head = folder.end(), reader.head().position
    if options.since is not None:
        begin = min(head, _end_before(reader, options.since))
        if 0 < after < begin:
            raise UsageError(
                f"the folder has events up to position {after:,}, and --since begins behind "
                f"position {begin:,}: what is between would be missing. Give an earlier one, or "
                f"another folder"
            )
        after = after or begin
    if options.until is not None:
        head = min(head, _end_before(reader, options.until + 1))
    files = count = 0
    omitted = _omitted(options, form)
    while after < head:
        last = min(head, after + options.file_events)
        search = Search(reader, Selection(names=tuple(options.name)))
        search.begin(after)
        events = _upto(search.forward(), last)
        count += _write(folder.file(after + 1, last), form, events, omitted)
        files += 1
        after = last
    say(f"exported {counted(count, 'event')} into {counted(files, 'file')}, to position {after:,}")
    _tell_undeclared(options, omitted)
    return DONE


def _tell_undeclared(options: argparse.Namespace, omitted: Omitted) -> None:
    for name in sorted(omitted.undeclared):
        tell(
            f"the payloads of {name!r} are left out: {options.app} declares no class for all of "
            f"its versions, so nobody knows which fields are private"
        )


def _end_before(reader: LogReader, time: int) -> int:
    """Give the last position that was recorded before a time."""
    return Search(reader, Selection(since=time)).begin(0)


def _omitted(options: argparse.Namespace, form: str) -> Omitted:
    """Give what is not exported; a line keeps what is encrypted, as it is stored."""
    if options.app is None:
        return Omitted(options.omit, sealed=form != "jsonl")
    return Omitted(
        options.omit, engine_of(options.app, options.file.text).registry.private, sealed=True
    )


def _write(path: Path, form: str, events: Iterator[StoredEvent], omitted: Omitted) -> int:
    if form == "jsonl":
        return write_lines(path, (line_of(event, omitted) for event in events))
    records = (record_of(event, omitted) for event in events)
    if form == "csv":
        rows = (list(record.values()) for record in records)
        return write_csv(path, list(COLUMNS), rows, spreadsheet_cell)
    return write_parquet(path, COLUMNS, records)


# -- views --------------------------------------------------------------------------------------


def _export_view(options: argparse.Namespace, to: Path, form: str, *, grows: bool) -> int:
    given = (options.since, options.until, options.after, options.upto, options.stream)
    if grows or options.name or options.omit or any(each is not None for each in given):
        raise UsageError("a view goes into a file, whole: --to FILE, without what selects events")
    columns = "*" if options.app is None else _open_columns(options)
    shell = options.file.backend.outside(Ports()).shell()
    statement = f"SELECT {columns} FROM {_quoted(options.view)}"  # noqa: S608 - quoted, only read
    rows = shell.ask(statement, (), rows_max=ROWS_MAX, seconds=SECONDS)
    if rows.more:
        raise UsageError(f"the view has more than {ROWS_MAX:,} rows: select some by `sql`")
    count = _write_rows(to, form, rows)
    say(f"exported {counted(count, 'row')}")
    return DONE


def _open_columns(options: argparse.Namespace) -> str:
    """Give the columns of a view that are not private, as SQL has them."""
    definitions = [
        each.__definition__ for each in engine_of(options.app, options.file.text).declared
    ]
    if any(
        options.view == table.name for each in definitions for table in each.sql_tables.values()
    ):
        return "*"  # made by SQL of its own, which marks nothing
    tables = {table.name: table for each in definitions for table in each.tables.values()}
    if options.view not in tables:
        raise UsageError(
            f"{options.app} declares no view {options.view!r}; it declares {sorted(tables)}"
        )
    shape = tables[options.view].shape
    private = private_fields(shape.row)
    columns = [column.name for column in shape.columns if column.name not in private]
    if not columns:
        raise UsageError(f"all columns of {options.view} are private")
    return ", ".join(map(_quoted, columns))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _write_rows(to: Path, form: str, rows: Rows) -> int:
    plain = [[v.hex() if isinstance(v, bytes) else v for v in row] for row in rows.rows]
    if form == "csv":
        return write_csv(to, rows.names, plain, spreadsheet_cell)
    records = (dict(zip(rows.names, row, strict=True)) for row in plain)
    if form == "jsonl":
        return write_lines(to, map(msgspec.json.encode, records))
    return write_parquet(to, _types_of(rows), records)


def _types_of(rows: Rows) -> Mapping[str, str]:
    """Give the type of each column by the values that are in it."""
    columns: Sequence[Sequence[object]] = list(zip(*rows.rows, strict=True))
    if not columns:
        return dict.fromkeys(rows.names, "VARCHAR")
    return {n: _type_of(values) for n, values in zip(rows.names, columns, strict=True)}


def _type_of(values: Sequence[object]) -> str:
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {bool}:
        return "BOOLEAN"
    if kinds == {int}:
        return "BIGINT"
    if kinds and kinds <= {int, float}:
        return "DOUBLE"
    return "BLOB" if kinds == {bytes} else "VARCHAR"
