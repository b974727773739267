"""The live display: one line that is drawn again on a terminal, a line each second elsewhere.

Rules: it goes to the error stream, reads what is known already, and costs the engine nothing.
Percentiles are those of the last two seconds, by the moment at which commands were due.
"""

from __future__ import annotations

import time
from typing import TextIO

from ..histogram import Sample
from .book import SLICE_SECONDS, Book
from .lives import Lives

__all__ = ["Display"]

WINDOW = round(2.0 / SLICE_SECONDS)


class Display:
    """Shows one run. `lives` is set when there are any."""

    def __init__(self, book: Book, stream: TextIO) -> None:
        self.lives: Lives | None = None
        self._book = book
        self._stream = stream
        self._terminal = stream.isatty()
        self._every = SLICE_SECONDS if self._terminal else 1.0
        self._shown_at = 0.0

    def show(self) -> None:
        """Show how it stands, if it is time to."""
        now = time.monotonic()
        if now - self._shown_at < self._every or not self._book.slices:
            return
        self._shown_at = now
        if self._terminal:
            self._stream.write(f"\r\x1b[K{self._line(now)}")
        else:
            self._stream.write(f"{self._line(now)}\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._stream.write(f"\r\x1b[K{text}\n" if self._terminal else f"{text}\n")
        self._stream.flush()

    def told(self, what: str, count: int) -> None:
        """Show how far the verification has come, on a terminal."""
        if self._terminal:
            self._stream.write(f"\r\x1b[Kverifying: {what} {count:,} events")
            self._stream.flush()

    def _line(self, now: float) -> str:
        slices = self._book.slices[-WINDOW:]
        seconds = max(SLICE_SECONDS, len(slices) * SLICE_SECONDS)
        p50, p99, p999 = Sample(each.latency for each in slices).ms(50, 99, 99.9)
        answered = sum(each.answered for each in slices) / seconds
        overloaded = sum(each.overloaded for each in slices) / seconds
        text = (
            f"{now - self._book.began:6.1f} s {answered:7,.0f}/s"
            f"  p50 {p50:.1f} p99 {p99:.1f} p99.9 {p999:.1f} ms"
        )
        if overloaded:
            text += f"  overloaded {overloaded:,.0f}/s"
        return text + self._engine()

    def _engine(self) -> str:
        if self.lives is None or not self.lives.numbers:
            return ""
        life, last = self.lives.numbers[-1]
        same = [n for number, n in self.lives.numbers[-WINDOW:] if number == life]
        seconds = last.at - same[0].at
        commits, events = last.commits - same[0].commits, last.events - same[0].events
        text = f"  waiting {last.waiting:,}"
        if seconds and commits:
            text += f"  batch {events / commits:.1f}  commits {commits / seconds:,.0f}/s"
        kills = sum(seen.killed_at is not None for seen in self.lives.seen)
        return f"{text}  lag {last.lag:,}  rss {last.rss >> 20} MiB  kills {kills}"
