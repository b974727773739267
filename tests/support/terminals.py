"""A pseudo-terminal with a command in it, what it wrote, and the frame that it shows."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

from rich.cells import cell_len

from engine.cli.output import show
from engine.cli.tables import Table
from tests.support.processes import ROOT, SECONDS

_ORDERS = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


class Terminal:
    """A terminal of so many columns and lines; the error stream is it too, or a file."""

    def __init__(
        self, columns: int, lines: int, *arguments: str, errors: bool, **environment: str
    ) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(columns, lines)
        # A file, since nobody reads it before the end: a pipe that is full would hold the shop up.
        self._told = tempfile.TemporaryFile()  # noqa: SIM115
        # The first terminal that the leader of a session opens becomes its own, with its Ctrl-C.
        streams = '<"$0" >"$0" 2>&1' if errors else '<"$0" >"$0"'
        name = os.ttyname(self._slave)
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {streams}', name, sys.executable, *arguments],
            cwd=ROOT,
            env={**_environment(), **environment},
            stderr=self._told,
            start_new_session=True,
        )
        self.seen = ""

    def resize(self, columns: int, lines: int) -> None:
        self._size = (columns, lines)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    @property
    def text(self) -> str:
        """All that was written, without what moves a cursor or gives a colour."""
        return _ORDERS.sub("", self.seen).replace("\r\n", "\n")

    @property
    def frame(self) -> list[str]:
        """The lines that were drawn last; they fill the terminal when they are whole."""
        last = _ORDERS.sub("", self.seen.rpartition("\x1b[H")[2])
        return [line.rstrip() for line in re.split(r"\r+\n", last)] if self._is_whole(last) else []

    def until(self, shown: Callable[[list[str]], bool]) -> list[str]:
        """Wait for a frame."""
        deadline = time.monotonic() + SECONDS
        while not (self.frame and shown(self.frame)):
            assert time.monotonic() < deadline, self.seen[-5_000:]
            if not self._read():
                raise AssertionError(f"it ended: {self.seen[-500:]}")
        return self.frame

    def until_written(self, text: str) -> None:
        """Wait for a text."""
        while text not in self.seen:
            if not self._read():
                raise AssertionError(f"it ended: {self.seen[-500:]}")

    def ended(self) -> tuple[int, str]:
        """Give its exit status, and what it wrote to an error stream that is a file."""
        while self._read():
            pass
        status = self.process.wait(SECONDS)
        self._told.seek(0)
        return status, self._told.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._told.close()
        if not self.seen:
            os.close(self._slave)
        os.close(self._master)

    def _is_whole(self, drawn: str) -> bool:
        columns, lines = self._size
        widths = [cell_len(line) for line in re.split(r"\r+\n", drawn)]
        return widths == [columns] * lines

    def _read(self) -> bool:
        if not select.select([self._master], [], [], SECONDS)[0]:
            return False
        try:
            read = os.read(self._master, 65_536)
        except OSError:
            return False
        if not self.seen:
            # It has opened the terminal by now, and is the only one whose end shall be its end.
            os.close(self._slave)
        self.seen += read.decode(errors="replace")
        return bool(read)


def _environment() -> dict[str, str]:
    """Give that of the tests, but for what says how wide or colourful a terminal is."""
    told = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_INTERACTIVE"}
    kept = {name: value for name, value in os.environ.items() if name not in told}
    return {**kept, "TERM": "xterm"}


@contextmanager
def terminal(
    *arguments: str, columns: int = 80, lines: int = 24, errors: bool = False, **environment: str
) -> Iterator[Terminal]:
    """Run Python with these arguments in a terminal; kill it at the end if it still runs."""
    made = Terminal(columns, lines, *arguments, errors=errors, **environment)
    try:
        yield made
    finally:
        made.close()


def as_text(parts: Iterable[str | Table]) -> str:
    """Give lines and tables as a pipe gets them."""
    with redirect_stdout(io.StringIO()) as written:
        show(parts)
    return written.getvalue()


def shows(*texts: str) -> Callable[[list[str]], bool]:
    """Tell whether a frame has all of these texts, each in a line."""
    return lambda frame: all(any(text in line for line in frame) for text in texts)
