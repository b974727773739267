"""One order's past: as it is, as it was, and what is said where there is none."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from domain.__main__ import main
from domain.model.lines import Buyer, Line
from domain.model.orders import AdjustOrderItemQuantity, CancelOrder, CreateOrder, Order, ShipOrder
from domain.model.rates import Rates
from engine import Engine, Ports
from engine.testing.scenario import ManualClock
from tests.domain.holding import HOLD, ROOT
from tests.support import warm

LAMP = Line("A1", "LAMP", 4, 250)
CLOCK = Line("B2", "CLOCK, RED", 1, 1_999)


async def sell(store: str) -> None:
    """Create, adjust and ship an order, an hour between; create a second one; cancel a third."""
    clock = ManualClock(datetime(2026, 1, 31, 8, tzinfo=UTC))
    async with Engine(
        [Order], store=store, resources={Rates: Rates()}, ports=Ports(clock=clock)
    ) as engine:
        buyer = Buyer("France", "17850")
        create = CreateOrder("7", buyer, "2026-01-30T23:59:00", (LAMP, CLOCK))
        await engine.execute(create, key="7/create", principal="ann")
        clock.advance(3_600)
        await engine.execute(AdjustOrderItemQuantity("7", LAMP.id, 1_200), principal="bob")
        clock.advance(3_600)
        await engine.execute(ShipOrder("7"), key="7/ship")
        await engine.execute(CreateOrder("8", Buyer("Spain"), "2026-01-30T23:59:00", (LAMP,)))
        await engine.execute(CreateOrder("9", Buyer("Spain"), "2026-01-30T23:59:00", (LAMP,)))
        await engine.execute(CancelOrder("9", note="changed"), key="k\x1b[2J", principal="\n")


@pytest.fixture
def store(tmp_path: Path) -> str:
    made = f"sqlite:{tmp_path}/shop.db"
    asyncio.run(sell(made))
    return made


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["order", *arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


HISTORY = """\
History    recorded (UTC)       event                         by            key
{0}       1  2026-01-31 08:00:00  order-created                 ann           7/create
{1}       2  2026-01-31 09:00:00  order-item-quantity-adjusted  bob           -
{2}       3  2026-01-31 10:00:00  order-shipped                 -             7/ship
"""


def test_an_order_as_it_is(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "7", "--store", store) == (
        0,
        """\
ORDER 7

  status    shipped
  customer  17850, France
  invoiced  2026-01-30 23:59:00
  total     3,019.99
  version   3 of 3

Lines                                            quantity     price       total
  A1        LAMP                                    1,200      2.50    3,000.00
  B2        CLOCK, RED                                  1     19.99       19.99

"""
        + HISTORY.format(" ", " ", " ")
        + """
Changed by version 3
  status: created -> shipped
""",
        "",
    )


@pytest.mark.parametrize(
    "then",
    [
        ("--version", "1"),
        ("--at", "2026-01-31T08:00:00Z"),
        ("--at", "2026-01-31T08:59:59.999999"),
        ("--at", "2026-01-31T09:30+01:00"),
    ],
)
def test_an_order_as_it_was(
    store: str, capsys: pytest.CaptureFixture[str], then: tuple[str, str]
) -> None:
    status, out, err = shown(capsys, "7", "--store", store, *then)

    assert (status, err) == (0, "")
    assert out.startswith("ORDER 7, as it was at version 1\n\n  status    created\n")
    assert "\n  total     29.99\n  version   1 of 3\n" in out
    assert "\n  A1        LAMP                                        4      2.50" in out
    assert out.endswith(
        "\n"
        + HISTORY.format(">", " ", " ")
        + "\nChanged since version 1\n"
        + "  status: created -> shipped\n"
        + "  quantity of A1@250: 4 -> 1,200\n"
        + "  total: 29.99 -> 3,019.99\n"
    )


def test_before_it_existed_and_at_its_last_version(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, before, _ = shown(capsys, "7", "--store", store, "--at", "2025-01-01")
    _, last, _ = shown(capsys, "7", "--store", store, "--version", "3")

    assert before.startswith("ORDER 7, as it was at version 0\n\n  it did not exist yet\n\nHistory")
    assert before.endswith(
        "\nChanged since version 0\n"
        "  status: none -> shipped\n"
        "  country: - -> France\n"
        "  customer id: - -> 17850\n"
        "  invoiced_at: - -> 2026-01-30T23:59:00\n"
        "  line A1@250 added: 1,200 at 2.50\n"
        "  line B2@1999 added: 1 at 19.99\n"
        "  total: 0.00 -> 3,019.99\n"
    )
    assert last.endswith("\nChanged since version 3\n  nothing\n")


def test_an_order_that_was_only_created_and_one_with_strange_names(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, "8", "--store", store)[1].endswith(
        "\nChanged by version 1\n  it was created\n"
    )
    out = shown(capsys, "9", "--store", store)[1]
    assert "customer  not known, Spain" in out
    assert out.replace("\n", "").isprintable()
    assert "  \\n            k\\x1b[2J\n" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("404",), "the shop has no order 404: .*refused.*"),
        (("C7",), "C7 is the number of a return, .*"),
        (("7", "--version", "4"), "order:7 has version 3, and version 4 was asked for"),
        (("7\t",), "the id .* printable .*"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    store: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    status, out, err = shown(capsys, *arguments, "--store", store)

    assert (status, out) == (1, "")
    assert re.fullmatch(f"error: {told}\n", err)


def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, told in ((f"sqlite:{tmp_path}/none.db", "no such file"), ("memory:", "no file")):
        status, out, err = shown(capsys, "7", "--store", url)
        assert (status, out) == (1, "")
        assert re.fullmatch(f"error: .*{told}.*\n", err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("then", [("--version", "-1"), ("--at", "noon"), ("--version", "x")])
def test_wrong_arguments_are_told_with_the_usage(
    then: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["order", "7", *then])

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m domain order")


def test_it_is_shown_while_the_shop_is_at_work(store: str) -> None:
    with warm.Warm(
        [sys.executable, "-c", HOLD, store], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shop:
        assert shop.stdout is not None
        shop.stdout.readline()
        shown = warm.run(
            [sys.executable, "-m", "domain", "order", "7", "--store", store],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        shop.communicate()

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("ORDER 7\n\n  status    shipped\n")
