"""The README's program runs as it stands, twice, and says the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def ran(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_program_of_the_readme_runs_and_may_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(BLOCKS[0])
    runs = [ran(tmp_path, "bank.py") for _ in range(2)]

    assert [run.stdout for run in runs] == ["Balance(account_id='a-1', cents=500)\n"] * 2
    assert [run.stderr for run in runs] == ["", ""]


def test_the_watched_program_of_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    [watched] = [block for block in BLOCKS if "OpenTelemetry" in block]
    (tmp_path / "bank.py").write_text(BLOCKS[0])
    (tmp_path / "watched.py").write_text(watched)
    run = ran(tmp_path, "watched.py")

    numbers, spans = run.stdout.splitlines()
    assert f"It prints `{numbers}` and `{spans}`." in README
    assert run.stderr == ""
