"""Load the shop with the commands of its real orders, kill it, and verify what it promised.

A process runs the engine with the shop and the clients; this one drives it, keeps the record of
every answer, and at the end reads what was left from outside: every acknowledged command's event is
there exactly once, nothing of what was refused, positions and versions have no holes, every command
has one answer, and the views are what a fresh fold gives.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from engine.errors import DefinitionError
from engine.stores.sqlite.process.store import SqliteProcessStore
from engine.stores.urls import open_url
from tests.support.postgres import Server, postgres_server, wheel_programs

from .. import machine
from .book import Book
from .child import Life
from .display import Display
from .left import Files, Left, Schema
from .lives import Ended, Lives
from .load import Load, Phase
from .record import cost_us, records_in
from .report import page, summary, write_up
from .runs import Plan, Run
from .verify import verify

POSTGRES: Final = "postgresql"
"""The store that is a server of the run's own."""
SCHEMA: Final = "shop"
GOOD, BROKEN, USAGE, INTERRUPTED = 0, 1, 2, 130

MORE = f"""\
The report is written to loadtest.html and loadtest.json in the folder. Exit status: {GOOD} every
promise held; {BROKEN} one was broken, or the engine's process ended by itself: what it has left is
kept, and its place is told; {USAGE} wrong arguments; {INTERRUPTED} stopped."""


