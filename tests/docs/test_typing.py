"""Type checkers see what the engine promises: frozen messages, and a query's answer type."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ACCEPTED = HERE / "typing" / "accepted.py"
REFUSED = HERE / "typing" / "errors" / "refused.py"


def marked_lines() -> set[int]:
    lines = REFUSED.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}


def mypy_lines(path: Path) -> set[int]:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return {int(line) for line in re.findall(rf"{path.name}:(\d+): error", done.stdout)}


def pyright_lines(path: Path) -> set[int]:
    command = [sys.executable, "-m", "basedpyright", "--outputjson"]
    command += ["--pythonpath", sys.executable, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {d["range"]["start"]["line"] + 1 for d in found if d["severity"] == "error"}


def test_mypy_accepts_what_users_write() -> None:
    assert mypy_lines(ACCEPTED) == set()


def test_mypy_refuses_what_the_engine_would() -> None:
    assert mypy_lines(REFUSED) == marked_lines()


def test_pyright_accepts_what_users_write() -> None:
    assert pyright_lines(ACCEPTED) == set()


def test_pyright_refuses_what_the_engine_would() -> None:
    assert pyright_lines(REFUSED) == marked_lines()
