"""The load test, whole: real processes, kills and files, and planted bugs that it must find."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.mutants.__main__ import load

ROOT = Path(__file__).parents[2]
KILLED = ("--rate", "400", "--duration", "2", "--kill-every", "0.7")


def run(folder: Path, *arguments: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.loadtest", "--folder", str(folder), *arguments]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, env={"PYTHONPATH": str(root)}
    )


def kept_in(folder: Path) -> Path:
    (kept,) = folder.glob("loadtest-*/")
    return kept


def test_a_run_with_kills_holds_what_was_promised_and_a_tampered_log_does_not(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, *KILLED, "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is wrong" in done.stdout
    report = json.loads((tmp_path / "loadtest.json").read_text())
    answers = report["answers"]
    assert sum(answers.values()) == 800
    assert answers["overloaded"] == answers["other"] == 0
    assert answers["receipt"] == report["events"]
    assert answers["rejected"] > 0
    assert len(report["kills"]) >= 1
    assert report["findings"] == []
    assert sum(quarter["answered"] for quarter in report["quarters"]) == 800
    page = (tmp_path / "loadtest.html").read_text()
    assert page.count("<svg") == 5
    assert page.count('class="mark"') == 4 * len(report["kills"])

    kept = kept_in(tmp_path)
    again = run(tmp_path, "--verify", str(kept))
    assert (again.returncode, "nothing is wrong" in again.stdout) == (0, True)

    with closing(sqlite3.connect(kept / "shop.db")) as connection:
        connection.execute("DROP TRIGGER events_never_go")
        connection.execute("DELETE FROM events WHERE position = (SELECT max(position) FROM events)")
        connection.commit()
    tampered = run(tmp_path, "--verify", str(kept))
    assert tampered.returncode == 1
    assert "P1: acknowledged commands are not in the log: 1" in tampered.stdout
    assert "P9: views do not stand at the log's end: 4" in tampered.stdout


def test_a_run_with_kills_holds_it_too_where_a_process_of_its_own_writes_the_log(
    tmp_path: Path,
) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}?writer=process"

    done = run(tmp_path, *KILLED, "--store", store)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is wrong" in done.stdout
    report = json.loads((tmp_path / "loadtest.json").read_text())
    assert sum(report["answers"].values()) == 800
    assert len(report["kills"]) >= 1
    assert report["settings"]["store"].endswith("?writer=process")


def test_a_run_without_views_and_without_kills_leaves_only_the_report(tmp_path: Path) -> None:
    done = run(tmp_path, "--rate", "300", "--duration", "0.5", "--no-projections")

    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loadtest.html", "loadtest.json"]
    assert json.loads((tmp_path / "loadtest.json").read_text())["kills"] == []


def test_a_ramp_goes_on_until_a_step_is_missed_twice(tmp_path: Path) -> None:
    done = run(tmp_path, "--ramp", "--rate", "6000", "--step-seconds", "0.2", "--clients", "16")

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "loadtest.json").read_text())
    followed = [step["followed"] for step in report["steps"]]
    rates = [step["rate"] for step in report["steps"]]
    assert followed[-2:] == [False, False]
    assert rates[-1] == rates[-2]
    assert rates[0] == 6_000
    assert report["saturation"] == max(step["throughput"] for step in report["steps"])


def test_an_engine_that_does_not_start_is_told_and_nothing_passes_for_good(tmp_path: Path) -> None:
    with (tmp_path / "shop.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store = f"sqlite:{tmp_path / 'shop.db'}"
        done = run(tmp_path, "--store", store, "--rate", "10", "--duration", "1")

    assert done.returncode == 1
    assert "the engine's process ended by itself" in done.stdout
    assert "StoreLocked" in done.stdout
    assert "P12: the files cannot be read" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ramp", "--kill-every", "1"), "--kill-every goes with a steady rate"),
        (("--ramp", "--overload"), "leave --ramp out"),
        (("--saturation", "5"), "--saturation goes with --overload"),
        (("--store", "memory:"), "give sqlite:FILE"),
        (("--store", "oracle:x"), "none that this release knows"),
        (("--store", "postgres:x"), "it is no URL of a server"),
        (("--store", "postgresql://a@127.0.0.1/b"), "give sqlite:FILE or postgresql"),
        (("--store", f"sqlite:{__file__}"), "is there already"),
        (("--store", "sqlite:no/where.db"), "in a folder that is not there"),
        (("--rate", "0"), "is not a number above 0"),
        (("--rate", "nan"), "is not a number above 0"),
        (("--clients", "none"), "is not a whole number of at least 1"),
        (("--folder", "nowhere"), "is no folder"),
        (("--verify", "nowhere"), "is not what a run with --keep has left"),
    ],
)
def test_wrong_usage_is_told_and_leaves_nothing(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run(tmp_path, *arguments)

    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "found"),
    [
        ("answer-before-commit", "P8: receipts name another place than the log"),
        (
            "key-forgotten-by-replay",
            "P8: commands were run twice|P6: what was refused is",
        ),
        ("mailbox-last-first", "P5: commands of an order were not decided one after the other"),
        ("checkpoint-outside-the-transaction", "P9: views do not stand at the log's end"),
    ],
)
def test_a_planted_bug_is_found(tmp_path: Path, mutant: str, found: str) -> None:
    planted = load([mutant])[mutant]
    for name in ("engine", "domain", "benchmarks", "tests/support"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "tests/__init__.py", tmp_path / "tests")
    path = tmp_path / planted.file
    path.write_text(path.read_text().replace(planted.old, planted.new))
    (tmp_path / "out").mkdir()
    arguments = ("--rate", "800", "--duration", "5", "--kill-every", "0.8")
    done = run(tmp_path / "out", *arguments, root=tmp_path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(found, done.stdout)  # what shows first depends on where the kills fall