class Kept(msgspec.Struct, frozen=True):
    """What must be known to verify once more what a run has left."""

    log: str
    views: str | None
    clients: int
    lives: int
    phases: Sequence[Phase]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; give the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.verify is not None:
        return _verify_again(parser, options.verify)
    plan = _plan(parser, options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    where, given = _folder(parser, options), _store(parser, options)
    folder = Path(tempfile.mkdtemp(prefix="loadtest-", dir=where))
    findings = ["it did not come to its end"]
    try:
        with _opened(given, folder) as place:
            findings = _run(options, plan, folder, place)
            if place.server is not None and (findings or options.keep):
                dump = place.server.run("pg_dump", *place.server.where, "-n", f"{SCHEMA}*")
                (folder / "dump.sql").write_text(dump)
    except KeyboardInterrupt:
        print("stopped: nothing was verified", file=sys.stderr)
        findings = []
        return INTERRUPTED
    finally:
        if findings or options.keep:
            again = "in dump.sql there" if options.store == POSTGRES else "look again: --verify"
            print(f"what it has left is kept, {again}: {folder}")
        else:
            shutil.rmtree(folder)
    return BROKEN if findings else GOOD


class Place(msgspec.Struct, frozen=True):
    """Where the shop of a run is."""

    store: str
    """Its URL."""
    server: Server | None = None
    """A PostgreSQL server of the run's own."""

    def left(self, kept: Kept) -> Left:
        """Give what is read of it at the end."""
        if self.server is not None:
            return Schema(self.server, SCHEMA, views=kept.views is not None)
        return _files(kept)


@contextmanager
def _opened(store: str | None, folder: Path) -> Generator[Place]:
    """Give where the shop will be: in a file, or in a server that is started for it."""
    if store != POSTGRES:
        yield Place(store or f"sqlite:{folder / 'shop.db'}")
        return
    with postgres_server(wheel_programs()) as server:
        yield Place(server.url(SCHEMA, "lease=2"), server)


def _run(options: argparse.Namespace, plan: Plan, folder: Path, place: Place) -> list[str]:
    load, book, store = Load.of_shop(options.clients), Book(), place.store
    load.save(folder / "sample.json")
    display = Display(book, sys.stderr)
    lives = Lives(
        folder,
        store,
        book,
        projections=options.projections,
        clients=options.clients,
        kill_every=options.kill_every,
        seed=options.seed,
        show=display.show,
    )
    display.lives = lives
    run = Run(plan, book, lives, display.say)
    record_us = cost_us()
    findings = _carried_out(run, lives)
    kept = _keep(folder, store, options, book, len(lives.seen))
    events, found = _verified(load, book, place.left(kept), display)
    findings += found
    if run.overload is not None:
        findings += run.overload.findings()
    report = write_up(
        book,
        lives,
        run,
        machine=machine.describe(folder),
        settings=_settings(options, plan, store),
        events=events,
        record_us=record_us,
        findings=findings,
    )
    display.say("")
    print("\n".join(summary(report)))
    _tell(findings, events)
    out = Path(options.folder)
    (out / "loadtest.html").write_text(page(report, book, lives), encoding="utf-8")
    (out / "loadtest.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return findings


def _carried_out(run: Run, lives: Lives) -> list[str]:
    try:
        run.carry_out()
    except Ended as ended:
        return [f"{ended}"]
    finally:
        lives.give_up()
    return []


def _settings(options: argparse.Namespace, plan: Plan, store: str) -> dict[str, Any]:
    return {
        **{name: value for name, value in msgspec.to_builtins(plan).items() if value is not None},
        "clients": options.clients,
        "kill_every": options.kill_every,
        "seed": options.seed,
        "store": {None: "a file of its own", POSTGRES: "a server of its own"}.get(
            options.store, store
        ),
        "durability": "fsync and synchronous_commit on"
        if options.store == POSTGRES
        else "WAL, synchronous=FULL",
        "projections": "4 attached" if options.projections else "none",
    }


# -- verifying ------------------------------------------------------------------------------------


def _keep(folder: Path, store: str, options: argparse.Namespace, book: Book, lives: int) -> Kept:
    if options.store == POSTGRES:
        log, views = "", "" if options.projections else None
    else:
        opened = open_url(store)
        log = getattr(opened, "path", "")
        views = getattr(opened, "views_path", ":memory:") if options.projections else None
    phases = [numbers.phase for numbers in book.phases]
    kept = Kept(log, views, options.clients, lives, phases)
    (folder / "run.json").write_bytes(msgspec.json.encode(kept))
    return kept


def _verified(load: Load, book: Book, left: Left, display: Display) -> tuple[int, list[str]]:
    return verify(load, book, left, display.told)


def _files(kept: Kept) -> Files:
    return Files(Path(kept.log), None if kept.views is None else Path(kept.views))


def _verify_again(parser: argparse.ArgumentParser, folder: Path) -> int:
    """Verify what a run has left."""
    try:
        kept = msgspec.json.decode((folder / "run.json").read_bytes(), type=Kept)
    except (OSError, msgspec.MsgspecError) as error:
        parser.error(f"{folder} is not what a run with --keep has left: {error}")
    if not kept.log:
        parser.error(f"the run's server is gone: {folder / 'dump.sql'} is what it has left")
    book = Book()
    for phase in kept.phases:
        book.begin(phase)
    for number in range(kept.lives):
        life = msgspec.json.decode((folder / f"life-{number}.json").read_bytes(), type=Life)
        book.ask_again({each for each in life.again if book.acknowledged(each)})
        for record in records_in(folder / f"answers-{number}"):
            book.note(record)
    display = Display(book, sys.stderr)
    load = Load.read(folder / "sample.json", kept.clients)
    events, findings = _verified(load, book, _files(kept), display)
    _tell(findings, events)
    return BROKEN if findings else GOOD


def _tell(findings: Sequence[str], events: int) -> None:
    if findings:
        print(f"BROKEN, with {events:,} events in the log:")
        print("\n".join(findings))
    else:
        print(f"verified: {events:,} events, each of one acknowledged command; nothing is wrong")


# -- the command line -----------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loadtest",
        description=__doc__,
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rate", type=_positive, help="commands a second, or the ramp's first step (1000)")
    add("--duration", type=_positive, default=30.0, help="seconds; of an overload, all its phases")
    add("--ramp", action="store_true", help="raise the rate by steps until it is not followed")
    add("--overload", action="store_true", help="ramp, then three times what was run at most")
    add("--saturation", type=_positive, help="of an overload: known already, no ramp")
    add("--step-seconds", type=_positive, default=3.0, help="of a ramp (3)")
    add("--p99-ms", type=_positive, default=100.0, help="a step of a ramp goes well below it (100)")
    add("--clients", type=_count, default=64, help="orders worked on at a time (64)")
    add("--kill-every", type=_positive, default=0.0, metavar="S", help="kill -9, by chance")
    add("--seed", type=int, default=1, help="of the moments of the kills (1)")
    add(
        "--store",
        metavar="URL",
        help="sqlite:FILE that is not there yet (a temporary one), perhaps with ?writer=process; "
        "or postgresql, whose server is started for it",
    )
    add(
        "--projections",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the shop's four views are kept up (they are)",
    )
    add("--folder", default=".", help="for the report and the temporary files: the disk (.)")
    add("--keep", action="store_true", help="keep the files of the run")
    add("--verify", type=Path, metavar="KEPT", help="only verify again what a run has left there")
    return parser


def _plan(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Plan:
    if options.ramp and options.overload:
        parser.error("--overload ramps by itself: leave --ramp out")
    if options.saturation is not None and not options.overload:
        parser.error("--saturation goes with --overload")
    if options.kill_every and (options.ramp or options.overload):
        parser.error("--kill-every goes with a steady rate: a ramp through kills measures nothing")
    return Plan(
        mode="overload" if options.overload else "ramp" if options.ramp else "steady",
        rate=options.rate or 1_000.0,
        duration=options.duration,
        step_seconds=options.step_seconds,
        p99_ms_max=options.p99_ms,
        saturation=options.saturation,
    )


def _folder(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Path:
    folder = Path(options.folder).resolve()
    if not folder.is_dir():
        parser.error(f"--folder {options.folder} is no folder")
    return folder


def _store(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str | None:
    """Give the store's URL, with a path that any process understands; None where none is given."""
    if options.store in (None, POSTGRES):
        return str(options.store) if options.store else None
    try:
        opened = open_url(options.store)
    except DefinitionError as error:
        parser.error(f"--store: {error}")
    path: str = getattr(opened, "path", "")
    if not path:
        parser.error("--store: the verification reads a file, so give sqlite:FILE or postgresql")
    if not Path(path).absolute().parent.is_dir():
        parser.error(f"--store {options.store} would be in a folder that is not there")
    if Path(path).exists():
        parser.error(f"--store {options.store} is there already, and would be filled with tests")
    writer = "process" if isinstance(opened, SqliteProcessStore) else "thread"
    return f"sqlite:{Path(path).resolve()}?writer={writer}"


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
