"""Modules of a host that import each other: `module.Name` may not be there yet, as a name may."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MONEY = """
from __future__ import annotations
import msgspec
import shop
class Price(msgspec.Struct):
    cents: int
"""
MESSAGES = """
from __future__ import annotations
from engine import *
import money
class Sell(Command):
    id: Id
    price: money.Price
class Sold(Event, name="sold"):
    price: money.Price
"""
AGGREGATE = """
class Shop(Aggregate, kind="shop"):
    cents: int = 0
    @handles
    def sell(self, command: Sell) -> Sold:
        return Sold(command.price)
    @applies
    def sold(self, event: Sold) -> None:
        self.cents += event.price.cents
"""
ROW = """
class Sale(Row, key="id"):
    id: str
    price: money.Price
"""
TABLE = """
class Sales(Projection, name="sales", version=1):
    rows: Table[money.Price]
"""
REACTOR = """
class Sending(Reactor, name="sending", begins="now"):
    @reacts
    def sold(self, event: money.Sold, meta: Meta) -> None: ...
"""
MAIN = """
import money, shop
from shop import Sell, Sold
from engine import Aggregate, Engine, applies, handles, run
%s
async def main():
    async with Engine([Shop]) as engine:
        await engine.execute(shop.Sell("a", money.Price(3)), key="k")
        print((await engine.state(Shop, "a")).cents)
run(main)
"""


def ran(folder: Path, shop: str) -> subprocess.CompletedProcess[str]:
    for name, text in (("money", MONEY), ("shop", shop), ("app", MAIN % AGGREGATE)):
        (folder / f"{name}.py").write_text(text)
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(
        [sys.executable, "app.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_fields_of_messages_may_name_what_their_module_gets_later(tmp_path: Path) -> None:
    done = ran(tmp_path, MESSAGES)

    assert done.stdout == "3\n", done.stderr


UNFIT = {"aggregate": AGGREGATE, "row": ROW, "table": TABLE, "reactor": REACTOR}


@pytest.mark.parametrize("unfit", UNFIT)
def test_what_needs_it_at_once_says_that_modules_import_each_other(
    unfit: str, tmp_path: Path
) -> None:
    done = ran(tmp_path, MESSAGES + UNFIT[unfit])

    told = done.stderr.strip().splitlines()[-1]
    assert "DefinitionError" in told
    assert "yet. If modules import each other, put what both need into a third one" in told
