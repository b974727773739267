"""Products found from the command line, beside a shop at work, as they are and as they were."""

from __future__ import annotations

import asyncio
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from domain.__main__ import main
from domain.model.orders import Order
from domain.model.rates import Rates
from domain.shop import open_shop
from engine import Engine, Ports
from engine.testing.scenario import ManualClock

from .goods import NEXT_DAY, create, heart, lantern
from .holding import ROOT

LAID_OUT = """\
Products                                             price     sold       revenue
  71053     RED LANTERN                               3.39        6         20.34
"""


async def sell(store: str) -> None:
    """Sell a red lantern, and a day later a green one under the same number."""
    clock = ManualClock(datetime(2026, 1, 31, 8, tzinfo=UTC))
    async with Engine(
        [Order], store=store, resources={Rates: Rates()}, ports=Ports(clock=clock)
    ) as engine:
        await engine.execute(create("1", lantern(description="RED LANTERN"), heart()))
        clock.advance(86_400)
        green = lantern(2, description="GREEN LAMP\x1b[2J")
        await engine.execute(create("2", green, invoiced_at=NEXT_DAY))


@pytest.fixture
def store(tmp_path: Path) -> str:
    made = f"sqlite:{tmp_path}/shop.db"
    asyncio.run(sell(made))
    return made


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["search", *arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_products_are_shown_as_they_are(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = shown(capsys, "green la", "--store", store)

    assert (status, err) == (0, "")
    assert re.search("71053 +GREEN LAMP\\\\x1b\\[2J +3.39 +8 +27.12\n", out)
    assert shown(capsys, "red lantern", "--store", store)[1] == "no product has these words\n"


def test_products_are_shown_as_they_were(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--store", store, "--at", "2026-01-31T12:00")

    assert shown(capsys, "red lantern", *at) == (0, LAID_OUT, "")
    assert shown(capsys, "green", *at)[1] == "no product has these words\n"


async def test_a_shop_at_work_is_asked_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:{tmp_path}/shop.db"
    async with open_shop(store) as engine:
        await engine.execute(create("1", lantern(description="RED LANTERN"), heart()))
        outside = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "domain", "search", "red", "--store", store),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await outside.communicate()

    assert (outside.returncode, out.decode()) == (0, LAID_OUT)


def test_only_so_many_are_shown(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    for limit in (1, 2):
        out = shown(capsys, "8 OR 7", "--store", store, "--limit", str(limit))[1]
        assert out == "no product has these words\n"
    assert len(shown(capsys, "8", "--store", store, "--limit", "1")[1].splitlines()) == 2


def test_what_cannot_be_searched_is_told_in_a_line(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = shown(capsys, "&", "--store", store)
    assert (status, out) == (1, "")
    assert re.fullmatch("error: a text to search for has a word in it.*\n", err)
    none = f"sqlite:{tmp_path}/none.db"
    status, out, err = shown(capsys, "red", "--store", none)
    assert (status, out) == (1, "")
    assert re.fullmatch("error: there is no log .*none.db: no such file\n", err)
    assert not (tmp_path / "none.db").exists()
