"""The SQL of a table's full-text index: how it is made, how it follows the rows, how it is asked.

Rules: the index is SQLite's FTS5 over the table's own columns, and triggers move it with each row,
in the same statement and transaction, whoever writes and whatever many rows one statement puts; a
row whose words stay costs it nothing. An entry is found by a number that its row keeps for life:
an integer key, or a column of its own, which VACUUM does not renumber. What people type is never
taken for FTS5's syntax. Words of writings without spaces are no words to the index, so these are
looked for inside the texts, row by row; by choice of the row the index is of trigrams, and finds
what has three characters or more. This file runs nothing.
"""

# ruff: noqa: S608 - names in the SQL here come from definitions and are quoted

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ....model.rows import RowShape, Scalar
from ...contract.views import Search
from ..connection import quoted

__all__ = ["PLACE", "SearchSql", "drops", "index_name"]

PLACE: Final = '":place"'
"""The number of a row whose key is no integer; a colon is in no field's name."""

_TOKENIZER: Final = "unicode61 remove_diacritics 2"
_TRIGRAMS: Final = "trigram remove_diacritics 1"
_WITHOUT_SPACES: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese, Yi: their words stand next to each other."""


def index_name(table: str) -> str:
    """Give what the full-text index of a table is called; no other index has two colons."""
    return f"{table}::search"


def drops(table: str) -> Iterator[str]:
    """Give the statements that take a table away with all that belongs to it."""
    # The triggers go with the table, before the index that they write to.
    yield f"DROP TABLE IF EXISTS {quoted(table)}"
    yield f"DROP TABLE IF EXISTS {quoted(index_name(table))}"


class SearchSql:
    """The statements of one full-text index."""

    def __init__(self, table: str, shape: RowShape) -> None:
        self._name = table
        self._table = quoted(table)
        self._index = quoted(index_name(table))
        self._fields = [quoted(name) for name in shape.search]
        self._trigrams = shape.trigrams
        self._tokenizer = _TRIGRAMS if shape.trigrams else _TOKENIZER
        self._integer_key = shape.columns[shape.key_place].sql == "INTEGER"
        self._place = quoted(shape.key) if self._integer_key else PLACE

    def create(self) -> Iterator[str]:
        """Give the statements that make the index of an empty table, and what keeps it right."""
        fields = ", ".join(self._fields)
        content, place = _text(self._name), _text(self._place.strip('"'))
        yield (
            f"CREATE VIRTUAL TABLE {self._index} USING fts5({fields}, content={content}, "
            f"content_rowid={place}, tokenize={_text(self._tokenizer)})"
        )
        changed = " OR ".join(f"old.{field} IS NOT new.{field}" for field in self._fields)
        for when, name, steps in (
            ("INSERT", "added", (self._add(),)),
            ("DELETE", "gone", (self._take(),)),
            # An upsert sets every column: without the condition each row would be indexed anew.
            (f"UPDATE OF {fields}", "changed", (self._take(), self._add())),
        ):
            condition = f" WHEN {changed}" if name == "changed" else ""
            yield (
                f"CREATE TRIGGER {quoted(f'{self._name}::{name}')} AFTER {when} ON {self._table}"
                f"{condition} BEGIN {' '.join(f'{step};' for step in steps)} END"
            )

    def _add(self) -> str:
        fields, values = ", ".join(self._fields), ", ".join(f"new.{f}" for f in self._fields)
        return f"INSERT INTO {self._index} (rowid, {fields}) VALUES (new.{self._place}, {values})"

    def _take(self) -> str:
        # FTS5 is told which words the entry had, and so need not look for it.
        fields, values = ", ".join(self._fields), ", ".join(f"old.{f}" for f in self._fields)
        return (
            f"INSERT INTO {self._index} ({self._index}, rowid, {fields}) "
            f"VALUES ('delete', old.{self._place}, {values})"
        )

    def source(self) -> str:
        """Give what to select a search's rows from; its one parameter is what `match` gives."""
        # The index first, whatever SQLite estimates: asked row by row it would search each time.
        return (
            f'(SELECT rowid AS ":found", rank AS ":rank" FROM {self._index} '
            f"WHERE {self._index} MATCH ?) CROSS JOIN {self._table} "
            f'ON {self._table}.{self._place} = ":found"'
        )

    def match(self, search: Search) -> str | None:
        """Give a search as FTS5 reads it; None where no word of it is in the index."""
        if search.syntax is not None:
            return search.syntax
        words = [word for word in search.words if not self._is_scanned(word)]
        if not words:
            return None
        # In quotes nothing is syntax but the quote itself; next to each other means AND.
        text = " ".join('"' + word.replace('"', '""') + '"' for word in words)
        # The last word may go on; by trigrams each may, and begin before.
        return text if self._trigrams or words[-1] != search.words[-1] else text + "*"

    def scanned(self, search: Search) -> tuple[list[str], list[Scalar]]:
        """Give conditions for the words that are not in the index, and their values."""
        words = search.words if search.syntax is None else ()
        found = [_lowered(word) for word in words if self._is_scanned(word)]
        inside = " OR ".join(f"instr(lower({field}), ?) > 0" for field in self._fields)
        return [f"({inside})"] * len(found), [word for word in found for _ in self._fields]

    def _is_scanned(self, word: str) -> bool:
        if self._trigrams:
            return len(word) < 3
        return _WITHOUT_SPACES.search(word) is not None


def _lowered(word: str) -> str:
    """Give a word as SQLite's lower does, which knows ASCII alone."""
    return "".join(c.lower() if c.isascii() else c for c in word)


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
