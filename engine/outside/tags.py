"""Whether the index of tags says what the events of a log say.

Rules: the index follows from the events and from the forms that stand beside it. What both say is
added up by blocks of positions, each in one pass, so that memory does not grow with the tags. Only
blocks that differ are read again, to name their rows. It only reads. Calls block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias
from zlib import crc32

from ..errors import StoreRefused
from ..model.stored import StoredEvent
from ..stores.contract.outside import LogReader
from ..stores.contract.tags import TagForm, TagIndex, TagRow, rows_of

__all__ = ["Difference", "TagCheck", "TagSums"]

_BLOCK: Final = 10_000
"""Positions whose rows are added up together."""
_PAGE_ROWS: Final = 5_000
_MASK: Final = (1 << 64) - 1

Difference: TypeAlias = tuple[TagRow, bool]
"""A row, and whether the log has it (and the index has not)."""
_Pages: TypeAlias = Callable[[int, int], Iterable[Sequence[StoredEvent]]]
"""Gives the events behind a position, up to another."""


class TagSums:
    """What events are to be found by, added up."""

    def __init__(self, forms: Sequence[TagForm]) -> None:
        """Take the forms by which the index was made."""
        self._forms = {(form.name, form.version): form for form in forms}
        self.sums: dict[int, int] = defaultdict(int)
        """By blocks of positions; the same in each process."""
        self.rows = 0

    def __bool__(self) -> bool:
        """Tell whether events can have tags at all."""
        return bool(self._forms)

    def see(self, page: Sequence[StoredEvent]) -> None:
        """Add events."""
        for row in self.rows_of(page):
            self.rows += 1
            self.add(row, 1)

    def rows_of(self, page: Sequence[StoredEvent]) -> Iterator[TagRow]:
        """Give the rows that events should have."""
        for event in page:
            if (event.name, event.event_version) in self._forms:
                try:
                    yield from rows_of([event], self._forms)
                except StoreRefused:
                    continue  # which no engine appends by this form: it is found by nothing

    def add(self, row: TagRow, sign: int) -> None:
        """Add a row, or take it away."""
        block, hashed = row[1] // _BLOCK, crc32(repr(row).encode(errors="surrogatepass"))
        self.sums[block] = (self.sums[block] + sign * hashed) & _MASK


class TagCheck:
    """One walk over a log, and then over its index."""

    def __init__(self, log: LogReader) -> None:
        """Take the log; raises as its reads do. A log without an index has nothing to compare."""
        self._index = log if isinstance(log, TagIndex) else None
        self.forms: Sequence[TagForm] = _forms(self._index)
        """By which its index was made."""
        self._log = TagSums(self.forms)

    @property
    def rows(self) -> int:
        """How many the events that were seen should have."""
        return self._log.rows

    def see(self, sums: Mapping[int, int], rows: int) -> None:
        """Add the sums of events, of so many rows."""
        self._log.rows += rows
        for block, total in sums.items():
            self._log.sums[block] = (self._log.sums[block] + total) & _MASK

    def differences(self, pages: _Pages, end: int, lost: Collection[int]) -> Iterator[Difference]:
        """Give the rows that only one of the two has, up to position `end`.

        Events at `lost` were not seen. Raises StoreRefused where the index was made anew meanwhile.
        """
        if self._index is None:
            return
        for row in self._table(self._index, end):
            self._log.add(row, -1)
        odd = {block for block, total in self._log.sums.items() if total}
        if odd:
            yield from self._named(self._index, pages, end, odd, lost)
        if _forms(self._index) != self.forms:
            raise StoreRefused("it was made anew meanwhile: verify it once more")

    def _named(
        self, index: TagIndex, pages: _Pages, end: int, odd: set[int], lost: Collection[int]
    ) -> Iterator[Difference]:
        table = {row for row in self._table(index, end) if row[1] // _BLOCK in odd}
        for block in sorted(odd):
            begin = max(block * _BLOCK - 1, 0)
            log = {
                row
                for page in pages(begin, min(begin + _BLOCK, end))
                for row in self._log.rows_of(page)
                if row[1] // _BLOCK == block
            }
            mine = {row for row in table if row[1] // _BLOCK == block and row[1] not in lost}
            yield from ((row, True) for row in sorted(log - mine))
            yield from ((row, False) for row in sorted(mine - log))

    def _table(self, index: TagIndex, end: int) -> Iterator[TagRow]:
        after = "", 0
        while rows := index.read_tags(after, rows_max=_PAGE_ROWS):
            yield from (row for row in rows if row[1] <= end)
            after = rows[-1][:2]


def _forms(index: TagIndex | None) -> Sequence[TagForm]:
    return () if index is None else index.tag_forms()
