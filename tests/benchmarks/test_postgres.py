"""A log in PostgreSQL is measured beside its floor and beside SQLite, on a server of the run's."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import beside, cold, copy, databases, feed, project
from benchmarks import postgres as on_postgres
from benchmarks.filled import Orders
from benchmarks.scenario import Cell, Scenario, Wrong
from tests.support.postgres import Server

ROOT = Path(__file__).parents[2]
IN_SERVER = ("--store", "postgresql")


@pytest.fixture(autouse=True)
def _on_this_server(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (beside, databases, on_postgres):
        monkeypatch.setattr(module, "server", lambda: postgres)


def cells_of(module: Any, folder: Path, *arguments: str) -> Scenario:
    parser = argparse.ArgumentParser()
    module.add_options(parser)
    options = parser.parse_args(arguments)
    options.rounds, options.seconds, options.folder, options.quick = 1, 0.05, folder, True
    scenario: Scenario = module.scenario(options)
    return scenario


def measured(cell: Cell, folder: Path) -> dict[str, float]:
    place = folder / f"cell-{len([*folder.iterdir()])}"
    place.mkdir()
    return dict(cell.measure(place))


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (feed, (*IN_SERVER, "--events", "512")),
        (cold, IN_SERVER),
        (project, (*IN_SERVER, "--events", "512")),
        (copy, ("--events", "512")),
    ],
    ids=["feed", "cold", "project", "copy"],
)
def test_each_cell_of_logs_and_views_gives_figures_and_leaves_no_database(
    module: ModuleType, arguments: tuple[str, ...], tmp_path: Path, postgres: Server
) -> None:
    count = "SELECT count(*) FROM pg_database WHERE datname LIKE 'benchmark%'"
    before = int(postgres.sql(count))
    scenario = cells_of(module, tmp_path, *arguments)
    figures = [measured(cell, tmp_path) for cell in scenario.cells]
    of_postgres = [cell for cell in scenario.cells if cell.name == "engine"]

    assert {name for each in figures for name in each} == {c.name for c in scenario.columns}
    assert all(math.isfinite(value) for each in figures for value in each.values())
    assert all([*cell.against][:2] == ["floor", "engine, SQLite"] for cell in of_postgres)
    assert int(postgres.sql(count)) - before <= 2, "those that are full are copied once more"


def test_a_copy_that_lost_an_event_ends_the_run(tmp_path: Path) -> None:
    log = databases.PreparedDatabase(Orders(4, 10))
    with log.copied(tmp_path) as copy:
        copy.check(40)
        with pytest.raises(Wrong, match="41 events were acknowledged; counted again, .* has 40"):
            copy.check(41)


def test_what_an_engine_writes_beside_others_is_compared_with_what_it_writes_alone(
    tmp_path: Path, postgres: Server
) -> None:
    cells = beside.cells(["snapshot", "standby"], [4], 0.05, 0.05)
    for cell in cells:
        assert measured(cell, tmp_path)["events"] >= 1

    assert [cell.name.partition(",")[0] for cell in cells] == ["engine keyed"] * 4
    assert postgres.sql("SHOW synchronous_standby_names") == "", "the next cell has none"


def test_each_cell_gives_its_figures_and_finds_what_it_wrote(tmp_path: Path) -> None:
    words = ("walk", "--store", "postgresql", "--quick", "--clients", "4", "--folder")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    for cell in ("floor (the same statement)", "engine keyed, SQLite", "engine bare"):
        assert cell in done.stdout
