"""The SQL of one table of a view in PostgreSQL: how it is made, written and read.

Rules: values are bound, many rows at once as one array for each column (`arrays`). Names come from
definitions only, and are quoted. Texts compare by their characters (COLLATE "C"), and what is None
comes first in an order, so that rows and pages are those of every other store. In the tables of a
sliced projection each row has its owner beside it, and no statement of another slice changes it.
The words of a row that is searched stand beside it, and are written with it. This file runs
nothing.
"""

# ruff: noqa: S608 - names in the SQL here come from definitions and are quoted

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from ....model.conditions import Filter
from ....model.projection import TableDefinition
from ....model.rows import Column, Flat, Scalar
from ...contract.views import Search, Selection
from .arrays import bound, marked
from .names import name_of_further, quoted
from .syntax import query_of
from .words import is_scanned, normal, phrase, vector

__all__ = ["Statement", "TableSql"]

Statement: TypeAlias = tuple[str, Sequence[Any]]
"""SQL and what is bound to it."""

TYPES: Final = {"TEXT": "text", "INTEGER": "bigint", "REAL": "double precision", "BLOB": "bytea"}
SLICE: Final = '"slice:"'
"""The column of a row's owner; a colon is in no field's name."""
WORDS: Final = '"words:"'
"""The words of a row, with their places."""
TEXT: Final = '"text:"'
"""The texts of a row without capitals and accents, where the inside of words is searched."""
_BETWEEN: Final = "\x1f"
"""Stands between the texts of two fields."""


