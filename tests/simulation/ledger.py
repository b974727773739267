"""The book of what was simulated: which seeds of which code, and which of them were bad.

Rules: a line of JSON for each range of seeds, appended as the work goes on, so that a run that was
interrupted goes on where it stopped. A range counts for the code that it was run on and for no
other: the code is named by a hash of all Python files of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Ledger", "Range", "hash_of_code"]

ENGINE: Final = Path(__file__).parents[2]


class Range(msgspec.Struct, frozen=True):
    """Some seeds that were run."""

    code: str
    first: int
    seeds: int
    bad: list[int]
    python: str


def hash_of_code() -> str:
    """Name the code: the engine's files and this simulation, as they are on the disk."""
    digest = blake2b(digest_size=6)
    for path in sorted(ENGINE.rglob("*.py")):
        digest.update(path.relative_to(ENGINE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class Ledger:
    """One file of ranges."""

    def __init__(self, path: Path, code: str, python: str) -> None:
        self._path = path
        self._code = code
        self._python = python
        self.ranges: list[Range] = []
        if path.exists():
            lines = path.read_bytes().splitlines()
            self.ranges = [msgspec.json.decode(line, type=Range) for line in lines if line]

    def left(self, first: int, seeds: int) -> Iterator[int]:
        """Give the seeds of a range that this code has not been run with."""
        mine = [r for r in self.ranges if (r.code, r.python) == (self._code, self._python)]
        done = [range(r.first, r.first + r.seeds) for r in mine]
        return (n for n in range(first, first + seeds) if not any(n in some for some in done))

    def add(self, seed: int, *, bad: bool) -> None:
        """Take note of a seed: the range that it continues grows by it."""
        last = self.ranges[-1] if self.ranges else None
        if (
            last is not None
            and (last.code, last.python) == (self._code, self._python)
            and last.first + last.seeds == seed
        ):
            bads = [*last.bad, seed] if bad else last.bad
            self.ranges[-1] = msgspec.structs.replace(last, seeds=last.seeds + 1, bad=bads)
        else:
            bads = [seed] if bad else []
            self.ranges.append(Range(self._code, seed, 1, bads, self._python))

    def save(self) -> None:
        """Write the file, whole."""
        lines = b"".join(msgspec.json.encode(line) + b"\n" for line in self.ranges)
        scratch = self._path.with_suffix(".new")
        scratch.write_bytes(lines)
        scratch.replace(self._path)
