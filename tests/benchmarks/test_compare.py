"""The verdicts of `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from benchmarks.compare import Difference, differences, main, verdict
from benchmarks.report import CellResult, Report, spread, write

from .made import MACHINE, cell, report, result

STILL = [1.0] * 5
FLOOR = cell("floor", [100.0] * 5, STILL)


def engine(commands: list[float], p99: list[float] = STILL) -> CellResult:
    return cell("engine", commands, p99, "floor")


def judged(before: Report, after: Report) -> dict[tuple[str, str], Difference]:
    return {(d.cell, d.column): d for d in differences(before, after, 0.05)}


@pytest.mark.parametrize(
    ("before", "after", "better", "wanted"),
    [
        ([100, 101, 102], [80, 81, 82], "more", "regression"),
        ([100, 101, 102], [80, 81, 82], "less", "improvement"),
        ([80, 81, 82], [100, 101, 102], "more", "improvement"),
        ([80, 81, 82], [100, 101, 102], "less", "regression"),
        # One round of after is as good as one of before: the machine may do that by itself.
        ([100, 101, 102], [50, 60, 100], "more", "noise"),
        # All rounds are worse, by less than they lie apart: that happens by chance.
        ([100, 110, 120], [70, 80, 99], "more", "noise"),
        ([1.0, 1.1, 1.2], [1.3, 50.0, 90.0], "less", "noise"),
        # All rounds are worse, by less than anybody needs to look at.
        ([100, 101, 102], [97, 98, 99], "more", "same"),
        ([100, 101, 102], [100, 101, 102], "more", "same"),
        # The tolerance is what it was told to be: 5 % of 100 is no regression, and more is one.
        ([100, 100, 100], [95, 95, 95], "more", "same"),
        ([100, 100, 100], [94, 94, 94], "more", "regression"),
        ([100, 100, 100], [106, 106, 106], "less", "regression"),
    ],
)
def test_noise_is_no_regression(
    before: list[float], after: list[float], better: Literal["more", "less"], wanted: str
) -> None:
    assert verdict(spread(before), spread(after), better, 0.05) == wanted


def test_what_has_a_floor_is_judged_by_its_ratio() -> None:
    # A machine that is half as fast today: the figures fall, the ratios stay.
    before = report(result(FLOOR, engine([50.0] * 5)))
    after = report(result(cell("floor", [50.0] * 5, STILL), engine([25.0] * 5)))

    found = judged(before, after)

    assert found["engine", "commands"].floor == "floor"
    assert found["engine", "commands"].verdict == "same"


def test_a_lower_ratio_is_a_regression_also_where_the_figures_rose() -> None:
    before = report(result(FLOOR, engine([50.0] * 5)))
    after = report(result(cell("floor", [400.0] * 5, STILL), engine([100.0] * 5)))

    assert judged(before, after)["engine", "commands"].verdict == "regression"


def test_the_ratio_is_that_of_each_round() -> None:
    # The machine moves by four between rounds; floor and engine move together.
    moving = [100.0, 200.0, 400.0, 200.0, 100.0]
    before = report(result(cell("floor", moving, STILL), engine([m / 2 for m in moving])))
    after = report(result(cell("floor", moving, STILL), engine([m / 3 for m in moving])))

    assert judged(before, after)["engine", "commands"].verdict == "regression"


def test_each_column_that_has_a_better_is_judged() -> None:
    before = report(result(FLOOR, engine([50.0] * 5, [2.0] * 5)))
    after = report(result(FLOOR, engine([50.0] * 5, [3.0] * 5)))

    found = judged(before, after)

    assert {key: d.verdict for key, d in found.items()} == {
        ("engine", "commands"): "same",
        ("engine", "p99"): "regression",
    }


def test_a_floor_or_a_peer_is_not_judged() -> None:
    before = report(result(FLOOR, engine([50.0] * 5)))
    after = report(result(cell("floor", [10.0] * 5, STILL), engine([50.0] * 5)))

    assert {name for name, _ in judged(before, after)} == {"engine"}


def test_a_figure_without_a_floor_is_judged_on_the_same_machine_only() -> None:
    before = report(result(cell("resident", [900.0] * 5, STILL)))
    after = result(cell("resident", [500.0] * 5, STILL))

    assert judged(before, report(after))["resident", "commands"].verdict == "regression"
    assert judged(before, report(after, machine={**MACHINE, "cores": "64"})) == {}


def test_a_ratio_is_judged_on_another_machine_too() -> None:
    before = report(result(FLOOR, engine([50.0] * 5)))
    after = report(result(FLOOR, engine([20.0] * 5)), machine={**MACHINE, "cores": "64"})

    assert judged(before, after)["engine", "commands"].verdict == "regression"


def test_fewer_than_five_rounds_judge_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = result(cell("floor", [100.0] * 4, [1.0] * 4), cell("engine", [9.0] * 4, [1.0] * 4))

    status = compared(tmp_path, report(result(FLOOR, engine([50.0] * 5))), report(few))

    assert status == 0
    assert "not judged: walk, which has fewer than 5 rounds" in capsys.readouterr().out


def compared(folder: Path, before: Report, after: Report) -> int:
    write(before, folder / "before.json")
    write(after, folder / "after.json")
    return main([str(folder / "before.json"), str(folder / "after.json")])


def test_a_regression_is_named_and_is_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = report(result(FLOOR, engine([50.0] * 5)))
    after = report(result(FLOOR, engine([40.0] * 5)))

    assert compared(tmp_path, before, after) == 1
    assert capsys.readouterr().out.splitlines() == [
        "regression: walk, sqlite: engine: commands to floor 0.5 (0.5 to 0.5) -> 0.4 (0.4 to 0.4)",
        "2 figures were judged: 1 regression, 0 improvement, 0 noise, 1 same",
    ]


def test_no_regression_is_status_0_and_what_was_not_judged_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = report(result(FLOOR, engine([50.0] * 5), cell("gone", [1.0] * 5, STILL)))
    after = report(
        result(FLOOR, engine([50.0] * 5)),
        result(cell("new", [1.0] * 5, STILL), scenario="hot"),
        machine={**MACHINE, "python": "3.13.0"},
    )

    assert compared(tmp_path, before, after) == 0
    assert capsys.readouterr().out.splitlines() == [
        "only ratios are judged, since the machine changed: python 3.11.7 -> 3.13.0",
        "only before: walk, sqlite: gone",
        "only after: hot, sqlite: new",
        "2 figures were judged: 0 regression, 0 improvement, 0 noise, 2 same",
    ]


def test_a_file_that_is_no_report_is_status_2(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")

    assert main([str(tmp_path / "other.json"), str(tmp_path / "other.json")]) == 2