class TableSql:
    """The statements of one table: a projection's, as one of its builds has it."""

    def __init__(
        self, definition: TableDefinition, schema: str, name: str, *, sliced: bool
    ) -> None:
        self.definition = definition
        self.name = name
        """What the table is called in its schema."""
        self.sliced = sliced
        shape = definition.shape
        self._shape = shape
        self._table = f"{quoted(schema)}.{quoted(name)}"
        self._key = quoted(shape.key)
        self._key_type = TYPES[shape.columns[shape.key_place].sql]
        self._columns = ", ".join(quoted(column.name) for column in shape.columns)
        self._searched = [place for place, c in enumerate(shape.columns) if c.name in shape.search]
        self._trigrams = shape.trigrams
        self.measured = [n for n, c in enumerate(shape.columns) if c.sql in ("TEXT", "BLOB")]
        """Places of the values that may be large."""
        self._put = self._upsert()

    @property
    def shown_columns(self) -> str:
        """The columns that the rows were declared with."""
        return self._columns

    # -- making -------------------------------------------------------------------------------

    def create(self) -> Iterator[str]:
        """Give the statements that make the table and its indexes."""
        columns = [self._declared(column) for column in self._shape.columns]
        columns += [f"{name} {kind} NOT NULL" for name, kind, _ in self._beside()]
        # Room for a changed row beside the old one: then no index of it needs to move.
        yield f"CREATE TABLE {self._table} ({', '.join(columns)}) WITH (fillfactor = 85)"
        for number, names in enumerate(self._shape.indexes):
            last = [] if self._shape.key in names else [self._shape.key]
            listed = ", ".join(self._ordered(name) for name in [*names, *last])
            index = quoted(name_of_further(self.name, f"i{number}"))
            yield f"CREATE INDEX {index} ON {self._table} ({listed})"
        if self._searched:
            index = quoted(name_of_further(self.name, "search"))
            yield f"CREATE INDEX {index} ON {self._table} USING gin ({WORDS})"

    def _declared(self, column: Column) -> str:
        kind = TYPES[column.sql] + (' COLLATE "C"' if column.sql == "TEXT" else "")
        rest = "" if column.nullable else " NOT NULL"
        if column.name == self._shape.key:
            rest += " PRIMARY KEY"
        if column.sql == "REAL":
            rest += f" CHECK ({quoted(column.name)} <> 'NaN')"
        return f"{quoted(column.name)} {kind}{rest}"

    def _beside(self) -> list[tuple[str, str, str]]:
        """Give the columns beside those declared: name, type, and the type of what is bound."""
        found: list[tuple[str, str, str]] = []
        if self._searched:
            found.append((WORDS, "tsvector", "text"))
            if self._trigrams:
                found.append((TEXT, 'text COLLATE "C"', "text"))
        if self.sliced:
            found.append((SLICE, "integer", "integer"))
        return found

    def _ordered(self, name: str) -> str:
        return quoted(name) + (" NULLS FIRST" if self._shape.column(name).nullable else "")

    # -- writing ------------------------------------------------------------------------------

    def _upsert(self) -> str:
        beside = self._beside()
        names = [quoted(c.name) for c in self._shape.columns] + [name for name, _, _ in beside]
        kinds = self._kinds = [TYPES[c.sql] for c in self._shape.columns]
        kinds += [kind for _, _, kind in beside]
        arrays = ", ".join(marked(n, kind) for n, kind in enumerate(kinds, start=1))
        given = ", ".join(
            f"c{n}::tsvector" if name == WORDS else f"c{n}" for n, name in enumerate(names)
        )
        listed = ", ".join(f"c{n}" for n in range(len(names)))
        action = "NOTHING"
        others = [name for name in names if name != self._key]
        if others:
            action = "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in others)
        if self.sliced:
            action += f" WHERE old.{SLICE} = excluded.{SLICE}"
        put = (
            f"INSERT INTO {self._table} AS old ({', '.join(names)}) "
            f"SELECT {given} FROM unnest({arrays}) AS given({listed}) "
            f"ON CONFLICT ({self._key}) DO {action}"
        )
        if not self.sliced:
            return put
        return f"WITH put AS ({put} RETURNING 1) SELECT count(*) FROM put"

    def upsert(self, rows: Sequence[Flat], slice_: int) -> Statement:
        """Give the statement that puts rows.

        Of a sliced table it gives how many were put: a row of another slice stays as it is.
        """
        columns: list[Any] = list(zip(*rows, strict=True))
        if self._searched:
            texts = [[_text(row[place]) for place in self._searched] for row in rows]
            columns.append([vector(row, trigrams=self._trigrams) for row in texts])
            if self._trigrams:
                columns.append([normal(_BETWEEN.join(t or "" for t in row)) for row in texts])
        if self.sliced:
            columns.append([slice_] * len(rows))
        return self._put, list(map(bound, self._kinds, columns))

    def delete(self, keys: Sequence[Scalar]) -> Statement:
        """Give the statement that takes away the rows of these keys."""
        return f"DELETE FROM {self._table} WHERE {self._among()}", (list(keys),)

    def fetch(self, keys: Sequence[Scalar]) -> Statement:
        """Give the statement that reads the rows of these keys, in any order."""
        return f"SELECT {self._columns} FROM {self._table} WHERE {self._among()}", (list(keys),)

    def of_others(self, keys: Sequence[Scalar], slice_: int) -> Statement:
        """Give the statement that finds a row of these keys that belongs to another slice."""
        sql = (
            f"SELECT {self._key}, {SLICE} FROM {self._table} WHERE {self._among()} "
            f"AND {SLICE} <> $2 LIMIT 1"
        )
        return sql, (list(keys), slice_)

    def _among(self) -> str:
        return f"{self._key} = ANY ($1::{self._key_type}[])"

    # -- reading ------------------------------------------------------------------------------

    def get(self, key: Scalar) -> Statement:
        """Give the statement that reads one row."""
        return f"SELECT {self._columns} FROM {self._table} WHERE {self._key} = $1", (key,)

    def find(self, selection: Selection) -> Statement:
        """Give the statement that reads a selection."""
        values: list[Any] = []
        where = self._where(selection.where, values)
        order_by = selection.order_by or self._shape.key
        if selection.after is not None:
            behind = "<" if selection.descending else ">"
            values += selection.after
            place = f"${len(values) - 1}, ${len(values)}"
            where.append(f"({quoted(order_by)}, {self._key}) {behind} ({place})")
        order = self._direction(order_by, descending=selection.descending)
        if order_by != self._shape.key:
            order += ", " + self._direction(self._shape.key, descending=selection.descending)
        return self._page(where, order, values, selection.limit, selection.offset)

    def _direction(self, name: str, *, descending: bool) -> str:
        nulls = self._shape.column(name).nullable
        if descending:
            return quoted(name) + " DESC" + (" NULLS LAST" if nulls else "")
        return self._ordered(name)

    def search(self, search: Search) -> Statement | None:
        """Give the statement that reads what a search finds, the best first; None for nothing.

        Raises InvalidInput for a `syntax` that is none.
        """
        assert self._searched, "views refuse to search a table without the fields for it"
        values: list[Any] = []
        where = self._where(search.where, values)
        if search.syntax is not None:
            query = query_of(search.syntax, trigrams=self._trigrams)
            if query is None:
                return None
        else:
            query = self._query(search.words)
            scanned = [w for w in search.words if is_scanned(w, trigrams=self._trigrams)]
            if query is None and not scanned:
                return None
            where += [self._inside(word, values) for word in scanned]
        order = self._key
        if query is not None:
            values.append(query)
            mark = f"${len(values)}::tsquery"
            where.append(f"{WORDS} @@ {mark}")
            order = f"ts_rank({WORDS}, {mark}) DESC, {order}"
        if self._trigrams and search.syntax is None:
            # Runs of three characters find where a word may be; here it is looked for.
            for word in search.words:
                values.append(normal(word))
                where.append(f"strpos({TEXT}, ${len(values)}) > 0")
        return self._page(where, order, values, search.limit, search.offset)

    def _query(self, words: Sequence[str]) -> str | None:
        """Give the words that are in the index as a `tsquery`; None where none is."""
        found: list[str] = []
        for word in words:
            if not is_scanned(word, trigrams=self._trigrams):
                last = word is words[-1]
                given = phrase(word, open_ended=last, trigrams=self._trigrams)
                if given is not None:
                    found.append(f"({given})")
        return " & ".join(found) or None

    def _inside(self, word: str, values: list[Any]) -> str:
        """Give the condition that a field has a word inside; ASCII alone has small letters here."""
        values.append("".join(c.lower() if c.isascii() else c for c in word))
        names = [quoted(self._shape.columns[place].name) for place in self._searched]
        texts = (f"strpos(lower({name}), ${len(values)}) > 0" for name in names)
        return f"({' OR '.join(texts)})"

    def count(self, filters: Sequence[Filter]) -> Statement:
        """Give the statement that counts."""
        values: list[Any] = []
        where = self._where(filters, values)
        condition = f" WHERE {' AND '.join(where)}" if where else ""
        return f"SELECT count(*) FROM {self._table}{condition}", values

    def _page(
        self, where: Sequence[str], order: str, values: list[Any], limit: int, offset: int
    ) -> Statement:
        condition = f"WHERE {' AND '.join(where)} " if where else ""
        values += (limit, offset)
        sql = (
            f"SELECT {self._columns} FROM {self._table} {condition}ORDER BY {order} "
            f"LIMIT ${len(values) - 1} OFFSET ${len(values)}"
        )
        return sql, values

    def _where(self, filters: Sequence[Filter], values: list[Any]) -> list[str]:
        texts: list[str] = []
        for filter_ in filters:
            name = quoted(filter_.name)
            if filter_.among is not None:
                kind = TYPES[self._shape.column(filter_.name).sql]
                given = [value for value in filter_.among if value is not None]
                nulls = [f"{name} IS NULL"] if len(given) < len(filter_.among) else []
                if given or not nulls:
                    values.append(given)
                    nulls.append(f"{name} = ANY (${len(values)}::{kind}[])")
                texts.append(f"({' OR '.join(nulls)})")
            for end, sign, inside in (
                (filter_.low, ">", filter_.with_low),
                (filter_.high, "<", filter_.with_high),
            ):
                if end is not None:
                    values.append(end)
                    texts.append(f"{name} {sign}{'=' if inside else ''} ${len(values)}")
        return texts


def _text(value: Scalar) -> str | None:
    assert value is None or isinstance(value, str), "only texts are searched"
    return value
