"""kill -9 in the middle of an import, again and again: nothing acknowledged is lost or doubled.

`tests/crashes` kills at each step of a small life; this one kills a large one, by the shop's own
importer, which goes on where it was by the keys of its commands.

Each life of the importer is a process of its own on the same store and is killed after so many
acknowledgements, some while it still repeats what earlier lives did. Its acknowledgements are read
through a pipe, so that the moment of the kill depends on nothing but their number. The log is then
read from outside, with Python's own sqlite3.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from domain.importer.expand import expand
from domain.importer.invoices import SAMPLE
from tests.support import warm

ROOT = Path(__file__).parents[2]
TIMES = 10
EXECUTED = 2_970 * TIMES
"""Commands that the rules accept, one event each."""
SEEDS = (20101201, 20101202, 20101203, 20101205, 20101206)


def kills() -> list[int]:
    """Give the acknowledgements after which each life is killed: further and further, by chance."""
    step = EXECUTED // (len(SEEDS) + 1)
    later = [n * step + Random(seed).randrange(step) for n, seed in enumerate(SEEDS)]
    # Some lives get no further than an earlier one: they are killed while they repeat.
    return [1, *later[:3], 700, *later[3:], later[-2]]


def start(file: Path, store: Path, acks: str, *pass_fds: int) -> subprocess.Popen[str]:
    return warm.Warm(
        [sys.executable, "-m", "domain", str(file), "--store", f"sqlite:{store}", "--acks", acks],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )


def live(file: Path, store: Path, acknowledged: dict[str, int], kill_after: int) -> None:
    """Run one life until it is killed, and add what it acknowledged."""
    reading, writing = os.pipe()
    with start(file, store, f"/dev/fd/{writing}", writing) as process:
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as acks:
            for count, line in enumerate(acks, start=1):
                note(line, acknowledged)
                if count == kill_after:
                    process.kill()
        _, told = process.communicate()
    assert process.returncode == -9, f"it ended before it was killed: {told}"


def note(line: str, acknowledged: dict[str, int]) -> None:
    key, _, position = line.removesuffix("\n").partition("\t")
    first = acknowledged.setdefault(key, int(position))
    assert first == int(position), f"{key} was acknowledged at two positions"


def keys_of(store: Path) -> dict[str, list[int]]:
    """Read the log from outside: the positions of each key."""
    found: dict[str, list[int]] = {}
    with closing(sqlite3.connect(store)) as connection:
        for position, metadata in connection.execute("select position, metadata from log"):
            found.setdefault(json.loads(metadata)["key"], []).append(position)
    return found


def finish(file: Path, store: Path, acks: Path) -> str:
    """Run a life to its end; give its report."""
    with start(file, store, str(acks)) as process:
        report, told = process.communicate()
    assert process.returncode == 0, told
    return report


@pytest.mark.slow
def test_an_import_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    # It takes minutes by its nature, longer than the watch that is kept over other tests.
    faulthandler.dump_traceback_later(1_200, exit=True)
    file = tmp_path / "large.csv"
    expand(SAMPLE, file, TIMES)
    killed, unharmed = tmp_path / "killed.db", tmp_path / "unharmed.db"
    acknowledged: dict[str, int] = {}

    for kill_after in kills():
        live(file, killed, acknowledged, kill_after)
        in_log = keys_of(killed)
        assert {k: [p] for k, p in acknowledged.items()}.items() <= in_log.items()
        assert len(in_log) < EXECUTED, "it was killed in a partial state"
    report = finish(file, killed, tmp_path / "killed.acks")
    for line in (tmp_path / "killed.acks").read_text().splitlines():
        note(line, acknowledged)

    assert {k: [p] for k, p in acknowledged.items()} == keys_of(killed)
    assert len(acknowledged) == EXECUTED
    assert sorted(acknowledged.values()) == list(range(1, EXECUTED + 1))
    assert report == finish(file, unharmed, tmp_path / "unharmed.acks")
    assert f"{1_051 * TIMES:,} orders" in report


def test_a_file_of_acknowledgements_loses_at_most_a_torn_last_line(tmp_path: Path) -> None:
    file, store, acks = tmp_path / "one.csv", tmp_path / "shop.db", tmp_path / "acks"
    expand(SAMPLE, file, 1)
    with start(file, store, str(acks)) as process:
        assert process.stderr is not None
        for told in process.stderr:
            if told == "imported 50 %\n":
                process.kill()
    lines = acks.read_text().split("\n")
    in_log = keys_of(store)

    assert len(lines) > 100
    for line in lines[:-1]:
        key, _, position = line.partition("\t")
        assert in_log[key] == [int(position)]
