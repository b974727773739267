"""The account of an import: every command is in one column, and every column adds up."""

from __future__ import annotations

import asyncio

import pytest

from domain.importer.importer import Imported, Outcomes, import_invoices
from domain.importer.invoices import SAMPLE, Invoices
from domain.importer.text_file import TextFile
from domain.shop import open_shop
from domain.terminal.account import begin, lay_out_account, lay_out_next
from tests.support.terminals import as_text


def table(text: str) -> dict[str, list[int]]:
    """Read the figures of each command's row."""
    lines = [line.split() for line in text.splitlines() if line.startswith("  ")]
    return {
        name: [int(figure.replace(",", "")) for figure in figures]
        for name, *figures in lines
        if len(figures) == 4 and figures[0][0].isdigit()
    }


@pytest.fixture(scope="module")
def accounts() -> list[str]:
    """Import the sample twice; give what was said each time."""

    async def account() -> list[str]:
        texts = []
        async with open_shop() as shop:
            for _ in range(2):
                with TextFile(SAMPLE) as file:
                    invoices = Invoices(file)
                    imported = await import_invoices(shop, invoices)
                    texts.append(as_text(lay_out_account(imported, invoices, "sqlite:shop.db")))
        return texts

    return asyncio.run(account())


def test_every_command_of_the_sample_is_in_a_sum_that_adds_up(accounts: list[str]) -> None:
    first, again = (table(text) for text in accounts)

    assert first.pop("all") == [3_104, 2_970, 0, 134]
    assert [sum(column) for column in zip(*first.values(), strict=True)] == [3_104, 2_970, 0, 134]
    for sent, executed, repeated, refused in (*first.values(), *again.values()):
        assert sent == executed + repeated + refused
    assert again["all"] == [3_104, 0, 2_970, 134]


def test_the_refused_commands_are_told_by_their_codes_and_what_those_mean(
    accounts: list[str],
) -> None:
    text = accounts[0]

    assert "134 commands refused, which changed nothing:\n" in text
    assert "67  quantity-not-positive (a rule: " in text
    assert "67  order-unknown (followed a refused CreateOrder" in text


@pytest.mark.parametrize(("store", "how"), [("memory:", "in memory"), ("sqlite:x.db", "durable")])
def test_the_speed_says_whether_it_was_made_durable(store: str, how: str) -> None:
    imported = Imported(outcomes={"ShipOrder": Outcomes(500, 500)}, seconds=0.25)
    with TextFile(SAMPLE) as file:
        text = as_text(lay_out_account(imported, Invoices(file), store))

    assert f"500 commands executed, {how}, in 0.25 s: 2,000 a second" in text


def test_the_commands_to_try_next_are_of_the_store_that_was_written() -> None:
    assert "--store" not in as_text(lay_out_next("sqlite:shop.db"))
    assert as_text(lay_out_next("sqlite:other.db")).count("--store sqlite:other.db") == 3


def test_the_password_of_a_store_is_not_shown() -> None:
    store = "postgresql://me:se@cr:et@db.example:5433/shop"
    shown = "\n".join([begin("file", store), *lay_out_next(store)])

    assert "postgresql://me:...@db.example:5433/shop" in shown
    assert "cr:et" not in shown
