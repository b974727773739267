"""A log in PostgreSQL is measured beside its floor and beside SQLite, on a server of the run's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
