"""Acknowledgements: a file with the key and position of each command, as it is acknowledged.

Rules: a line is handed to the operating system before the next one is made, so that a process that
is killed leaves at most its last line torn. The file is only ever appended to. It proves from
outside what the shop has promised; the shop itself never reads it.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from engine import Receipt

__all__ = ["Acknowledgements"]


class Acknowledgements:
    """An open file of acknowledgements. Opening raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Acknowledgements:
        """Be closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def add(self, key: str, receipt: Receipt) -> None:
        """Write one line: the key and the position of the command's last event."""
        self._file.write(f"{key}\t{receipt.position}\n".encode())
