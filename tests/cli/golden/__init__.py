"""What the commands print for one log, whatever store it is in: `python -m tests.cli.golden`.

That writes `commands.txt` anew, from a log in SQLite; look at the difference before it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from engine import Ports
from engine.__main__ import main
from engine.stores.urls import open_backend
from engine.testing.scenario import ManualClock
from tests.outside.copied import GetCounts, boards, filled
from tests.support import warm

START: Final = datetime(2026, 1, 31, 8, 5, tzinfo=UTC)
KEPT: Final = Path(__file__).parent / "commands.txt"
LOG: Final = "LOG"
"""Stands where a command takes a log, or names it."""
JOINED: Final = (
    "select c.board, c.notes, count(*) as events from counts_rows c "
    "join log l on l.stream = 'board:' || c.board group by c.board, c.notes order by c.board"
)
COMMANDS: Final[Sequence[Sequence[str]]] = (
    ("log", LOG),
    ("log", LOG, "--limit", "3", "--payload"),
    ("log", LOG, "--last", "--limit", "2", "--json", "--payload"),
    ("log", LOG, "--stream", "board:b1", "--json"),
    ("log", LOG, "--key", "key-5"),
    ("log", LOG, "--name", "pinned", "--since", "2026-01-31T08:05:20Z"),
    ("log", LOG, "--stream", "board:none"),
    ("sql", LOG, JOINED),
    ("sql", LOG, "select position, stream, version, event, event_version from log", "--limit", "4"),
    (
        "sql",
        LOG,
        "select count(*) as n, sum(position) as s from log where stream = ?",
        "--parameter",
        "board:b2",
        "--json",
    ),
    ("sql", LOG, "select board, notes from counts_rows order by notes desc, board", "--csv"),
    ("schema", "check", "tests.outside.copied:declared", "--log", LOG),
    ("projections", "list", LOG),
    ("projections", "list", LOG, "--json"),
    ("projections", "parked", LOG, "letters"),
    ("projections", "parked", LOG, "letters", "--json"),
    ("projections", "parked", LOG, "letters", "--key", "board:b2"),
    ("projections", "decisions", LOG),
    ("projections", "decisions", LOG, "--json"),
)
TAIL: Final = ("tail", LOG, "--json", "--after", "18")
TAILED: Final = 6
"""Lines that it gives and then waits."""


async def fill(store: str) -> None:
    """Make the log, with what people decided about its projections."""
    clock = ManualClock(START)
    async with boards(store, ports=Ports(clock=clock)) as engine:
        await filled(engine, clock)
        await engine.projections.pause("counts", reason="a look, ä", principal="ann")
        clock.advance(1)
        await engine.projections.resume("counts", reason="seen")


async def fold(store: str) -> None:
    """Have the tables of a log folded that was copied there."""
    async with boards(store) as engine:
        await engine.query(GetCounts(), at=24)


def printed(store: str) -> str:
    """Give what all commands print for a log, with its name left out."""
    name = open_backend(store).name
    parts: list[str] = []
    for words in COMMANDS:
        status, out, err = _ran([store if word == LOG else word for word in words])
        shown = "".join(f"! {line}\n" for line in err.splitlines())
        parts.append(f"$ {' '.join(words)}\n{out}{shown}[{status}]\n")
    parts.append(f"$ {' '.join(TAIL)}\n{_tailed(store)}")
    return "\n".join(parts).replace(name, LOG).replace(store, LOG)


def _ran(words: Sequence[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    return status, out.getvalue(), err.getvalue()


def _tailed(store: str) -> str:
    words = [store if word == LOG else word for word in TAIL]
    process = warm.Warm([sys.executable, "-m", "engine", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(TAILED)]
    process.send_signal(signal.SIGTERM)
    lines.append(process.stdout.read())
    process.stdout.close()
    return "".join(lines) + f"[{process.wait(60)}]\n"


def write(folder: Path) -> None:
    """Write what a log in SQLite gives."""
    store = f"sqlite:{folder / 'log.db'}"
    asyncio.run(fill(store))
    KEPT.write_text(printed(store))
