"""The arguments of the shop's command line: which commands there are, and how each is read.

Rules: a wrong argument is told with the usage, before any file is opened. A word that is neither a
command nor a file is taken for a command that was mistyped. What must be text is text, what counts
fits 64 bits. Nothing is run here.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from engine.cli.options import instant, some, whole
from engine.cli.printing import is_text, plain

from ..importer.invoices import SAMPLE

__all__ = ["DONE", "FAILED", "INTERRUPTED", "SOME_LEFT_OUT", "USAGE", "read_arguments"]

DONE, FAILED, USAGE, SOME_LEFT_OUT, INTERRUPTED = 0, 1, 2, 3, 130

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
  python -m domain crash --help       see that kill -9 loses nothing and doubles nothing
  python -m domain.web --help         serve the shop as a web application

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


CRASH_HELP = """\
See that kill -9 loses nothing and doubles nothing. A process imports a file, and is killed in the
middle, at a moment that the seed chooses; the next one goes on with the same store, and is killed
as well. After each kill the log is compared with what was acknowledged, and in the end the report
with that of an import that nobody killed. All of it happens in a folder of its own, which is
removed."""

CRASH_MORE = f"""\
exit status: {DONE} nothing was lost or doubled, and the reports are the same; {FAILED} something
was, or it could not be tried: the reason is on the error stream; {USAGE} wrong arguments"""

KILLS_MAX: Final = 100


def _import_parser() -> argparse.ArgumentParser:
    parser = _parser("", IMPORT_HELP, IMPORT_MORE)
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=SAMPLE,
        metavar="FILE",
        help="a .csv or .csv.gz file like the sample, which is imported if none is given",
    )
    _add_store(parser, "where the shop keeps its log: sqlite:FILE, or memory:")
    _add_dates(parser)
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
    parser.add_argument("--times", type=some, required=True, metavar="N", help="how many copies")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="gzipped if the name ends in .gz",
    )
    return parser


def _watch_parser() -> argparse.ArgumentParser:
    parser = _parser(" watch", WATCH_HELP, WATCH_MORE)
    _add_store(parser, "where the shop keeps its log: sqlite:FILE")
    parser.add_argument(
        "--import",
        dest="file",
        nargs="?",
        type=Path,
        const=SAMPLE,
        metavar="FILE",
        help="import this file meanwhile, or the sample, in this process",
    )
    _add_dates(parser)
    parser.set_defaults(acks=None)
    return parser


def _parser(command: str, description: str, more: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python -m domain{command}",
        description=description,
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_store(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--store",
        type=_text,
        default="sqlite:shop.db",
        metavar="URL",
        help=f"{what} (default: %(default)s)",
    )


def _order_parser() -> argparse.ArgumentParser:
    parser = _parser(" order", ORDER_HELP, ORDER_MORE)
    parser.add_argument("id", type=_text, metavar="ID", help="the order's number, as 536365")
    _add_store(parser, "the shop's log")
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--version", type=whole, metavar="N", help="as it was at this version")
    then.add_argument(
        "--at",
        type=instant,
        metavar="TIME",
        help="as it was at this time, ISO 8601, and UTC where it has no zone",
    )
    return parser


def _search_parser() -> argparse.ArgumentParser:
    parser = _parser(" search", SEARCH_HELP, SEARCH_MORE)
    parser.add_argument("text", type=_text, metavar="WORDS", help='words, as "red lantern"')
    _add_store(parser, "the shop's log")
    parser.add_argument(
        "--limit",
        type=some,
        default=20,
        metavar="N",
        help="most products (default: %(default)s)",
    )
    parser.add_argument(
        "--at",
        type=instant,
        metavar="TIME",
        help="as the catalogue was at this time, ISO 8601, and UTC where it has no zone",
    )
    return parser


def _crash_parser() -> argparse.ArgumentParser:
    parser = _parser(" crash", CRASH_HELP, CRASH_MORE)
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=SAMPLE,
        metavar="FILE",
        help="a .csv or .csv.gz file like the sample, which is imported if none is given",
    )
    parser.add_argument(
        "--kills",
        type=_kills,
        default=5,
        metavar="N",
        help=f"how often, from 1 to {KILLS_MAX} (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=whole,
        metavar="N",
        help="chooses the moments; a new one is taken and told if none is given",
    )
    return parser


PARSERS: Final[dict[str, Callable[[], argparse.ArgumentParser]]] = {
    "watch": _watch_parser,
    "order": _order_parser,
    "search": _search_parser,
    "expand": _expand_parser,
    "crash": _crash_parser,
    "import": _import_parser,
}
"""By the word that a command begins with; an import may have none."""


def read_arguments(arguments: Sequence[str]) -> tuple[str, argparse.Namespace]:
    """Give the command ("import" where none is named) and its arguments; exit on a wrong one."""
    command = arguments[0] if arguments else ""
    if command in PARSERS:
        return command, PARSERS[command]().parse_args(arguments[1:])
    parser = _import_parser()
    if command and not command.startswith("-"):
        # Before its options are read, which would be another command's.
        _refuse_mistyped(parser, Path(command))
    options = parser.parse_args(arguments)
    _refuse_mistyped(parser, options.file)
    return "import", options


def _refuse_mistyped(parser: argparse.ArgumentParser, file: Path) -> None:
    """Refuse a word that is no file, and looks like a command."""
    word = str(file)
    if word in PARSERS and not file.exists():
        parser.error(f"{word} is a command: it stands first, before its options")
    if file.suffix or len(file.parts) != 1 or file.exists():
        return
    near = difflib.get_close_matches(word.lower(), PARSERS, n=1)
    meant = f": did you mean {near[0]}?" if near else ""
    parser.error(f"{plain(word)} is no command ({', '.join(PARSERS)}) and no file{meant}")


def _kills(argument: str) -> int:
    kills = some(argument)
    if kills > KILLS_MAX:
        raise argparse.ArgumentTypeError(f"{kills} is above {KILLS_MAX}")
    return kills


def _text(argument: str) -> str:
    if not is_text(argument):
        raise argparse.ArgumentTypeError(f"{plain(argument)} is not UTF-8")
    return argument


def _add_dates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dates",
        choices=("month-first", "day-first"),
        help="what 5/12/10 means in the file: default is the month first, and a file in which a "
        "date can be read only with the day first is not imported",
    )
