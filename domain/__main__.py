"""The shop's command line: import and report, watch, look, find, or make a larger file.

Rules: the report goes to the output, everything else to the error stream. What a user can cause, a
missing file, a locked store, is told in one line and not by a traceback. This file parses, calls
and prints; what is sent and asked is decided elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from engine import Engine, EngineError, ProjectionLag, Receipt, run

from .acknowledgements import Acknowledgements
from .catalogue_search import lay_out_products, search_products
from .expand import expand
from .importer import Imported, import_invoices
from .invoices import SAMPLE, Invoices
from .order_past import NoSuchOrder, ask_past, lay_out_past
from .progress import Progress
from .report import Report, ask_report, lay_out
from .shop import open_shop
from .text_file import TextFile, Unreadable
from .watch import shown, watch_shop

DONE, FAILED, USAGE, SOME_LEFT_OUT, INTERRUPTED = 0, 1, 2, 3, 130

STILLNESS_SECONDS_MAX = 30
"""How long the report waits for views that do not move."""

IMPORT_HELP = """\
Import a file of invoices into the shop and print its sales report.

An invoice becomes an order (or a return, if its number begins with C). Every command has a key, so
a file can be imported again, after a crash or by mistake: what was done is not done twice."""

IMPORT_MORE = f"""\
other commands:
  python -m domain watch --help       show what waits and what sells, live
  python -m domain order --help       show an order, its history, and what changed
  python -m domain search --help      find products by their words
  python -m domain expand --help      make a larger file of the same shape

exit status: {DONE} done; {FAILED} it could not be done, the reason is on the error stream;
{USAGE} wrong arguments; {SOME_LEFT_OUT} done, but rows that cannot be read were left out"""


ORDER_HELP = """\
Show an order, everything that happened to it, and what the last of it changed; with --version or
--at, the order as it was then, and what has changed since. The log is opened read-only, so the shop
may be at work on it meanwhile."""

ORDER_MORE = f"""\
exit status: {DONE} shown; {FAILED} there is no such order or version, or the log cannot be read:
the reason is on the error stream; {USAGE} wrong arguments"""


WATCH_HELP = """\
Show live what waits to be shipped and what sells best, while another process writes: an import,
`python -m domain`, or the web application. The shop's views are opened read-only. They need not be
there yet, and whoever writes them may end and start again meanwhile. With --import, this process
imports a file itself, shows the shop meanwhile, and prints the sales report at the end."""

WATCH_MORE = f"""\
Where the output is no terminal, a line is written for what has changed, once a second at most.

exit status: {DONE} it was stopped (Ctrl-C, SIGTERM, or whoever read its output has gone);
{FAILED} the views cannot be read, or are those of another release: the reason is on the error
stream; {USAGE} wrong arguments. With --import it is that of the import, and {INTERRUPTED} where it
was interrupted."""
SEARCH_HELP = """\
Find products by words of their number or description, the best ones first; the last word may be
the beginning of one. The log is opened read-only, so the shop may be at work on it meanwhile; the
catalogue is folded from it for the question, as it is now, or with --at as it was then."""

SEARCH_MORE = f"""\
exit status: {DONE} shown, also where no product has the words; {FAILED} the log cannot be read, or
there is no word to look for: the reason is on the error stream; {USAGE} wrong arguments"""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; give the exit status."""
    try:
        if arguments[:1] == ["expand"]:
            return _expand(_expand_parser().parse_args(arguments[1:]))
        if arguments[:1] == ["watch"]:
            return _watch(_watch_parser().parse_args(arguments[1:]))
        if arguments[:1] == ["order"]:
            return _order(_order_parser().parse_args(arguments[1:]))
        if arguments[:1] == ["search"]:
            return _search(_search_parser().parse_args(arguments[1:]))
        return _import(_import_parser().parse_args(arguments))
    except (Unreadable, NoSuchOrder, EngineError, OSError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("\nstopped; run it again to go on where it was", file=sys.stderr)
        return INTERRUPTED


def _import_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m domain",
        description=IMPORT_HELP,
        epilog=IMPORT_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=SAMPLE,
        metavar="FILE",
        help="a .csv or .csv.gz file like the sample, which is imported if none is given",
    )
    parser.add_argument(
        "--store",
        default="sqlite:shop.db",
        metavar="URL",
        help="where the shop keeps its log: sqlite:FILE, or memory: (default: %(default)s)",
    )
    parser.add_argument(
        "--acks",
        type=Path,
        metavar="FILE",
        help="append the key and position of each command to FILE as it is acknowledged",
    )
    return parser


def _expand_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m domain expand",
        description="Make a larger file of the same shape: each invoice copied under new numbers.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=SAMPLE,
        metavar="FILE",
        help="what to copy: a .csv or .csv.gz file like the sample, which is the default",
    )
    parser.add_argument("--times", type=_count, required=True, metavar="N", help="how many copies")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="gzipped if the name ends in .gz",
    )
    return parser


def _watch_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m domain watch",
        description=WATCH_HELP,
        epilog=WATCH_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--store",
        default="sqlite:shop.db",
        metavar="URL",
        help="where the shop keeps its log: sqlite:FILE (default: %(default)s)",
    )
    parser.add_argument(
        "--import",
        dest="file",
        nargs="?",
        type=Path,
        const=SAMPLE,
        metavar="FILE",
        help="import this file meanwhile, or the sample, in this process",
    )
    parser.set_defaults(acks=None)
    return parser


