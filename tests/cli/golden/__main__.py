"""`python -m tests.cli.golden`: write `commands.txt` anew."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.cli.golden import write

with tempfile.TemporaryDirectory() as folder:
    write(Path(folder))
