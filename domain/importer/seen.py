"""Which texts were seen before, in a few bytes each, for files of any length.

Rules: of a text its hash of 64 bits is kept and nothing else, so "seen" may be wrong once in many
millions of millions of texts, and "not seen" never is. Who acts on "seen" looks again.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import Final

__all__ = ["Seen"]

_FIRST_SLOTS: Final = 1_024


class Seen:
    """A set of texts that grows, and is only added to."""

    def __init__(self) -> None:
        self._slots = _empty(_FIRST_SLOTS)
        self._count = 0

    def __contains__(self, text: str) -> bool:
        """Tell whether the text was added."""
        digest = _digest(text)
        return self._slots[self._place(digest)] == digest

    def add(self, text: str) -> bool:
        """Add a text; tell whether it is new."""
        digest = _digest(text)
        place = self._place(digest)
        if self._slots[place] == digest:
            return False
        self._slots[place] = digest
        self._count += 1
        if self._count * 3 > len(self._slots) * 2:
            self._grow()
        return True

    def _place(self, digest: int) -> int:
        """Give the slot of a digest, or the free one where it would stand."""
        slots, mask = self._slots, len(self._slots) - 1
        place = digest & mask
        while slots[place] not in (0, digest):
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        former, self._slots = self._slots, _empty(2 * len(self._slots))
        for digest in former:
            if digest:
                self._slots[self._place(digest)] = digest


def _empty(slots: int) -> array[int]:
    return array("Q", bytes(8 * slots))


def _digest(text: str) -> int:
    # 0 is a slot that is free.
    raw = text.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big") or 1
