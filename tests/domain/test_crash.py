"""`python -m domain crash`: real kills, and what it says of a log that is not what was promised."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from domain.importer.importer import import_invoices
from domain.importer.invoices import SAMPLE, Invoices
from domain.importer.proof import Found
from domain.importer.text_file import TextFile
from domain.shop import open_shop
from domain.terminal.crash import CannotCrash, look, moments, note

ROOT = Path(__file__).parents[2]
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def crash(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "domain", "crash", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_an_import_is_killed_and_proves_the_same_report() -> None:
    done = crash("--kills", "2", "--seed", "7")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seed 7 ")
    assert len(re.findall("kill -9 after .* lost: 0 +doubled: 0\n", done.stdout)) == 2
    assert len(re.findall("ran to its end: .*log: 2,970 .*lost: 0 +doubled: 0", done.stdout)) == 1
    assert "1,051 orders         540,161.30\n" in done.stdout
    assert "is the same, byte for byte" in done.stdout


def test_the_moments_are_of_the_seed_and_in_the_middle() -> None:
    assert moments(2_970, 5, 7) == moments(2_970, 5, 7) != moments(2_970, 5, 8)
    for seed in range(50):
        chosen = moments(2_970, 5, seed)
        assert chosen == sorted(chosen)
        assert 1 <= chosen[0] < chosen[-1] <= 2_970 * 3 // 4
    with pytest.raises(CannotCrash, match="3 commands are too few to be killed 5 times"):
        moments(3, 5, 7)


def test_a_file_that_is_too_short_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "short.csv"
    file.write_text(HEADER)
    done = crash(str(file))

    assert done.returncode == 1
    assert done.stderr == "error: 0 commands are too few to be killed 5 times\n"


async def test_what_was_acknowledged_and_is_not_in_the_log_is_lost(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/shop.db"
    told: dict[str, int] = {}
    async with open_shop(store) as shop:
        with TextFile(SAMPLE) as file:
            await import_invoices(shop, Invoices(file), lambda k, r: told.update({k: r.position}))

    assert await look(store, told) == Found(2_970, 2_970, 0, 0)
    told["536365/create"] += 1
    assert await look(store, {**told, "none/create": 7}) == Found(2_971, 2_970, 2, 0)


def test_a_command_that_is_acknowledged_elsewhere_later_is_counted() -> None:
    told = {"a": 1, "b": 2}

    assert note(told, {"b": 2, "c": 3}) == 0
    assert note(told, {"b": 4, "c": 3}) == 1
