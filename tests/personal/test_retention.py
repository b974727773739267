"""Rules of retention: who is erased, who stays, what is archived, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import (
    ERASED,
    DefinitionError,
    Retention,
)
from engine.__main__ import main
from tests.personal.stays import (
    DAY,
    Arrive,
    Leave,
    Left,
    Stay,
    opened,
    stays,
)


async def names(path: Path) -> list[str]:
    async with opened(path) as engine:
        return [(await engine.state(Stay, str(n))).name for n in range(1, 7)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    asyncio.run(stays(tmp_path / "hotel.db"))
    return tmp_path / "hotel.db"


def told(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[object]]:
    status = main(["retention", *map(str, arguments), "--json"])
    return status, [json.loads(line) for line in capfd.readouterr().out.splitlines()]


ALL = ["ann Canary", "bob Canary", "cem Canary", "ann Canary", "bob Canary", "dan Canary"]
RULE = "stay closed by left"
ANN = {
    "action": "erase",
    "subject": "ann",
    "streams": 2,
    "reason": f"retention: {RULE}, 365 days",
}


def test_who_is_due_everywhere_is_erased_and_what_is_due_is_archived(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rules = "tests.personal.stays:RULES"
    before = path.read_bytes()
    status, lines = told(capfd, path, rules, "--dry-run")
    assert status == 0
    archive = {"action": "archive", "rule": RULE, "streams": 5, "events": 10, "done": False}
    assert lines[0] == {**ANN, "done": False}
    assert archive.items() <= dict(lines[1]).items()  # type: ignore[call-overload]
    assert path.read_bytes() == before
    assert asyncio.run(names(path)) == ALL, "it was only shown"

    status, lines = told(capfd, path, rules)
    assert status == 3, "views lose her when an engine has started"
    assert lines[0] == {**ANN, "done": True}
    assert asyncio.run(names(path)) == [
        ERASED if name.startswith("ann") else name for name in ALL
    ], "bob came back, cem has an open case, dan is here"
    assert main(["personal", "list", str(path), "--json"]) == 0
    (kept,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (kept["subject"], kept["reason"]) == ("ann", ANN["reason"])
    assert kept["principal"] == "retention"
    assert kept["finished"]
    sql = "SELECT rule, streams, events FROM archives"
    assert main(["sql", str(path), sql, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"rule": RULE, "streams": 5, "events": 10}
    assert not any(b"ann Canary" in file.read_bytes() for file in path.parent.iterdir())

    status, lines = told(capfd, path, rules)
    assert (status, len(lines)) == (0, 1), "nobody is erased twice"
    assert main(["verify", str(path)]) == 0


async def left_long_ago(path: Path) -> None:
    async with opened(path, 500) as engine:
        await engine.execute(Arrive("1", "ann", "ann Canary"))
        await engine.execute(Leave("1"))


def test_nobody_is_erased_by_a_clock_far_ahead_of_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whose clock began in another year lost the key of everybody who had left."""
    path = tmp_path / "hotel.db"
    asyncio.run(left_long_ago(path))
    for more in ([], ["--dry-run"]):
        assert main(["retention", str(path), "tests.personal.stays:RULES", *more]) == 1
        out, err = capfd.readouterr()
        assert (out, "more than 30 days before" in err) == ("", True)
    assert main(["personal", "list", str(path), "--json"]) == 0
    assert capfd.readouterr().out == "", "nobody was erased"
    assert told(capfd, path, "tests.personal.stays:ARCHIVES", "--dry-run")[0] == 0, (
        "which comes back"
    )

    status, lines = told(capfd, path, "tests.personal.stays:RULES", "--at-rest")
    assert (status, lines[0]) == (3, {**ANN, "streams": 1, "done": True})


def test_a_run_whose_output_nobody_reads_is_made_to_its_end(path: Path) -> None:
    """It ended behind the first person whom it told of, with the status of what is done."""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [
            sys.executable,
            "-u",
            "-m",
            "engine",
            "retention",
            str(path),
            "tests.personal.stays:RULES",
        ],
        cwd=Path(__file__).parents[2],
        stdout=writing,
        timeout=60,
    )
    os.close(writing)
    assert ended.returncode == 3
    with sqlite3.connect(path) as log:
        assert log.execute("SELECT events FROM archives").fetchall() == [(10,)]
    log.close()


def test_rules_are_not_run_beside_an_engine_nor_without_what_they_need(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    holding = (
        "import sys\nfrom engine.stores.sqlite.system_files import SystemFiles\n"
        "lock = SystemFiles().lock(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, f"{path}.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert told(capfd, path, "tests.personal.stays:RULES") == (1, [])
        holder.communicate()
    assert asyncio.run(names(path)) == ALL
    assert told(capfd, path, "tests.personal.stays:NOTHING") == (1, [])
    assert told(capfd, "postgresql://ann@db.example/bank", "tests.personal.stays:RULES") == (1, [])
    keys = tmp_path / "hotel.keys.db"
    keys.rename(tmp_path / "elsewhere.db")
    assert told(capfd, path, "tests.personal.stays:RULES") == (1, [])
    assert not keys.exists()
    assert told(capfd, path, "tests.personal.stays:ARCHIVES")[0] == 0, "which needs no keys"
    elsewhere = f"sqlite:{tmp_path}/elsewhere.db"
    assert told(capfd, path, "tests.personal.stays:RULES", "--keys", elsewhere)[0] == 3


def test_a_rule_that_says_nothing_is_refused() -> None:
    wrong: list[Callable[[], Retention]] = [
        lambda: Retention(Stay, []),
        lambda: Retention(Stay, [Left]),
        lambda: Retention(Stay, [Left], erase_after=-DAY),
        lambda: Retention(Stay, ["left"], erase_after=DAY),  # type: ignore[list-item]
        lambda: Retention(Left, [Left], erase_after=DAY),  # type: ignore[arg-type]
        lambda: Retention("stay", [Left], erase_after=DAY),  # type: ignore[arg-type]
        lambda: Retention(Stay, [Left], erase_after=30),  # type: ignore[arg-type]
    ]
    for rule in wrong:
        with pytest.raises(DefinitionError, match="Retention "):
            rule()
