"""The programs and commands of the documents, and a folder of a user in which they are run."""

from __future__ import annotations

import re
import subprocess
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from tests.integrations.serving import serving
from tests.support.installed import USERS_OWN, Installed

__all__ = ["ROOT", "Folder", "commands", "programs"]

ROOT: Final = Path(__file__).parents[2]


def programs(page: str) -> list[str]:
    """Give the Python programs of a page, named from the root of the repository."""
    return re.findall(r"```python.*?\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands(page: str) -> list[str]:
    """Give the shell commands of a page, without comments."""
    found = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in found for line in block.splitlines()]
    return [line for line in lines if line]


class Folder:
    """A folder of a user, whose own `engine.py` is no business of Foldline's."""

    def __init__(self, path: Path, installed: Installed) -> None:
        self.path = path
        self.installed = installed
        self.write("engine.py", USERS_OWN)

    def write(self, name: str, program: str) -> None:
        """Keep a program."""
        (self.path / name).write_text(program)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the installed wheel."""
        return self.installed.run(self.path, *command)

    def ran(self, name: str) -> str:
        """Run a program; give what it printed."""
        done = self.run("python", name)
        # Each program has projections of its own on the one log, which the engine may tell of.
        told = [line for line in done.stderr.splitlines() if "declared by nobody" not in line]
        assert (done.returncode, told) == (0, [])
        return done.stdout

    def serving(self, app: str) -> AbstractAsyncContextManager[str]:
        """Serve an app; give its URL."""
        return serving(app, self.path, self.installed.python)
