"""The README's program runs as it stands, twice, and says the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_program_of_the_readme_runs_and_may_be_repeated(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "bank.py").write_text(blocks[0])
    runs = [
        subprocess.run(
            [sys.executable, "bank.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    ]

    assert [run.stdout for run in runs] == ["Balance(account_id='a-1', cents=500)\n"] * 2
    assert [run.stderr for run in runs] == ["", ""]
