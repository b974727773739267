"""Each scenario of logs and views gives what it says, and none is content with a loss.

Figures are never judged by their size here: a test that needs a fast machine proves nothing.
"""

from __future__ import annotations

import argparse
import math
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import (
    archive,
    cold,
    console,
    feed,
    filled,
    grow,
    members,
    memory,
    project,
    start,
    timers,
    watch,
)
from benchmarks.filled import LOG, Orders, Prepared, ScatteredOrders
from benchmarks.scenario import Cell, Scenario, Wrong
from benchmarks.workload import OrderOpened
from benchmarks.writers import write as write_all
from engine import Meta, projects
from engine.queries.live import LiveQueries

SCENARIOS = (cold, feed, project, memory, start, grow, watch, members, timers, archive, console)


def scenario_of(module: Any, folder: Path, *arguments: str) -> Scenario:
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    options = parser.parse_args(arguments)
    options.rounds, options.seconds, options.folder, options.quick = 1, 0.05, folder, True
    scenario: Scenario = module.scenario(options)
    return scenario


def measure(cell: Cell, folder: Path) -> Mapping[str, float]:
    place = folder / f"{cell.group} {cell.name}".replace("/", "-")
    place.mkdir()
    return cell.measure(place)


def cell_of(scenario: Scenario, group: str, name: str) -> Cell:
    return next(c for c in scenario.cells if group in c.group and c.name == name)


@pytest.mark.parametrize("module", SCENARIOS, ids=lambda module: module.__name__)
def test_every_cell_gives_figures_of_its_columns(module: ModuleType, tmp_path: Path) -> None:
    scenario = scenario_of(module, tmp_path)
    columns = {column.name for column in scenario.columns}
    figures = [measure(cell, tmp_path) for cell in scenario.cells]

    assert {name for each in figures for name in each} == columns
    assert all(scenario.headline in each for each in figures), "each has what is told first"
    assert all(math.isfinite(value) for each in figures for value in each.values())


@pytest.mark.parametrize("module", SCENARIOS, ids=lambda module: module.__name__)
def test_a_cell_is_compared_to_an_earlier_one_of_its_group(
    module: ModuleType, tmp_path: Path
) -> None:
    seen: set[tuple[str, str]] = set()
    for cell in scenario_of(module, tmp_path).cells:
        assert all((cell.group, name) in seen for name in cell.against)
        assert (cell.group, cell.name) not in seen
        seen.add((cell.group, cell.name))
    assert list(tmp_path.iterdir()) == [], "nothing is made before it is measured"


def test_a_view_catches_up_with_orders_that_are_adjusted_by_chance(tmp_path: Path) -> None:
    scenario = scenario_of(project, tmp_path, "--scattered", "--per-row", "4", "--events", "800")
    for cell in scenario.cells[:3]:
        assert measure(cell, tmp_path)["events"] > 0

    orders = ScatteredOrders(200, 4)
    versions = [version for version, _ in orders.commands()]
    assert (orders.total, len(versions), versions[:200]) == (800, 800, [0] * 200)
    assert max(versions) > 4, "some have more than their share"


def test_the_same_cell_may_be_measured_again_and_again(tmp_path: Path) -> None:
    cell = cell_of(scenario_of(project, tmp_path), "catch-up", "engine")
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        measure(cell, tmp_path / str(number))


def filling(change: Callable[[Orders], Orders]) -> Callable[..., None]:
    """Give a `fill_sqlite` that fills in something else than it is told."""

    def fill(folder: Path, *orders: Orders) -> None:
        filled.fill_sqlite(folder, *(change(each) for each in orders))

    return fill


def one_less(orders: Orders) -> Orders:
    return Orders(orders.count - 1, orders.events, orders.prefix, orders.keyed)


def one_more(orders: Orders) -> Orders:
    return Orders(orders.count + 1, orders.events, orders.prefix, orders.keyed)


@pytest.mark.parametrize("name", ["floor", "engine", "engine, snapshot"])
def test_cold_is_wrong_where_an_order_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(cold, "fill_sqlite", filling(one_less))
    cell = cell_of(scenario_of(cold, tmp_path), "sqlite, 10 events", name)

    with pytest.raises(Wrong):
        measure(cell, tmp_path)


@pytest.mark.parametrize("name", ["floor", "engine"])
@pytest.mark.parametrize("change", [one_less, one_more])
def test_the_feed_is_wrong_where_events_are_missing_or_too_many(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[Orders], Orders],
) -> None:
    monkeypatch.setattr(feed, "fill_sqlite", filling(change))
    cell = cell_of(scenario_of(feed, tmp_path), "sqlite, bare", name)

    with pytest.raises(Wrong):
        measure(cell, tmp_path)


@pytest.mark.parametrize("name", ["floor", "engine"])
def test_a_catch_up_is_wrong_where_the_log_has_other_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(project, "fill_sqlite", filling(one_more))
    cell = cell_of(scenario_of(project, tmp_path), "catch-up", name)

    with pytest.raises(Wrong):
        measure(cell, tmp_path)


class CountsTwice(project.Summaries, name="counts-twice", version=1):
    @projects
    def opened(self, event: OrderOpened, meta: Meta) -> None:
        self.rows.put(project.Summary(event.order_id, event.item, 1, 2, meta.recorded))


def test_a_view_that_counts_an_event_twice_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "PROJECTIONS", (CountsTwice,))
    cell = cell_of(scenario_of(project, tmp_path), "live", "1 projection")

    with pytest.raises(Wrong, match="view 1"):
        measure(cell, tmp_path)


def test_a_start_that_has_lost_what_was_acknowledged_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_without_log(prepared: Prepared, to: Path) -> Path:
        path = copy(prepared, to)
        path.with_name(f"{LOG}-wal").write_bytes(b"")
        return path

    copy = Prepared.copy
    monkeypatch.setattr(Prepared, "copy", copy_without_log)
    cell = cell_of(scenario_of(start, tmp_path), "events", "engine")

    with pytest.raises(Wrong, match="acknowledged before the kill"):
        measure(cell, tmp_path)


def test_growing_is_wrong_where_a_command_was_acknowledged_and_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(execute: Any, commands: Any, count: int) -> float:
        return await write_all(execute, commands, count - (count == 512))

    monkeypatch.setattr(grow, "write", write)
    cell = cell_of(scenario_of(grow, tmp_path), "time order", "engine")

    with pytest.raises(Wrong, match="10,240 events were acknowledged"):
        measure(cell, tmp_path)


def test_watching_is_wrong_where_a_watcher_does_not_see_all_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SEEN_SECONDS", 0.2)
    monkeypatch.setattr(LiveQueries, "written", lambda *_: None)
    scenario = scenario_of(watch, tmp_path, "--watchers", "3")
    with pytest.raises(Wrong, match="has not seen what was acknowledged"):
        measure(cell_of(scenario, "one query", "engine"), tmp_path)


def test_memory_is_not_told_of_orders_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "fill_sqlite", filling(one_less))
    cell = cell_of(scenario_of(memory, tmp_path), "traced", "loaded")

    with pytest.raises(subprocess.CalledProcessError):
        measure(cell, tmp_path)

    assert "and not Rejected" in capfd.readouterr().err
