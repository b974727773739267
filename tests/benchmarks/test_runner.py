"""The rounds, and what is an error in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from benchmarks import runner
from benchmarks.runner import Broken
from benchmarks.scenario import Cell, Column, Scenario

COLUMNS = (Column("speed", "/s", "more"), Column("wait", "ms", "less"))
WHOLE: Mapping[str, float] = {"speed": 1.0, "wait": 2.0}


def scenario(*cells: Cell) -> Scenario:
    return Scenario("race", "who is first", {"disk": "none"}, COLUMNS, "speed", cells)


def cell(name: str, measure: Callable[[Path], Mapping[str, float]], *against: str) -> Cell:
    return Cell("track", name, measure, against)


def giving(figures: Mapping[str, float]) -> Callable[[Path], Mapping[str, float]]:
    return lambda _: figures


def test_cells_take_turns_and_the_warm_up_does_not_count(tmp_path: Path) -> None:
    order: list[str] = []

    def measured(name: str, _: Path) -> dict[str, float]:
        order.append(name)
        return {"speed": float(len(order)), "wait": 0.0}

    cells = [cell("a", partial(measured, "a")), cell("b", partial(measured, "b"), "a")]
    found = runner.run(scenario(*cells), rounds=2, warm_up=1, folder=tmp_path)

    assert order == ["a", "b"] * 3
    assert [[r["speed"] for r in c.rounds] for c in found.cells] == [[3.0, 5.0], [4.0, 6.0]]
    assert found.conditions["rounds"] == (
        "2, each cell in turn, after 1 that did not count; fewer than 5: not to be quoted"
    )


def test_each_cell_has_an_empty_folder_on_the_chosen_disk(tmp_path: Path) -> None:
    seen: list[Path] = []

    def measured(folder: Path) -> Mapping[str, float]:
        assert list(folder.iterdir()) == []
        (folder / "left").touch()
        seen.append(folder)
        return WHOLE

    runner.run(scenario(cell("a", measured)), rounds=2, warm_up=0, folder=tmp_path)

    assert len(set(seen)) == 2
    assert all(folder.parent == tmp_path for folder in seen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({}, "figures without a column"),
        ({**WHOLE, "height": 1.0}, r"figures without a column: \['height'\]"),
        ({**WHOLE, "speed": math.nan}, "are not numbers: {'speed': nan}"),
        ({**WHOLE, "speed": math.inf}, "are not numbers: {'speed': inf}"),
        ({"wait": 1.0}, r"no cell gave \['speed'\]"),
        ({"speed": 1.0}, r"no cell gave \['wait'\]"),
    ],
)
def test_a_missing_or_broken_figure_ends_the_run(
    tmp_path: Path, figures: dict[str, float], told: str
) -> None:
    with pytest.raises(Broken, match=told):
        runner.run(scenario(cell("a", giving(figures))), rounds=1, warm_up=0, folder=tmp_path)


def test_a_cell_gives_the_same_figures_in_every_round(tmp_path: Path) -> None:
    left: list[Mapping[str, float]] = [WHOLE, {"speed": 1.0}]

    with pytest.raises(Broken, match="has not one set of figures"):
        runner.run(scenario(cell("a", lambda _: left.pop())), rounds=2, warm_up=0, folder=tmp_path)


def test_a_cell_that_raises_is_named(tmp_path: Path) -> None:
    def measured(_: Path) -> Mapping[str, float]:
        raise ArithmeticError("no figure")

    with pytest.raises(ArithmeticError) as caught:
        runner.run(scenario(cell("a", measured)), rounds=1, warm_up=0, folder=tmp_path)

    assert caught.value.__notes__ == ["in the benchmark race, track: a"]
    assert list(tmp_path.iterdir()) == []


def test_a_ratio_to_nothing_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="no 'floor' beside 'a'"):
        runner.run(
            scenario(cell("a", giving(WHOLE), "floor")), rounds=1, warm_up=0, folder=tmp_path
        )


def test_two_cells_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = [cell("a", giving(WHOLE)), cell("a", giving(WHOLE))]

    with pytest.raises(Broken, match="two cells of one name"):
        runner.run(scenario(*twice), rounds=1, warm_up=0, folder=tmp_path)
