"""How far a command is that moves a log, and how it ends when it is told to.

Rules: progress goes to the error stream: a bar on a terminal, or a line from time to time. This
file knows no log.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ..outside.copying import CopyProgress
from ..runtime.ports import Ports
from .output import tell, terminal_of

if TYPE_CHECKING:
    from .terminal import Bar

__all__ = ["Ended", "Shown", "ending_tidily"]

LINE_SECONDS: Final = 5.0
"""Between two lines of progress, where they do not go to a terminal."""
BAR_SECONDS: Final = 0.1


class Shown:
    """How far it is: a bar on a terminal, or a line from time to time elsewhere."""

    def __init__(self, ports: Ports) -> None:
        self._now = ports.clock.monotonic
        self._terminal = terminal_of(sys.stderr)
        self._bar: Bar | None = None
        self._what = ""
        self._shown_at = self._begun_at = self._now()
        self._begun = 0

    def show(self, progress: CopyProgress) -> None:
        """Show it; leave it out where the last time was just now."""
        now, last = self._now(), progress.position == progress.end
        if progress.what != self._what:
            self.end()
            self._what, self._begun, self._begun_at = progress.what, progress.position, now
            if self._terminal is not None:
                self._bar = self._terminal.bar(progress.what)
        if now - self._shown_at < (LINE_SECONDS if self._bar is None else BAR_SECONDS) and not (
            last and self._bar is not None and progress.what != "checked"
        ):
            return
        self._shown_at = now
        seconds = now - self._begun_at
        speed = (progress.position - self._begun) / seconds if seconds > 0 else 0
        note = f"{progress.position:,} of {progress.end:,} events"
        if progress.what == "checked":
            note = f"{progress.position:,} events"  # nobody knows how many come
        if speed:
            note += f", {speed:,.0f} events/s"
        if self._bar is not None:
            self._bar.show(progress.position, progress.end, note)
        else:
            tell(f"{progress.what}: {note}")

    def end(self) -> None:
        """Let what comes next begin on a line of its own."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.end()


class Ended(SystemExit):
    """A signal ends the command; its code is the exit status."""


@contextmanager
def ending_tidily() -> Generator[None]:
    """Take what is not whole away also where a timer or a service manager ends the copying."""

    def end(number: int, _frame: object) -> None:
        raise Ended(128 + number)

    former = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
