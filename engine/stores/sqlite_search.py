"""The SQL of a table's full-text index: how it is made, how it follows the rows, how it is asked.

Rules: the index is SQLite's FTS5 over the table's own columns, and triggers move it with each row,
in the same statement and transaction, whoever writes and whatever many rows one statement puts; a
row whose words stay costs it nothing. An entry is found by a number that its row keeps for life:
an integer key, or a column of its own, which VACUUM does not renumber. What people type is never
taken for FTS5's syntax. This file runs nothing.
"""

# ruff: noqa: S608 - names in the SQL here come from definitions and are quoted

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ..rows import RowShape
from ..views import Search
from .sqlite_session import quoted

__all__ = ["PLACE", "SearchSql", "drops", "index_name"]

PLACE: Final = '":place"'
"""The number of a row whose key is no integer; a colon is in no field's name."""

_TOKENIZER: Final = "unicode61 remove_diacritics 2"


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
        self._integer_key = shape.columns[shape.key_place].sql == "INTEGER"
        self._place = quoted(shape.key) if self._integer_key else PLACE

    def create(self) -> Iterator[str]:
        """Give the statements that make the index of an empty table, and what keeps it right."""
        fields = ", ".join(self._fields)
        content, place = _text(self._name), _text(self._place.strip('"'))
        yield (
            f"CREATE VIRTUAL TABLE {self._index} USING fts5({fields}, content={content}, "
            f"content_rowid={place}, tokenize={_text(_TOKENIZER)})"
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

    def match(self, search: Search) -> str:
        """Give a search as FTS5 reads it."""
        if search.syntax is not None:
            return search.syntax
        return _all_of(search.words)


def _all_of(words: Sequence[str]) -> str:
    """Ask for rows that have all words, the last of which may go on."""
    assert words, "a search has a word"
    # In quotes nothing is syntax but the quote itself; next to each other means AND.
    return " ".join('"' + word.replace('"', '""') + '"' for word in words) + "*"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
