"""The charts: what is drawn, and that both files are pictures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from benchmarks.chart import Bar, draw, main, panels
from benchmarks.report import Spread, write

from .made import cell, report, result

FLOOR = cell("floor", [100, 200, 400], [1.0, 2.0, 4.0])
ENGINE = cell("engine", [50, 50, 300], [2.0, 4.0, 4.0], "floor")
MEMORY = cell("engine", [70], [1.0], group="memory")
KEPT = report(result(FLOOR, ENGINE, MEMORY), result(FLOOR, scenario="hot"))


def test_a_panel_has_the_headline_figures_of_a_group() -> None:
    drawn = panels(KEPT)

    assert [panel.title for panel in drawn] == ["walk: sqlite", "walk: memory", "hot: sqlite"]
    assert drawn[0].axis == "commands/s"
    assert drawn[0].bars == [
        Bar("floor", Spread(200, 100, 400), reference=True),
        Bar("engine", Spread(50, 50, 300), reference=False),
    ]


def test_a_chart_is_drawn_as_svg_and_png(tmp_path: Path) -> None:
    draw(KEPT, tmp_path / "now.1")

    root = ElementTree.parse(tmp_path / "now.1.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (tmp_path / "now.1.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_report_that_was_kept_is_drawn(tmp_path: Path) -> None:
    write(KEPT, tmp_path / "now.json")

    assert main([str(tmp_path / "now.json"), str(tmp_path / "now")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"now.json", "now.svg", "now.png"}


def test_another_file_is_status_2(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")

    assert main([str(tmp_path / "other.json"), str(tmp_path / "now")]) == 2
