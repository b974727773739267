"""`python -m benchmarks`, run whole in its smallest sizes; nothing here looks at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.report import read

SMALLEST = ("--quick", "--seconds", "0.02")
RUNS = {
    "walk": ["--clients", "1", "8", "--peers"],
    "hot": ["--clients", "8", "--peers"],
    "open": ["--rates", "500"],
    "busy": ["--clients", "8", "--rate", "500"],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_scenario_gives_its_table_and_every_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    kept = tmp_path / "now.json"
    where = ["--folder", str(tmp_path), "--json", str(kept)]

    assert main([name, *SMALLEST, *RUNS[name], *where]) == 0

    told, found = capsys.readouterr().out, read(kept)
    (result,) = found.results
    assert result.scenario == name
    assert all(len(cell.rounds) == 1 for cell in result.cells)
    assert any(cell.against for cell in result.cells)
    for cell in result.cells:
        assert cell.name in told
    for condition in ("durability", "work", "loop", "rounds", "machine"):
        assert f"\n  {condition}: " in told
    for fact in ("processor", "cores", "python", "sqlite", "apsw", "commit", "one fdatasync"):
        assert f"{fact} {found.machine[fact]}" in told
    assert list(tmp_path.iterdir()) == [kept]


def test_the_parts_of_the_open_loop_are_of_the_saturation_of_its_round(tmp_path: Path) -> None:
    kept = tmp_path / "now.json"
    where = ["--folder", str(tmp_path), "--json", str(kept)]

    assert main(["open", *SMALLEST, "--parts", "0.5", "--rounds", "2", *where]) == 0

    saturation, floor, engine, apart = read(kept).results[0].cells
    for round_ in range(2):
        half = max(saturation.rounds[round_]["commands"] / 2, 100.0)
        assert floor.rounds[round_]["offered"] == half
        assert engine.rounds[round_]["offered"] == half
        assert apart.rounds[round_]["offered"] == half


def test_telemetry_is_measured_beside_the_engine_without_one(tmp_path: Path) -> None:
    kept = tmp_path / "now.json"
    where = ["--folder", str(tmp_path), "--json", str(kept)]

    assert main(["walk", *SMALLEST, "--clients", "2", "--telemetry", *where]) == 0

    cells = read(kept).results[0].cells
    assert [cell.name for cell in cells[:5]] == ["off", "again", "metrics", "sampled", "spans"]
    assert {tuple(cell.against) for cell in cells} == {(), ("off",)}


def test_an_unknown_scenario_is_status_2_and_names_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["walks"]) == 2

    told = capsys.readouterr().err
    assert "there is no 'walks' here; there are: walk, hot, open, cold" in told
    assert "all, compare, chart" in told


@pytest.mark.parametrize("option", [["--rounds", "0"], ["--rounds", "-1"]])
def test_no_rounds_are_refused(option: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["walk", "--quick", *option])

    assert refused.value.code == 2
