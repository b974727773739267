"""`foldline claims FILE`: lists the unique values that aggregates hold, or verifies them.

Rules: it only reads, whoever has the log open. It ends with the page, and says how to go on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..outside.claims import Compared, compare_claims
from ..runtime.ports import Ports
from ..stores.contract.claims import HeldClaim
from ..stores.contract.outside import LogReader
from .options import DONE, FAILED, USAGE, log_file, some
from .output import Output, tell
from .tables import Column, Table, numbers

__all__ = ["add_parser"]

_DIFFERENCES_MAX: Final = 20

_DESCRIPTION = """\
List the unique values that aggregates hold, in the order of name and value. The log may be in use
by its engine. Values are what people wrote: they may be private.

--verify reads the whole log, in which each claim and release is kept, and compares it with the
table of claims. It needs memory for all claims."""

_EPILOG = f"""\
JSON fields: name, value, stream, position (of the event that took it)

exit status:
  {DONE}    shown, also if there are none; or verified
  {FAILED}    the file cannot be read, or the table is not what the log says
  {USAGE}    wrong arguments
  130  interrupted"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "claims",
        help="list the unique values that aggregates hold",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=log_file, metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument("--name", metavar="N", help="only claims of this name, as email")
    parser.add_argument(
        "--after", nargs=2, metavar=("N", "V"), help="begin after the claim of name N and value V"
    )
    parser.add_argument(
        "--limit", type=some, default=50, metavar="N", help="most claims of a page (default: 50)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--verify", action="store_true", help="compare the table with the log")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with options.file.outside(Ports()).log_reader() as reader:
        if options.verify:
            return _tell(compare_claims(reader))
        found = list(_claims(reader, options, options.limit + 1))
    output = Output(utf8=options.json)
    shown = found[: options.limit]
    output.show(_lines(shown) if options.json else [_table(shown)] if shown else [])
    output.flush()
    if not found:
        tell("no claim matches")
    elif len(found) > len(shown):
        last = shown[-1]
        tell(f"more after {last.name} {last.value!r}: --after {last.name} {last.value!r}")
    return DONE


def _claims(reader: LogReader, options: argparse.Namespace, most: int) -> Sequence[HeldClaim]:
    name: str | None = options.name
    after = (name or "", "") if options.after is None else tuple(options.after)
    page = reader.read_claims((after[0], after[1]), claims_max=most)
    return [claim for claim in page if name is None or claim.name == name]


def _lines(claims: Sequence[HeldClaim]) -> Iterator[str]:
    return (msgspec.json.encode(claim).decode() for claim in claims)


def _table(claims: Sequence[HeldClaim]) -> Table:
    table = Table(Column("NAME"), Column("VALUE"), Column("STREAM"), *numbers(POSITION=0))
    for claim in claims:
        table.add(claim.name, claim.value, claim.stream, f"{claim.position}")
    return table


def _tell(compared: Compared) -> int:
    if not compared.differences:
        tell(f"verified: {compared.claims:,} claims, up to position {compared.position:,}")
        return DONE
    for (name, value), log, table in compared.differences[:_DIFFERENCES_MAX]:
        tell(f"{name} {value!r}: the log says {_said(log)}, and the table {_said(table)}")
    tell(
        f"error: {len(compared.differences):,} claims are not what the log says at position "
        f"{compared.position:,}. Another program has written to the table of claims"
    )
    return FAILED


def _said(claim: HeldClaim | None) -> str:
    return "nobody" if claim is None else f"{claim.stream} since position {claim.position}"
