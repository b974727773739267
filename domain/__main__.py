"""The shop's command line: import and report, watch, look, find, crash, or make a larger file.

Rules: the report goes to the output, everything else to the error stream, and nothing that others
wrote moves a cursor on either. What a user can cause, a missing file, a locked store, is told in
one line and not by a traceback. A command is a word and a function in the table at the end; its
arguments are in `terminal/arguments.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from engine import EngineError, run
from engine.cli.output import abandon_output, own_the_terminal, run_plainly, say, show
from engine.cli.printing import plain

from .importer.expand import expand
from .importer.text_file import Unreadable
from .terminal.arguments import DONE, FAILED, INTERRUPTED, read_arguments
from .terminal.catalogue_search import lay_out_products, search_products
from .terminal.crash import CannotCrash, crash
from .terminal.import_command import import_file
from .terminal.order_past import NoSuchOrder, ask_past, lay_out_past
from .terminal.progress import Progress
from .terminal.watch import watch_shop


def main(arguments: Sequence[str]) -> int:
    """Run the command line; give the exit status."""
    return run_plainly(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    command, options = read_arguments(arguments)
    try:
        return COMMANDS[command](options)
    except BrokenPipeError:
        abandon_output()
        return FAILED  # what was asked for is not read; what was imported is
    except (Unreadable, NoSuchOrder, CannotCrash, EngineError, OSError) as error:
        print(f"error: {plain(str(error))}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nstopped; run it again to go on where it was", file=sys.stderr)
        return INTERRUPTED


def _expand(options: argparse.Namespace) -> int:
    progress = Progress("copied", sys.stderr)
    rows = expand(
        options.file, options.out, options.times, lambda copy: progress.show(copy, options.times)
    )
    progress.end()
    say(f"{options.out}: {rows:,} rows")
    return DONE


def _order(options: argparse.Namespace) -> int:
    past = run(ask_past, options.store, options.id, options.version, options.at)
    show(lay_out_past(past))
    return DONE


def _watch(options: argparse.Namespace) -> int:
    if options.file is not None:
        return import_file(options, watching=True)
    try:
        run(watch_shop, options.store)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return DONE
    except BrokenPipeError:
        abandon_output()
        return DONE
    return DONE


def _search(options: argparse.Namespace) -> int:
    found = run(search_products, options.store, options.text, options.limit, options.at, sys.stderr)
    show(lay_out_products(found))
    return DONE


COMMANDS: Final[Mapping[str, Callable[[argparse.Namespace], int]]] = {
    "import": import_file,
    "watch": _watch,
    "order": _order,
    "search": _search,
    "expand": _expand,
    "crash": crash,
}

if __name__ == "__main__":
    own_the_terminal()
    sys.exit(main(sys.argv[1:]))
