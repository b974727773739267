"""The README's program runs as it stands, twice, and says the same; what goes on there does too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


BLOCKS = blocks("README.md")
BALANCE = "Balance(account_id='a-1', cents=500)\n"


def run_program(folder: Path, program: str) -> str:
    (folder / "bank.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "bank.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_the_program_of_the_readme_runs_and_may_be_repeated(tmp_path: Path) -> None:
    assert [run_program(tmp_path, BLOCKS[0]) for _ in range(2)] == [BALANCE] * 2


def test_the_program_goes_on_with_looking_back(tmp_path: Path) -> None:
    assert len(BLOCKS) == 2
    assert run_program(tmp_path, "".join(BLOCKS)) == BALANCE + (
        "1 Deposited(cents=500) None\n2 Deposited(cents=250) ann\n500\n~ cents: 500 -> 750\n"
    )


def test_the_program_about_changing_events_runs_and_passes_the_gate(tmp_path: Path) -> None:
    (program,) = blocks("EVOLUTION.md")
    (tmp_path / "hotel").mkdir()
    (tmp_path / "hotel" / "main.py").write_text(program.replace("\nrun(main)", ""))
    assert run_program(tmp_path, program) == "Lee\n"

    gate = [sys.executable, "-m", "engine", "schema", "check", "hotel.main:make_engine"]
    done = subprocess.run(
        [*gate, "--log", "hotel.db"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "3 types of events are declared, 1 stored in hotel.db: everything fits" in done.stderr
