"""The scenario of several owners gives what it says, and counts the conflicts of a race."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import databases, spread
from benchmarks.scenario import Scenario
from tests.support.postgres import Server


@pytest.fixture(autouse=True)
def _on_this_server(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "server", lambda: postgres)


def scenario_in_small() -> Scenario:
    parser = argparse.ArgumentParser()
    spread.add_options(parser)
    options = parser.parse_args(["--clients", "32", "--coming", "3"])
    options.rounds, options.seconds, options.quick = 1, 0.2, True
    return spread.scenario(options)


def test_owners_have_no_conflicts_and_a_race_has(tmp_path: Path) -> None:
    cells = {(cell.group, cell.name): cell for cell in scenario_in_small().cells}
    group = "64 hot aggregates"

    raced = cells[group, "race of 2"].measure(tmp_path)
    assert raced["conflicts"] > 0
    owned = cells[group, "2 owners"].measure(tmp_path)
    assert (owned["conflicts"], owned["failed"]) == (0, 0)
    assert 0 < owned["even"] <= 1
    came = cells["owners that come and go", "2 owners and a third"].measure(tmp_path)
    assert (came["conflicts"], came["failed"]) == (0, 0)
    assert came["gap"] > 0
