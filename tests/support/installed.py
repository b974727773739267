"""Foldline as users have it: a wheel of this checkout, in an environment of its own.

What the wheel depends on is taken from the environment of these tests, so that nothing is fetched.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
USERS_OWN = 'raise SystemExit("a module of the user\'s own, called engine, was imported")\n'
"""What stands beside the programs as `engine.py`: no part of Foldline may want a module's name."""


class Installed:
    """An environment with the wheel in it."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.wheel = wheel
        self.python = str(folder / "bin" / "python")
        self.program = str(folder / "bin" / "foldline")
        self.variables = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }

    def run(
        self, folder: Path, *command: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a folder, `python` and `foldline` being those of this environment."""
        return subprocess.run(
            command,
            cwd=folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
        )


def install(folder: Path) -> Installed:
    """Make an environment in a folder, build the wheel and install it there."""
    venv.create(folder, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    if find_spec("hatchling") is None:
        build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
    _checked(*build)
    (wheel,) = wheels.glob("foldline-*.whl")
    installed = Installed(folder, wheel)
    only = ("--no-index", "--no-deps", "--no-compile")
    _checked(*pip, "--python", installed.python, "install", *only, str(wheel))
    (packages,) = folder.glob("lib/python3*/site-packages")
    # Behind its own packages, so that a wheel that the tests' environment has is not found.
    depends = [path for path in sys.path if path.endswith("-packages")]
    (packages / "depends.pth").write_text("".join(f"{path}\n" for path in depends))
    return installed


def _checked(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
