"""The SQL of one table of a view: how it is made, written and read.

Rules: every statement is text with `?` in it; values are bound. Names come from definitions only,
and are quoted. A statement moves many rows in one step, since a thread that steps row by row beside
a busy event loop waits up to 5 ms for the interpreter at each row. Rows are read as one JSON text
where that gives every value back exactly, else one by one. In the tables of a sliced projection
each row has its owner beside it, and no statement of another slice changes it. This file runs
nothing.
"""

# ruff: noqa: S608 - names in the SQL here come from definitions and are quoted

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, TypeAlias

import msgspec

from ....model.conditions import Filter
from ....model.projection import TableDefinition
from ....model.rows import Flat, Scalar
from ...contract.views import Search, Selection
from ..connection import quoted
from .search import PLACE, SearchSql

__all__ = ["Statement", "TableSql"]

Statement: TypeAlias = tuple[str, Sequence[Scalar]]
"""SQL and what is bound to it."""

BINDINGS_MAX: Final = 7_000
"""Values bound by one statement; SQLite takes 32,766, and APSW caches texts below 16 KiB only."""
ROWS_MAX: Final = 1_024
"""Rows of one statement."""
COLUMNS_MAX: Final = 1_000
"""Columns of a table; SQLite takes 2,000."""
SLICE: Final = '"slice:"'
"""The column of a row's owner; a colon is in no field's name."""


