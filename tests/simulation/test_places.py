"""Every place of the reference world is a place of its own, and the book of seeds is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.ledger import Ledger
from tests.simulation.points import EVERY, Every, places
from tests.simulation.sweep import Finding, run_worlds

AT_LEAST: dict[Every, int] = {
    "crash": 300,
    "crash in a rebuild": 600,
    "fault": 900,
    "fault in recovery": 600,
    "failed sync": 2_000,
    "cancel": 400,
}


@pytest.mark.parametrize("every", EVERY)
def test_some_places_of_each_kind_hold(every: Every) -> None:
    count, world = places(every)

    assert count >= AT_LEAST[every], "the reference world has become small"
    for number in range(1, count + 1, count // 6):
        finding = world(number)
        assert finding.problems == []
        assert finding.counts["Receipt"] > 0


def test_the_places_of_a_fault_cover_what_the_engine_does_with_its_files() -> None:
    _, world = places("fault")
    calls = {place.call for place in world.args[0]}  # type: ignore[attr-defined]

    for call in (
        *("open log.db", "write log.db-wal", "sync log.db-wal"),
        *("write log.db", "sync log.db", "truncate log.db-wal"),
        *("read log.db", "write log.views.db-wal"),
    ):
        assert call in calls, f"no {call}: a fold, a write or a read is not reached any more"


def square(number: int) -> Finding:
    return Finding(number, [] if number % 7 else ["seven"], {"square": number * number})


@pytest.mark.parametrize("jobs", [1, 2])
def test_findings_come_in_the_order_of_their_numbers(jobs: int) -> None:
    found = list(run_worlds(square, range(50), jobs))

    assert [finding.number for finding in found] == list(range(50))
    assert [f.number for f in found if f.problems] == [0, 7, 14, 21, 28, 35, 42, 49]


def test_a_run_goes_on_where_the_book_says_that_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    book = Ledger(path, "code", "3.11")
    for seed in range(10, 30):
        book.add(seed, bad=seed == 17)
    book.save()

    again = Ledger(path, "code", "3.11")
    assert list(again.left(0, 40)) == [*range(10), *range(30, 40)]
    again.add(30, bad=False)
    again.save()
    [only] = Ledger(path, "code", "3.11").ranges
    assert (only.first, only.seeds, only.bad) == (10, 21, [17])


def test_seeds_of_other_code_count_for_that_code_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    book = Ledger(path, "before", "3.11")
    book.add(0, bad=False)
    book.save()

    after = Ledger(path, "after", "3.11")
    assert list(after.left(0, 2)) == [0, 1]
    after.add(0, bad=False)
    after.save()
    assert len(Ledger(path, "after", "3.11").ranges) == 2
