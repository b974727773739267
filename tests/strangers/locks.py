"""Rounds of strangers beside an engine: they read, copy and ask, it folds, ends or is killed.

Rules: each round is one engine in a process of its own, with one writer or the other, before or
after a fold of its write-ahead log. While it writes, strangers in processes of their own, and with
another SQLite than the engine's, come one after the other; at the end it closes or dies by
`kill -9`. Then what it had acknowledged must be there, the file whole, and the write-ahead log must
not have gone while it was at work. What a round does follows from its number.
"""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

from tests.support import warm

READ = """
import sqlite3, sys
with_ = sqlite3.connect(sys.argv[1], timeout=30)
print(with_.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
with_.close()
"""
BACKUP = """
import sqlite3, sys
one, other = sqlite3.connect(sys.argv[1], timeout=30), sqlite3.connect(":memory:")
one.backup(other)
print(other.execute("PRAGMA integrity_check").fetchone()[0])
one.close()
"""
MODE = """
import sqlite3, sys
with_ = sqlite3.connect(sys.argv[1], timeout=30)
for mode in ("", "=wal", "=delete"):
    try:
        print(with_.execute(f"PRAGMA journal_mode{mode}").fetchone()[0])
    except sqlite3.OperationalError as error:
        print(error)
with_.close()
"""
COPY = """
import shutil, sys
shutil.copyfile(sys.argv[1], sys.argv[1] + ".copy")
"""
HOLD = """
import sqlite3, sys
with_ = sqlite3.connect(sys.argv[1], timeout=30)
rows = with_.execute("SELECT name FROM sqlite_schema")
rows.fetchone()
with_.execute("BEGIN")
with_.execute("SELECT count(*) FROM sqlite_schema").fetchone()
with_.close()
"""
STRANGERS = {"read": READ, "backup": BACKUP, "journal_mode": MODE, "copy": COPY, "hold": HOLD}
OURS = ("log", "projections list", "sql")
WRITERS = ("thread", "process")
PER_ROUND = 4
LOOKS = 5


def locks_on(path: Path) -> int:
    """Count the kernel's POSIX locks on a file.

    It gives its list in pieces, between which others come and go: a lock that is held all the time
    may be passed over by one look, and one that is lost is seen by none.
    """
    number = f":{path.stat().st_ino} "
    looks = [Path("/proc/locks").read_text().splitlines() for _ in range(LOOKS)]
    return max(sum("POSIX" in line and number in line for line in lines) for lines in looks)


def run(*arguments: str) -> str:
    """Run Python to its end; give what it has said."""
    run_it = warm.run if arguments[0] == "-m" else subprocess.run
    done = run_it([sys.executable, *arguments], capture_output=True, text=True, timeout=120)
    return f"{done.stdout}{done.stderr}"


def meet(name: str, path: Path) -> None:
    """Let one stranger come and go."""
    if name in STRANGERS:
        run("-I", "-S", "-c", STRANGERS[name], str(path))
        return
    log = str(path).replace(".views.db", ".db")
    more = ["SELECT count(*) FROM events"] if name == "sql" else []
    run("-m", "engine", *name.split(), log, *more)


class Life:
    """An engine that writes, in a process of its own."""

    def __init__(self, path: Path, writer: str, folds: int) -> None:
        store = f"sqlite:{path}?writer={writer}"
        self.path = path
        self._errors = path.with_name("errors")
        with self._errors.open("wb") as errors:
            self.process = warm.Warm(
                [sys.executable, "-m", "tests.strangers.writing", store, str(folds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.acknowledged = 0

    def hear(self, count: int = 1) -> bool:
        """Take the next numbers that it says; tell whether it goes on."""
        assert self.process.stdout is not None
        for _ in range(count):
            line = self.process.stdout.readline()
            if not line:
                return False
            self.acknowledged = int(line)
        return True

    def end(self, *, killed: bool) -> int:
        """End it; give its status, with all heard that it has said."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        if killed:
            self.process.send_signal(signal.SIGKILL)
        else:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.acknowledged = int(line)
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(60)

    def errors(self) -> str:
        """Give the last of what it has said on its error stream."""
        return self._errors.read_text(errors="replace")[-500:]


def run_round(number: int, folder: Path) -> list[str]:
    """Live through one round; give what was broken."""
    random = Random(number)
    path = folder / "shop.db"
    writer, folds = WRITERS[number % 2], number // 2 % 2
    killed = random.random() < 0.5
    life = Life(path, writer, folds)
    problems: list[str] = []
    names = [random.choice((*STRANGERS, *OURS)) for _ in range(PER_ROUND)]
    if not life.hear():
        problems.append(f"it did not begin: {life.errors()}")
    problems += list(_visits(life, names, random))
    status = life.end(killed=killed)
    if not killed and status:
        problems.append(f"it ended with status {status}: {life.errors()}")
    problems += _found(path, life.acknowledged)
    return [f"round {number}, {writer}, folds={folds}, {names}: {what}" for what in problems]


def _visits(life: Life, names: list[str], random: Random) -> Iterator[str]:
    views = life.path.with_name("shop.views.db")
    for name in names:
        meet(name, random.choice((life.path, life.path, views)))
        if not life.hear(3):
            yield f"it ended after {name}: {life.errors()}"
            return
        for path in (life.path, views):
            if not locks_on(path):
                yield f"no lock is left on {path.name} after {name}"
            if not Path(f"{path}-wal").exists():
                yield f"{path.name}-wal is gone after {name}"


def _found(path: Path, acknowledged: int) -> Iterator[str]:
    """Look at the files with another SQLite."""
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        kept = connection.execute("SELECT count(*), max(position) FROM events").fetchone()
        whole = connection.execute("PRAGMA integrity_check").fetchone()[0]
    if kept[0] != kept[1] or kept[0] < acknowledged:
        yield f"{acknowledged} were acknowledged, and {kept} are there"
    if whole != "ok":
        yield whole


def run_rounds(numbers: range) -> int:
    """Run rounds, and print what was broken; give how many broke something."""
    bad = 0
    for number in numbers:
        folder = Path(tempfile.mkdtemp(prefix="strangers-"))
        try:
            problems = run_round(number, folder)
        finally:
            shutil.rmtree(folder)
        for problem in problems:
            print(problem, flush=True)
        bad += bool(problems)
    print(f"{len(numbers)} rounds, {bad} bad")
    return bad
