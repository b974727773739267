"""`foldline sql FILE STATEMENT`: SQL over a log and its views, whoever has them open.

Rules: nothing but reading is possible. The store bounds what a statement takes, and reads the
answer whole, up to its limit, within its time and within its memory, and has ended before the first
line is written: whoever looks at it in a pager keeps no engine from merging its write-ahead log.
What is asked for is shown, what people wrote included, and never moves a cursor. JSON has it
exactly; CSV is for spreadsheets, and keeps them from calculating it.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..errors import UsageError
from ..model.rows import Scalar
from ..runtime.package import COMMAND
from ..runtime.ports import Ports
from ..stores.contract.backend import Backend
from ..stores.contract.outside import Rows
from .options import DONE, FAILED, USAGE, log_file, seconds, some
from .output import Output, tell
from .printing import escaped, spreadsheet_cell
from .tables import Column, Table

__all__ = ["add_parser"]

SECONDS: Final = 60
ROWS: Final = 1_000
STATEMENT_BYTES_MAX: Final = 1_000_000

_DESCRIPTION = """\
Ask a log and its views with one SQL statement of SQLite. The files may be in use by their engine,
be left behind by one that was killed, or be closed: they are opened read-only. The view `log` has
the events, and the tables of a projection are called `<projection>_<attribute>`. Joins between the
two work. The views may be some events behind the log."""

_EXAMPLES = """\
examples:
  {COMMAND} sql shop.db "select event, count(*) from log group by event"
  {COMMAND} sql shop.db "select * from log where stream = ?" --parameter order:536365
  {COMMAND} sql shop.db --tables
""".replace("{COMMAND}", COMMAND)

_EPILOG = f"""\
{_EXAMPLES}
What is binary is shown as hexadecimal text, and what cannot be seen as an escape. In CSV a text
that a spreadsheet would take for a formula begins with '; JSON has each text as it is stored. A
value that is missing is NULL in a table, null in JSON and nothing in CSV. A name that comes twice
is numbered in JSON. An answer has 64 MB at most, and a statement 512 MB of memory.

exit status:
  {DONE}    shown
  {FAILED}    the files cannot be read or the statement cannot be run. The reason is on the error
       stream
  {USAGE}    wrong arguments
  130  interrupted"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "sql",
        help="ask a log and its views in SQL",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=log_file, metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument(
        "statement",
        nargs="?",
        metavar="STATEMENT",
        help="one SELECT; without it the statement is read from the input",
    )
    parser.add_argument("--tables", action="store_true", help="show what there is to ask")
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="VALUE",
        help="text for the next parameter of the statement (`?` or `:name`), in order; where a "
        "number is compared with what is no column, write cast(? as integer)",
    )
    parser.add_argument(
        "--limit", type=some, default=ROWS, metavar="N", help=f"most rows (default: {ROWS:,})"
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=SECONDS,
        metavar="N",
        help=f"the time that the statement may take (default: {SECONDS})",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="CSV with a line of names")
    parser.set_defaults(run=_run, usage_error=parser.error)


def _seconds(text: str) -> int:
    some(text)
    return seconds(text)


def _run(options: argparse.Namespace) -> int:
    if options.tables and (options.statement is not None or options.parameter):
        options.usage_error("--tables takes no statement and no parameters")
    output = Output(utf8=options.json or options.csv)
    rows = _ask(options)
    _write(rows, output, options)
    output.flush()
    if rows.more:
        tell(f"there are more than these {options.limit:,} rows: --limit shows more")
    return DONE


def _ask(options: argparse.Namespace) -> Rows:
    """Give the whole answer; the files are closed when it returns."""
    statement: str | None = options.statement
    if statement is None and not options.tables:
        statement = _statement_of_the_input()
    backend: Backend = options.file
    shell, bounds = backend.outside(Ports()).shell(), (options.limit, options.seconds)
    if statement is None:
        return shell.tables(rows_max=bounds[0], seconds=bounds[1])
    return shell.ask(statement, options.parameter, rows_max=bounds[0], seconds=bounds[1])


def _statement_of_the_input() -> str:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        return sys.stdin.read(STATEMENT_BYTES_MAX) if sys.stdin is not None else ""
    raw: bytes = stream.read(STATEMENT_BYTES_MAX + 1)
    if len(raw) > STATEMENT_BYTES_MAX:
        raise UsageError(f"the statement on the input has more than {STATEMENT_BYTES_MAX} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the statement on the input is not UTF-8: byte {error.start}") from None


# -- forms --------------------------------------------------------------------------------------


def _write(rows: Rows, output: Output, options: argparse.Namespace) -> None:
    if options.json:
        output.show(_json_lines(rows))
    elif options.csv:
        for line in _csv_lines(rows):
            output.write_lines(line)
    else:
        output.show([_table(rows)])


def _json_lines(rows: Rows) -> Iterator[str]:
    names = _different(rows.names)
    for row in rows.rows:
        values = [value.hex() if isinstance(value, bytes) else value for value in row]
        line = msgspec.json.encode(dict(zip(names, values, strict=True)))
        yield escaped(line.decode())


def _different(names: Sequence[str]) -> Sequence[str]:
    """Number names that come again, so that no value hides another."""
    found: list[str] = []
    for name in names:
        number, other = 1, name
        while other in found:
            number += 1
            other = f"{name}_{number}"
        found.append(other)
    return found


def _csv_lines(rows: Rows) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (rows.names, *rows.rows):
        # Lines stay, since a cell may have them between its quotes.
        writer.writerow([_csv_cell(value) for value in row])
        yield text.getvalue().removesuffix("\n")
        text.seek(0)
        text.truncate()


def _csv_cell(value: Scalar) -> Scalar:
    if isinstance(value, str):
        return spreadsheet_cell(value)
    return value.hex() if isinstance(value, bytes) else value


def _table(rows: Rows) -> Table:
    columns = zip(rows.names, *rows.rows, strict=True)
    table = Table(
        *[
            Column(name.upper(), number=all(isinstance(v, int | float | None) for v in values))
            for name, *values in columns
        ]
    )
    for row in rows.rows:
        table.add(*[_cell(value) for value in row])
    return table


def _cell(value: Scalar) -> str:
    if value is None:
        return "NULL"
    return value.hex() if isinstance(value, bytes) else str(value)
