"""How tests run an import: as a command of its own, and to an end in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class Ended(Exception):
    """Stands for a process that ends."""


def command(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", "import", *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
