"""Whether the index of tags says what the events of a log say.

Rules: the index follows from the events and from the forms that stand beside it. What both say is
added up by blocks of positions, each in one pass, so that memory does not grow with the tags. Only
blocks that differ are read again, to name their rows. It only reads. Calls block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from ..errors import StoreRefused
from ..model.stored import StoredEvent
from ..stores.contract.outside import LogReader
from ..stores.contract.tags import TagForm, TagIndex, TagRow, rows_of

__all__ = ["Difference", "TagCheck"]

_BLOCK: Final = 10_000
"""Positions whose rows are added up together."""
_PAGE_ROWS: Final = 5_000
_MASK: Final = (1 << 64) - 1

Difference: TypeAlias = tuple[TagRow, bool]
"""A row, and whether the log has it (and the index has not)."""
_Pages: TypeAlias = Callable[[int, int], Iterable[Sequence[StoredEvent]]]
"""Gives the events behind a position, up to another."""


class TagCheck:
    """One walk over a log, and then over its index."""

    def __init__(self, log: LogReader) -> None:
        """Take the log; raises as its reads do. A log without an index has nothing to compare."""
        self._index = log if isinstance(log, TagIndex) else None
        self._forms = _forms(self._index)
        self._sums: dict[int, int] = defaultdict(int)
        self.rows = 0
        """How many the events that were seen should have."""

    def see(self, page: Sequence[StoredEvent]) -> None:
        """Add what events are to be found by."""
        for row in self._rows(page) if self._forms else ():
            self.rows += 1
            self._add(row, 1)

    def differences(self, pages: _Pages, end: int, lost: Collection[int]) -> Iterator[Difference]:
        """Give the rows that only one of the two has, up to position `end`.

        Events at `lost` were not seen. Raises StoreRefused where the index was made anew meanwhile.
        """
        if self._index is None:
            return
        for row in self._table(self._index, end):
            self._add(row, -1)
        odd = {block for block, total in self._sums.items() if total}
        if odd:
            yield from self._named(self._index, pages, end, odd, lost)
        if _forms(self._index) != self._forms:
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
                for row in self._rows(page)
                if row[1] // _BLOCK == block
            }
            mine = {row for row in table if row[1] // _BLOCK == block and row[1] not in lost}
            yield from ((row, True) for row in sorted(log - mine))
            yield from ((row, False) for row in sorted(mine - log))

    def _rows(self, page: Sequence[StoredEvent]) -> Iterator[TagRow]:
        for event in page:
            if (event.name, event.event_version) in self._forms:
                try:
                    yield from rows_of([event], self._forms)
                except StoreRefused:
                    continue  # which no engine appends by this form: it is found by nothing

    def _table(self, index: TagIndex, end: int) -> Iterator[TagRow]:
        after = "", 0
        while rows := index.read_tags(after, rows_max=_PAGE_ROWS):
            yield from (row for row in rows if row[1] <= end)
            after = rows[-1][:2]

    def _add(self, row: TagRow, sign: int) -> None:
        block = row[1] // _BLOCK
        self._sums[block] = (self._sums[block] + sign * hash(row)) & _MASK


def _forms(index: TagIndex | None) -> dict[tuple[str, int], TagForm]:
    found = () if index is None else index.tag_forms()
    return {(form.name, form.version): form for form in found}
