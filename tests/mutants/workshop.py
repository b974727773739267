"""A copy of the tree in which tests run with one file changed, and the next time with another.

Rules: what tests run on is a copy, made once; each change is taken back. Bytecode in it is valid by
the hash of its source, since two mutants of a file can have one length and one second. Tests run in
a fork of a process that has imported the libraries and nothing of the tree (`forks`), which saves
most of the time that a mutant takes. A workshop is for one thread.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
COPIED = ("engine", "domain", "tests", "pyproject.toml")


class Run(msgspec.Struct, frozen=True):
    """How tests ended."""

    status: int
    """The exit status of pytest; below 0 where it had to be killed, by time or by a signal."""
    output: str
    begun: str = ""
    """The test that was begun last."""


class Workshop:
    """One copy, and the process that runs tests in it."""

    def __init__(self, model: Path) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True)
        self.folder = Path(self._place.name, "tree")
        shutil.copytree(model, self.folder)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": "200",  # pytest shortens to them by what a test failed
        }
        self._process = subprocess.Popen(
            [sys.executable, str(self.folder / "tests/mutants/forks.py")],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._place.cleanup()

    def run(self, tests: list[str], *, test_seconds_max: int, seconds_max: float) -> Run:
        """Run tests on the copy as it is now, until the first that fails or hangs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = {"tests": tests, "test_seconds_max": test_seconds_max, "seconds_max": seconds_max}
        self._process.stdin.write(msgspec.json.encode(call) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of a workshop has ended: {self._process.wait()}")
        return msgspec.json.decode(line, type=Run)

    @contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """Have another text in a file of the copy for as long as this is entered."""
        path = self.folder / file
        kept = path.read_bytes()
        path.write_text(text)
        try:
            yield
        finally:
            path.write_bytes(kept)


def make_model(target: Path) -> None:
    """Copy what the tests need, with its bytecode; the workshops are copies of this one."""
    ignored = shutil.ignore_patterns("__pycache__", "*.db*", ".hypothesis")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            shutil.copy(source, target / name)
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    for name in COPIED:
        if (target / name).is_dir():
            # Paths in tracebacks are those of the copy that imports it: the import mends them.
            compileall.compile_dir(target / name, quiet=2, invalidation_mode=mode)