class TableSql:
    """The statements of one table: a projection's, as one of its builds has it."""

    def __init__(
        self,
        definition: TableDefinition,
        *,
        floats_exact: bool,
        name: str | None = None,
        sliced: bool = False,
    ) -> None:
        self.definition = definition
        self.name = name or definition.name
        """What the table is called in the file."""
        self.sliced = sliced
        shape = definition.shape
        assert len(shape.columns) <= COLUMNS_MAX
        self._table = quoted(self.name)
        self._key = quoted(shape.key)
        names = [quoted(column.name) for column in shape.columns]
        self._columns = ", ".join(names)
        # In a subquery SQLite calls a column `true` or `false` otherwise, and takes what asks for
        # it by that name for a text; a number with a colon is nobody's name.
        self._numbered = ", ".join(f'{name} AS ":{n}"' for n, name in enumerate(names))
        self._numbers = ", ".join(f'":{n}"' for n in range(len(names)))
        kinds = {column.sql for column in shape.columns}
        self.is_json = "BLOB" not in kinds and (floats_exact or "REAL" not in kinds)
        """Whether its rows are read as one JSON text."""
        self._chunk_rows = min(ROWS_MAX, _power_of_two(BINDINGS_MAX // self._width))
        self._upserts: dict[int, str] = {}
        self._search = SearchSql(self.name, shape) if shape.search else None

    def create(self) -> Iterator[str]:
        """Give the statements that make the table and its indexes."""
        shape = self.definition.shape
        key = shape.columns[shape.key_place]
        numbered = self._search is not None and key.sql != "INTEGER"
        unique = " UNIQUE" if numbered else " PRIMARY KEY"
        columns = [
            f"{quoted(c.name)} {c.sql}{'' if c.nullable else ' NOT NULL'}"
            f"{unique if c.name == shape.key else ''}"
            for c in shape.columns
        ]
        if self.sliced:
            columns.append(f"{SLICE} INTEGER NOT NULL")
        if numbered:
            # What is searched has a number for each row, so its text key is an index beside.
            columns.append(f"{PLACE} INTEGER PRIMARY KEY")
        # A text key is the table's own order, and so the last column of every index: ordered pages
        # need no sorting. An integer key is that by itself.
        options = "STRICT" if numbered or key.sql == "INTEGER" else "STRICT, WITHOUT ROWID"
        yield f"CREATE TABLE {self._table} ({', '.join(columns)}) {options}"
        for names in shape.indexes:
            # A colon is in no field's name, so this is never taken.
            index = quoted(f"{self.name}:{','.join(names)}")
            last = [shape.key] if numbered and shape.key not in names else []
            listed = ", ".join(map(quoted, [*names, *last]))
            yield f"CREATE INDEX {index} ON {self._table} ({listed})"
        if self._search is not None:
            yield from self._search.create()

    def upserts(self, rows: Sequence[Flat]) -> Iterator[Statement]:
        """Give the statements that put rows, in few sizes, so that SQLite compiles each once.

        Of a sliced table each row ends with its slice; a row of another slice stays as it is, so
        that fewer rows change than the statement has.
        """
        place = 0
        while place < len(rows):
            left = len(rows) - place
            size = self._chunk_rows
            while size > left and size > 1:
                size //= 2
            part = rows[place : place + size]
            if left < self._chunk_rows and left > size + size // 2:
                # Putting the last row again does nothing, and saves several small statements.
                size *= 2
                part = [*rows[place:], *[rows[-1]] * (size - left)]
            yield self._upsert(size), list(chain.from_iterable(part))
            place += len(part)

    def rows_in(self, statement: Statement) -> int:
        """Give how many rows an upsert puts."""
        return len(statement[1]) // self._width

    @property
    def _width(self) -> int:
        return len(self.definition.shape.columns) + self.sliced

    def _upsert(self, size: int) -> str:
        known = self._upserts.get(size)
        if known is not None:
            return known
        shape = self.definition.shape
        row = "(" + ",".join("?" * self._width) + ")"
        names = [quoted(c.name) for c in shape.columns if c.name != shape.key]
        if self.sliced:
            names.append(SLICE)
        action = "NOTHING"
        if names:
            action = "UPDATE SET " + ", ".join(f"{name}=excluded.{name}" for name in names)
        if self.sliced:
            action += f" WHERE {SLICE} = excluded.{SLICE}"
        columns = f"{self._columns}, {SLICE}" if self.sliced else self._columns
        sql = (
            f"INSERT INTO {self._table} ({columns}) VALUES {','.join([row] * size)} "
            f"ON CONFLICT ({self._key}) DO {action}"
        )
        self._upserts[size] = sql
        return sql

    def delete(self, keys: Sequence[Scalar]) -> Statement:
        """Give the statement that takes away the rows of these keys."""
        return f"DELETE FROM {self._table} WHERE {self._among()}", (_json_text(keys),)

    def fetch(self, keys: Sequence[Scalar]) -> Statement:
        """Give the statement that reads the rows of these keys, in any order."""
        return self._select(f"WHERE {self._among()}"), (_json_text(keys),)

    def of_others(self, keys: Sequence[Scalar], slice_: int) -> Statement:
        """Give the statement that finds a row of these keys that belongs to another slice."""
        condition = f"{self._among()} AND {SLICE} <> ?"
        sql = f"SELECT {self._key}, {SLICE} FROM {self._table} WHERE {condition} LIMIT 1"
        return sql, (_json_text(keys), slice_)

    def get(self, key: Scalar) -> Statement:
        """Give the statement that reads one row."""
        return self._select(f"WHERE {self._key} = ?"), (key,)

    def find(self, selection: Selection) -> Statement:
        """Give the statement that reads a selection."""
        where, values = _where(selection.where)
        order_by = quoted(selection.order_by or self.definition.shape.key)
        direction = " DESC" if selection.descending else ""
        if selection.after is not None:
            behind = "<" if selection.descending else ">"
            where.append(f"({order_by}, {self._key}) {behind} (?, ?)")
            values += selection.after
        order = f"{order_by}{direction}"
        if order_by != self._key:
            order += f", {self._key}{direction}"
        condition = f"WHERE {' AND '.join(where)} " if where else ""
        values += (selection.limit, selection.offset)
        return self._select(f"{condition}ORDER BY {order} LIMIT ? OFFSET ?"), values

    def search(self, search: Search) -> Statement:
        """Give the statement that reads what a search finds, the best first."""
        assert self._search is not None, "views refuse to search a table without the fields for it"
        where, values = _where(search.where)
        more, words = self._search.scanned(search)
        where += more
        values += words
        condition = f"WHERE {' AND '.join(where)} " if where else ""
        match, order, source = self._search.match(search), self._key, ""
        if match is not None:
            order, source = f'":rank", {order}', self._search.source()
            values.insert(0, match)
        values += (search.limit, search.offset)
        return self._select(f"{condition}ORDER BY {order} LIMIT ? OFFSET ?", source), values

    def count(self, where: Sequence[Filter]) -> Statement:
        """Give the statement that counts."""
        conditions, values = _where(where)
        condition = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"SELECT count(*) FROM {self._table}{condition}", values

    def rows_of(self, answer: Sequence[Any]) -> Sequence[Flat]:
        """Give the rows out of what a reading statement answered."""
        if self.is_json:
            return _rows_decoder.decode(answer[0][0])
        return answer

    def _select(self, tail: str, source: str = "") -> str:
        inner = f"FROM {source or self._table} {tail}"
        if not self.is_json:
            return f"SELECT {self._columns} {inner}"
        rows = f"SELECT {self._numbered} {inner}"
        return f"SELECT json_group_array(json_array({self._numbers})) FROM ({rows})"

    def _among(self) -> str:
        return f"{self._key} IN (SELECT value FROM json_each(?))"


_rows_decoder: msgspec.json.Decoder[list[Flat]] = msgspec.json.Decoder(list[tuple[Any, ...]])
_json_encode: Callable[[object], bytes] = msgspec.json.Encoder().encode


def _json_text(keys: Sequence[Scalar]) -> str:
    return _json_encode(keys).decode()


def _where(filters: Sequence[Filter]) -> tuple[list[str], list[Scalar]]:
    texts: list[str] = []
    values: list[Scalar] = []
    for filter_ in filters:
        name = quoted(filter_.name)
        if filter_.among is not None:
            texts.append(_among(name, filter_.among, values))
        if filter_.low is not None:
            texts.append(f"{name} {'>=' if filter_.with_low else '>'} ?")
            values.append(filter_.low)
        if filter_.high is not None:
            texts.append(f"{name} {'<=' if filter_.with_high else '<'} ?")
            values.append(filter_.high)
    return texts, values


def _among(name: str, among: Sequence[Scalar], values: list[Scalar]) -> str:
    given = [value for value in among if value is not None]
    texts = ["IS NULL"] if len(given) < len(among) else []
    if len(given) == 1:
        texts.append("= ?")
    elif given:
        # In few sizes, so that SQLite compiles each once; a value may be there twice.
        size = 2 * _power_of_two(len(given) - 1)
        given += [given[-1]] * (size - len(given))
        texts.append(f"IN ({','.join('?' * size)})")
    elif not texts:
        return "0"  # any of no values
    values += given
    joined = " OR ".join(f"{name} {text}" for text in texts)
    return joined if len(texts) == 1 else f"({joined})"


def _power_of_two(limit: int) -> int:
    return 1 << (limit.bit_length() - 1)
