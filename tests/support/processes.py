"""Other processes for tests: an engine that takes orders, and `python -m engine projections`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from tests.support import warm

ROOT = Path(__file__).parents[2]
SECONDS = 60


class Release:
    """A release of the counters' projections at work in its own process (`tests.support.sums`)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def told(self, *words: str | int) -> Any:
        """Have it do something; give its answer."""
        assert self.process.stdin is not None
        print(*words, file=self.process.stdin, flush=True)
        return msgspec.json.decode(line_of(self.process.stdout))

    def end(self) -> None:
        """Let it drain and end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(SECONDS) == 0

    def died(self) -> int:
        """Wait for its end, and give how it came."""
        return self.process.wait(SECONDS)


def line_of(stream: IO[str] | None) -> str:
    """Read a line."""
    assert stream is not None
    return stream.readline()


@contextmanager
def release(path: Path, name: str, *options: str | int) -> Iterator[Release]:
    """Start a release, and give it when it is ready; kill it at the end if it still runs."""
    arguments = [sys.executable, "-m", "tests.support.sums", str(path), name, *map(str, options)]
    with warm.Warm(
        arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert line_of(process.stdout) == "ready\n"
            yield Release(process)
        finally:
            process.kill()


@contextmanager
def command(*arguments: str | Path | int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start `python -m engine projections`; kill it at the end if it still runs."""
    with warm.Warm(
        [sys.executable, "-m", "engine", "projections", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(*arguments: str | Path | int, **environment: str) -> tuple[int, str, str]:
    """Run `python -m engine projections` to its end; give status, output and errors."""
    with command(*arguments, **environment) as process:
        return ended(process)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command's end; give status, output and errors."""
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err