def _order_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m domain order",
        description=ORDER_HELP,
        epilog=ORDER_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("id", metavar="ID", help="the order's number, as 536365")
    parser.add_argument(
        "--store",
        default="sqlite:shop.db",
        metavar="URL",
        help="the shop's log (default: %(default)s)",
    )
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--version", type=_version, metavar="N", help="as it was at this version")
    then.add_argument(
        "--at",
        type=_moment,
        metavar="TIME",
        help="as it was at this time, ISO 8601, and UTC where it has no zone",
    )
    return parser


def _search_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m domain search",
        description=SEARCH_HELP,
        epilog=SEARCH_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", metavar="WORDS", help='words, as "red lantern"')
    parser.add_argument(
        "--store",
        default="sqlite:shop.db",
        metavar="URL",
        help="the shop's log (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=_count,
        default=20,
        metavar="N",
        help="most products (default: %(default)s)",
    )
    parser.add_argument(
        "--at",
        type=_moment,
        metavar="TIME",
        help="as the catalogue was at this time, ISO 8601, and UTC where it has no zone",
    )
    return parser


def _version(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _moment(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time in ISO 8601, as 2026-01-31T08:05:00Z"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _expand(options: argparse.Namespace) -> int:
    progress = Progress("copied", sys.stderr)
    rows = expand(
        options.file, options.out, options.times, lambda copy: progress.show(copy, options.times)
    )
    progress.end()
    print(f"{options.out}: {rows:,} rows")
    return DONE


def _order(options: argparse.Namespace) -> int:
    past = run(ask_past, options.store, options.id, options.version, options.at)
    print(lay_out_past(past), end="", flush=True)
    return DONE


def _watch(options: argparse.Namespace) -> int:
    if options.file is not None:
        return _import(options, watching=True)
    try:
        run(watch_shop, options.store)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return DONE
    except BrokenPipeError:
        _abandon_output()
        return DONE
    return DONE


def _search(options: argparse.Namespace) -> int:
    found = run(search_products, options.store, options.text, options.limit, options.at, sys.stderr)
    print(lay_out_products(found), end="", flush=True)
    return DONE


def _import(options: argparse.Namespace, *, watching: bool = False) -> int:
    with ExitStack() as stack:
        # A file that cannot be read leaves no empty store behind, so it is opened first.
        invoices = Invoices(stack.enter_context(TextFile(options.file)))
        acks = None
        if options.acks is not None:
            acks = stack.enter_context(Acknowledgements(options.acks))
        imported, report = run(import_and_ask, options.store, invoices, acks, watching)
    print(told(imported, invoices.rows), file=sys.stderr)
    print(lay_out(report, imported.refused, invoices.malformed), end="", flush=True)
    return SOME_LEFT_OUT if invoices.malformed.count else DONE


async def import_and_ask(
    store: str, invoices: Invoices, acks: Acknowledgements | None, watching: bool = False
) -> tuple[Imported, Report]:
    """Import the invoices and ask for the report when the views have seen them all.

    The shop is shown meanwhile, or else a bar.
    """
    progress = Progress("imported", sys.stderr)
    file = invoices.file

    def acknowledged(key: str, receipt: Receipt) -> None:
        if acks is not None:
            acks.add(key, receipt)
        if not watching:
            progress.show(file.bytes_read, file.bytes_total)

    def doing() -> str:
        return f"importing {file.path.name}: {file.bytes_read * 100 // max(1, file.bytes_total)} %"

    async with open_shop(store) as engine:
        try:
            async with shown(engine, store, doing) if watching else nullcontext():
                imported = await import_invoices(engine, invoices, acknowledged)
        finally:
            progress.end()
        return imported, await _ask_patiently(engine, imported.last)


async def _ask_patiently(engine: Engine, at: Receipt | None) -> Report:
    """Ask until the views are there, as long as they come nearer."""
    behind: dict[str, int] = {}
    stillness_seconds = 0
    progress = Progress("reports", sys.stderr)
    try:
        while True:
            try:
                return await ask_report(engine, at, timeout=1)
            except ProjectionLag as lag:
                stillness_seconds = stillness_seconds + 1 if lag.behind == behind else 0
                if stillness_seconds == STILLNESS_SECONDS_MAX:
                    raise
                behind = lag.behind
                progress.show(min(behind.values()), lag.wanted)
    finally:
        progress.end()


def told(imported: Imported, rows: int) -> str:
    """Say in a line what the import did."""
    read = f"{rows:,} rows, {imported.invoices:,} invoices, {imported.commands:,} commands"
    if imported.executed == imported.repeated == 0:
        return f"{read}: nothing executed"
    if imported.executed == 0:
        return f"{read}: nothing new, the shop had executed them before and is as it was"
    if imported.repeated == 0:
        return f"{read}: {imported.executed:,} executed"
    return (
        f"{read}: {imported.executed:,} executed, "
        f"{imported.repeated:,} had been executed before and were not again"
    )


def _fail(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        _abandon_output()
        return FAILED
    print(f"error: {error}", file=sys.stderr)
    return FAILED


def _abandon_output() -> None:
    """Keep the interpreter from flushing once more what nobody reads any longer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
