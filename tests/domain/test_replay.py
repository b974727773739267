"""The replay: what is sent when, what is left for whoever looks on, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from domain.importer.importer import commands_of
from domain.importer.invoices import SAMPLE, Invoice, Invoices
from domain.importer.proof import LoggedKeys, keys_of
from domain.importer.text_file import TextFile
from domain.model.orders import ShipOrder
from domain.shop import open_shop
from domain.views.queries import GetTotals, Totals
from domain.web.replay import Replay, Step, schedule
from engine import Receipt

NOTHING = LoggedKeys(0, {})


@pytest.fixture(scope="module")
def invoices() -> Sequence[Invoice]:
    with TextFile(SAMPLE) as file:
        return list(Invoices(file))


def keys(steps: Sequence[Step]) -> list[str]:
    return [envelope.key or "" for step in steps for envelope in step.envelopes]


def test_the_two_weeks_take_the_seconds_that_were_asked_for(invoices: Sequence[Invoice]) -> None:
    steps = schedule(invoices, 60)

    assert steps == schedule(invoices, 60)
    assert (steps[0].at, steps[-1].at) == (0, 60)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert steps[0].shop_time == "2010-12-01T08:26:00"
    assert max(after.at - before.at for before, after in pairwise(steps)) < 1


def test_every_command_of_an_import_is_sent_once_but_for_the_last_shipments(
    invoices: Sequence[Invoice],
) -> None:
    sent = keys(schedule(invoices, 60))
    imported = [e.key or "" for invoice in invoices for e in commands_of(invoice)]
    left = set(imported) - set(sent)

    assert len(sent) == len(set(sent))
    assert set(sent) <= set(imported)
    assert {key.rpartition("/")[2] for key in left} == {"ship"}
    assert 10 < len(left) < 100, "somebody who looks on has something left to ship"


def test_an_order_waits_before_it_is_shipped(invoices: Sequence[Invoice]) -> None:
    created: dict[str, float] = {}
    waits: list[float] = []
    for step in schedule(invoices, 60):
        for envelope in step.envelopes:
            if isinstance(envelope.command, ShipOrder):
                waits.append(step.at - created[envelope.command.order_id])
            else:
                created.setdefault((envelope.key or "").partition("/")[0], step.at)

    assert min(waits) > 0.5
    assert max(waits) > 3


async def test_a_second_life_sends_again_what_was_done_and_goes_on(
    invoices: Sequence[Invoice],
) -> None:
    steps = schedule(invoices[:60], 0.4)
    acknowledged: dict[str, int] = {}

    def hear(key: str, receipt: Receipt) -> None:
        assert acknowledged.setdefault(key, receipt.position) == receipt.position

    async with open_shop() as shop:
        first = Replay(steps[:40], 0.2)
        await first.play(shop, NOTHING, hear)
        done = first.state.executed
        second = Replay(steps, 0.4)
        await second.play(shop, await keys_of(shop), hear)
        totals = await shop.query(GetTotals(), at=shop.statistics().position)

    assert done > 10
    assert (second.state.repeated, second.state.done) == (done, True)
    state = second.state
    assert state.executed + state.repeated + state.refused == state.commands == len(keys(steps))
    assert len(acknowledged) == state.executed + done
    assert totals.orders == sum(not i.is_return for i in invoices[:60]) - state.refused
    assert isinstance(totals, Totals)


async def test_a_shop_that_was_imported_has_nothing_left_to_be_replayed(
    invoices: Sequence[Invoice],
) -> None:
    async with open_shop() as shop:
        steps = schedule(invoices[:30], 0.1)
        await Replay(steps, 0.1).play(shop, NOTHING, lambda key, receipt: None)
        again = Replay(steps, 10_000)
        await again.play(shop, await keys_of(shop), lambda key, receipt: None)

    assert again.state.executed == 0
    assert again.state.done
