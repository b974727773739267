"""How long a thread has waited for a core of the machine, as Linux tells.

Rules: the figures are those of the kernel (`schedstat`, fields of Documentation/scheduler). Where
there are none, as on macOS, a thread seems to wait never. Nothing is raised.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CoreWait"]

_NANOSECONDS = 1_000_000_000


class CoreWait:
    """The waits of one thread of this process, by the number that the system gave it."""

    def __init__(self, thread: int, *, tasks: Path = Path("/proc/self/task")) -> None:
        self._folder = tasks / str(thread)
        self._seen: tuple[int, int] | None = None
        self._since = 0.0
        """When the thread was first seen ready with what it has run and waited until now."""

    def seconds(self, now: float) -> float:
        """Give its seconds of waiting since its start; `now` is in seconds of any steady clock.

        The kernel adds a wait to its sum when it is over. So the wait of a thread that is ready,
        and has neither run nor waited since an earlier look, is added here.
        """
        try:
            ran, waited = map(int, self._read("schedstat").split()[:2])
            # The name of a thread stands in brackets before its state, and may have anything in it.
            state = self._read("stat").rpartition(b")")[2].split()[0]
        except (OSError, ValueError, IndexError):
            return 0.0
        if state != b"R" or self._seen != (ran, waited):
            self._seen, self._since = (ran, waited), now
        return waited / _NANOSECONDS + now - self._since

    def _read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()
