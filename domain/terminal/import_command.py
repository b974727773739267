"""The import as a command: the file is looked at, sent, reported; or the shop is shown meanwhile.

Rules: a file that cannot be read leaves no empty store behind. The report waits until the views
have all that the log has, for as long as they come nearer. It goes to the output; what was done,
how fast, and what to try next go to the error stream.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import ExitStack, nullcontext

from engine import Engine, ProjectionLag, ProjectionUnserved, Receipt, run
from engine.cli.output import show

from ..importer.acknowledgements import Acknowledgements
from ..importer.importer import Imported, import_invoices
from ..importer.invoices import Invoices
from ..importer.text_file import TextFile
from ..shop import ALONE, open_shop
from .account import begin, is_sample, lay_out_account, lay_out_next
from .arguments import DONE, SOME_LEFT_OUT
from .progress import Progress
from .report import Report, ask_report, lay_out
from .watch import shown

__all__ = ["import_file"]

STILLNESS_SECONDS_MAX = 30
"""How long the report waits for views that do not move."""


def import_file(options: argparse.Namespace, *, watching: bool = False) -> int:
    """Import `options.file` and print the report; give the exit status."""
    with ExitStack() as stack:
        # A file that cannot be read leaves no empty store behind, so it is read first.
        invoices = Invoices(stack.enter_context(TextFile(options.file)), options.dates)
        _look(invoices, quiet=watching)
        acks = None
        if options.acks is not None:
            acks = stack.enter_context(Acknowledgements(options.acks))
        imported, report = run(import_and_ask, options.store, invoices, acks, watching)
    _tell_dates(invoices, options.dates)
    show(lay_out(report, imported, invoices))
    show(lay_out_account(imported, invoices, options.store), sys.stderr)
    if is_sample(invoices):
        show(lay_out_next(options.store), sys.stderr)
    left_out = invoices.malformed.count or invoices.waiting.count
    return SOME_LEFT_OUT if left_out or imported.differs else DONE


def _look(invoices: Invoices, *, quiet: bool) -> None:
    """Look at the file before anything of it is sent, or a store is made."""
    file, progress = invoices.file, Progress("looked at", sys.stderr)
    try:
        invoices.look(None if quiet else lambda: progress.show(file.bytes_read, file.bytes_total))
    finally:
        progress.end()


def _tell_dates(invoices: Invoices, said: str | None) -> None:
    """Say how the dates were read, where that is not as the sample has them."""
    if said is not None or not invoices.rows or invoices.dates == "month-first":
        return
    if invoices.dates == "day-first":
        text = "the dates of this file were read with the day first, since some have no other"
    else:
        text = "no date of this file tells days from months: it was read with the month first"
    print(f"{text} (--dates says which)", file=sys.stderr)


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

    async with open_shop(store, ALONE) as engine:
        if not watching:
            print(begin(file.path.name, store), file=sys.stderr)
        try:
            async with shown(engine, store, doing) if watching else nullcontext():
                imported = await import_invoices(engine, invoices, acknowledged)
        finally:
            progress.end()
        # All that the log has is in the report, also what was there before.
        return imported, await _ask_patiently(engine, engine.statistics().position)


def _built(engine: Engine) -> dict[str, int]:
    """Give how far each view is that is being built."""
    numbers = engine.statistics().projectors
    return {name: n.building.position for name, n in numbers.items() if n.building is not None}


async def _ask_patiently(engine: Engine, at: int) -> Report:
    """Ask until the views are there, as long as they come nearer."""
    behind: dict[str, int] = {}
    stillness_seconds = 0
    progress = Progress("reports", sys.stderr)
    try:
        while True:
            try:
                return await ask_report(engine, at, timeout=1)
            except TimeoutError:
                # They are there, and reading them took longer, as on a machine that is busy.
                stillness_seconds += 1
                if stillness_seconds == STILLNESS_SECONDS_MAX:
                    raise
            except ProjectionLag as lag:
                stillness_seconds = stillness_seconds + 1 if lag.behind == behind else 0
                if stillness_seconds == STILLNESS_SECONDS_MAX:
                    raise
                behind = lag.behind
                progress.show(min(behind.values()), lag.wanted)
            except ProjectionUnserved:
                # A former release's views have other tables, and are being built anew.
                builds = _built(engine)
                stillness_seconds = stillness_seconds + 1 if builds == behind else 0
                if stillness_seconds == STILLNESS_SECONDS_MAX:
                    raise
                behind = builds
                await asyncio.sleep(1)
    finally:
        progress.end()
