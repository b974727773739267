"""Where a command's lines go: a terminal, a file, a pipe whose other end may close at any time.

Rules: lines go to the output and everything else to the error stream. A closed pipe is the wish of
whoever read it, and no failure. This file knows no log and no events.
"""

from __future__ import annotations

import os
import select
import sys
from typing import TextIO

__all__ = ["Output", "tell"]


def tell(text: str) -> None:
    """Write a line to the error stream."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Output:
    """The output of a command. Writing raises BrokenPipeError when nobody reads it any more."""

    def __init__(self, *, utf8: bool) -> None:
        """Take the process's output; `utf8` whatever the terminal's own encoding is."""
        self._stream: TextIO = sys.stdout
        # Whoever replaced the process's output may have given it no encoding to choose.
        reconfigure = getattr(self._stream, "reconfigure", None)
        if reconfigure is not None:
            encoding = "utf-8" if utf8 else None
            reconfigure(encoding=encoding, errors="backslashreplace")

    def write(self, line: str) -> None:
        """Write a line; it may wait for `flush`."""
        self._stream.write(line + "\n")

    def flush(self) -> None:
        """Let everything out."""
        self._stream.flush()

    def rest(self, seconds: float) -> None:
        """Wait, and raise BrokenPipeError as soon as whoever read the output has gone."""
        watch = select.poll()
        # Nothing is asked but whether the other end is there.
        watch.register(self._stream.fileno(), 0)
        found = watch.poll(seconds * 1_000)
        if any(what & (select.POLLERR | select.POLLHUP) for _, what in found):
            raise BrokenPipeError
        if found:
            # Some systems cannot poll a terminal, and say so at once.
            select.select([], [], [], seconds)

    def abandon(self) -> None:
        """Keep the interpreter from flushing into a closed pipe when it ends."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
