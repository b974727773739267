"""What is told of a run, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.report import Spread, ratios, read, spread, table, write

from .made import cell, report, result

FLOOR = cell("floor", [100.0, 200.0, 400.0], [1.0, 2.0, 4.0])
ENGINE = cell("engine", [50.0, 50.0, 300.0], [2.0, 4.0, 4.0], "floor")


def test_a_table_has_medians_ratios_and_every_condition() -> None:
    assert table(result(FLOOR, ENGINE), {"processor": "abacus", "cores": "2"}) == (
        "walk: how far it is\n"
        "  ratios: of commands/s, more is better\n"
        "\n"
        "  sqlite            commands/s  p99 ms\n"
        "    floor     200 (100 to 400)     2.0\n"
        "    engine      50 (50 to 300)     4.0\n"
        "      0.50x of floor (0.25x to 0.75x)\n"
        "\n"
        "  durability: FULL\n"
        "  machine: processor abacus; cores 2\n"
        "  left out: a peer"
    )


def test_a_column_stands_only_with_the_group_that_has_it() -> None:
    other = msgspec.structs.replace(FLOOR, group="memory", rounds=[{"commands": 7.0}])

    lines = table(result(FLOOR, other), {}).splitlines()

    assert [line.split() for line in lines if line.startswith("  memory")] == [
        ["memory", "commands/s"]
    ]


def test_a_ratio_is_taken_within_each_round() -> None:
    assert ratios(result(FLOOR, ENGINE), ENGINE, "floor", "commands") == [0.5, 0.25, 0.75]
    assert ratios(result(FLOOR, ENGINE), ENGINE, "floor", "p99") == [2.0, 2.0, 1.0]


def test_a_spread_is_the_median_between_the_least_and_the_largest() -> None:
    assert spread([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)


def test_a_report_comes_back_with_every_round(tmp_path: Path) -> None:
    kept = report(result(FLOOR, ENGINE))
    write(kept, tmp_path / "now.json")

    back = read(tmp_path / "now.json")

    assert msgspec.json.encode(back) == msgspec.json.encode(kept)
    assert [figures["commands"] for figures in back.results[0].cells[1].rounds] == [50, 50, 300]


def test_another_file_is_not_taken_for_a_report(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"rounds": []}')

    with pytest.raises(msgspec.ValidationError):
        read(tmp_path / "other.json")
