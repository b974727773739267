"""Reading: the views as an answer sees them, typed rows of the tables and SQL over them.

Rules: an answer reads at most `limits.query_rows` rows of `limits.query_bytes` at once, and what
would be more is refused instead of being cut silently. Values from users are bound, never written
into SQL; names come from definitions. What is read is noted: rows and tables before they are read,
and what a statement reads just after it. Nothing here writes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, overload

import msgspec

from ..errors import InvalidInput, ProjectionUnserved, UsageError
from ..limits import Limits
from ..model.columns import INTEGER_MAX, INTEGER_MIN, Scalar
from ..model.conditions import Filter, filters_of, key_of
from ..model.given import named
from ..model.projection import Table, TableDefinition
from ..model.rows import Row
from ..model.texts import unfit
from ..stores.contract.views import Search, Selection, ViewsSource

__all__ = ["Reads", "Views"]

R = TypeVar("R", bound=Row)
S = TypeVar("S", bound=msgspec.Struct)

SEARCH_ROWS: Final = 20
"""What a search gives where nobody says how much: few want more than the best."""
_AROUND: Final = ("Ps", "Pe", "Pi", "Pf", "Po")
"""Categories of brackets, quotes, stops and other marks that stand around words."""


def _is_a(kind: Any, given: object) -> bool:
    """Look at what a caller gave, whatever it was annotated to be."""
    return isinstance(given, kind)


def _check_names(names: Sequence[str], row: type[msgspec.Struct]) -> None:
    """Raise UsageError where a column would be lost, or a field be its default by a slip."""
    fields = frozenset(row.__struct_encode_fields__)
    twice = {name for name in names if names.count(name) > 1}
    left_out, unknown = fields.difference(names), set(names) - fields
    if twice or (left_out and unknown):
        lost = f"{sorted(unknown)}, and not {sorted(left_out)}"
        why = f"{sorted(twice)} twice" if twice else lost
        raise UsageError(f"the columns {list(names)} are no {row.__name__}: they have {why}")


def _bindable(parameters: Sequence[Scalar]) -> Sequence[Scalar]:
    """Give parameters as they are now; raise InvalidInput for what no SQL value can be."""
    if _is_a(str | bytes | Mapping, parameters) or not _is_a(Iterable, parameters):
        raise InvalidInput(f"the parameters of a statement are a list, not {named(parameters)}")
    values = tuple(parameters)
    for number, value in enumerate(values, start=1):
        if isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
            raise InvalidInput(f"parameter {number} is an int beyond 64 bits")
        if isinstance(value, str) and (why := unfit(value)) is not None:
            raise InvalidInput(f"parameter {number} is a text with {why}")
    return values


class Reads(Protocol):
    """Gets to know what an answer reads: rows and tables before they are read."""

    def begin(self) -> None:
        """It is asked now, perhaps once more; what it read before does not count."""
        ...

    def row(self, table: TableDefinition, key: Scalar) -> None:
        """It reads the row with a key, or that there is none."""
        ...

    def some(self, table: TableDefinition, filters: tuple[Filter, ...]) -> None:
        """It reads of all rows that pass the filters; `found` says next which it was given."""
        ...

    def found(self, table: TableDefinition, keys: Sequence[Scalar]) -> None:
        """It was given the rows with these keys."""
        ...

    def table(self, table: TableDefinition) -> None:
        """It may read any row of a table."""
        ...

    def statement(self) -> None:
        """It reads what shows only when it is read: `selected` says it next."""
        ...

    def selected(self, names: Iterable[tuple[str, str]]) -> None:
        """It has just read any rows of these tables, each with its projection."""
        ...


class Views:
    """What an answer reads: typed rows of the projections' tables, and SQL over them.

    All that one answer reads is of one and the same state of the views, for `Limits.state_seconds`
    at most. `table` is named by its projection, as `Orders.summaries`. UsageError is raised for a
    table that this engine does not have.
    """

    def __init__(
        self,
        store: ViewsSource,
        tables: Mapping[str, TableDefinition],
        limits: Limits,
        reads: Reads | None = None,
        projections: Mapping[str, str] | None = None,
    ) -> None:
        """Take the tables by name; `projections` are those of all that SQL may read, by table."""
        self._store = store
        self._tables = tables
        self._limits = limits
        self._rows_max = limits.query_rows
        self._reads = reads
        if projections is None:
            projections = {name.lower(): table.projection for name, table in tables.items()}
        self._projections = projections
        self._no_sql: str | None = None
        """Why no statement is run."""
        self.read: set[str] = set()
        """The projections that were read."""

    def of(self, state: ViewsSource, reads: Reads | None) -> Views:
        """Give the same views to one answer: in one `state`, and with its `reads` noted."""
        return Views(state, self._tables, self._limits, reads, self._projections)

    def without_sql(self, why: str) -> Views:
        """Give the same views to an answer whose statements mean something else here."""
        views = Views(self._store, self._tables, self._limits, self._reads, self._projections)
        views._no_sql = why
        return views

    async def get(self, table: Table[R], key: Any) -> R | None:
        """Give the row of a `table` with this `key`, or None.

        Raises InvalidInput for a key that no row can have, as a text with a NUL, and TypeError for
        one of another type.
        """
        definition = self._known(table)
        encoded = key_of(definition.shape, key)
        if self._reads is not None:
            self._reads.row(definition, encoded)
        row: R | None = await self._store.get(definition, encoded)
        return row

    async def find(
        self,
        table: Table[R],
        *,
        where: Mapping[str, Any] | None = None,
        order_by: str | None = None,
        descending: bool = False,
        limit: int | None = None,
        offset: int = 0,
        after: Any = None,
    ) -> list[R]:
        """Give the rows of a `table` whose fields have what `where` asks for, in order.

        - `where`: a value by name of field, or a range or several: `{"cents": at_least(100),
          "status": one_of(["open", "held"])}`, with `above`, `at_most`, `below` and `between`
          beside these.
        - `order_by`: a field; rows that are equal there, and all without it, are ordered by key.
        - `descending`: the other way round.
        - `limit`: rows, from 0 to `Limits.query_rows`.
        - `offset`: rows to pass over. For the next page `after` is faster.
        - `after`: the last row of the page before, or its key.

        Raises UsageError for names that are no fields, and for more than `Limits.query_rows` rows
        without a limit. Raises InvalidInput for a range without values or of another type, for a
        value that no row can have, and for more values than `Limits.query_values`.
        """
        definition = self._known(table)
        self._check_page(limit, offset)
        filters = self._filters(definition, where)
        if order_by is not None:
            self._filters(definition, {order_by: None})
        self._note_some(definition, filters, after, offset)
        selection = Selection(
            filters,
            order_by,
            descending,
            await self._place(definition, order_by, after),
            self._rows_max + 1 if limit is None else limit,
            offset,
        )
        rows: list[R] = await self._store.find(definition, selection)
        if self._reads is not None:
            shape = definition.shape
            keys = [shape.encode_key(getattr(row, shape.key)) for row in rows]
            self._reads.found(definition, keys)
        if len(rows) > self._rows_max:
            raise UsageError(
                f"more than {self._rows_max} rows of {definition.name} fit (Limits.query_rows): "
                f"read them in pages, with `limit=` and `after=`"
            )
        return rows

    async def search(
        self,
        table: Table[R],
        text: str,
        *,
        where: Mapping[str, Any] | None = None,
        limit: int | None = None,
        offset: int = 0,
        raw: bool = False,
    ) -> list[R]:
        """Give the rows of a `table` whose `search` fields have all words of a text, best first.

        - `text`: at most `Limits.search_characters`. Its last word may be the beginning of one;
          capitals and accents do not matter, nor do brackets, quotes and stops around a word.
          Nothing in it is syntax.
        - `where`: as in `find`.
        - `limit`, `offset`: rows; without a limit they are 20 at most.
        - `raw`: the text is what SQLite's FTS5 reads, with its syntax.

        Raises InvalidInput for a text without a word or too long, and UsageError for a table
        without such fields.
        """
        definition = self._read(table)
        if not definition.shape.search:
            row = definition.shape.row.__name__
            raise UsageError(
                f"{definition.name} is not searched: name its fields of text, `class {row}(Row, "
                f'key="{definition.shape.key}", search=[...])`, and raise the version of its '
                f"projection"
            )
        self._check_page(limit, offset)
        words = self._readable(text)
        search = Search(
            tuple(_bare(word) for word in words if any(map(str.isalnum, word))),
            " ".join(words) if raw else None,
            self._filters(definition, where),
            min(SEARCH_ROWS, self._rows_max) if limit is None else limit,
            offset,
        )
        if not search.words:
            raise InvalidInput("a text to search for has a word in it: a letter or a digit")
        rows: list[R] = await self._store.search(definition, search)
        return rows

    async def count(self, table: Table[Any], *, where: Mapping[str, Any] | None = None) -> int:
        """Count the rows of a `table` that have what `where` asks for, as in `find`."""
        definition = self._read(table)
        return await self._store.count(definition, self._filters(definition, where))

    @overload
    async def sql(
        self, statement: str, parameters: Sequence[Scalar] = ()
    ) -> list[tuple[Any, ...]]: ...
    @overload
    async def sql(
        self, statement: str, parameters: Sequence[Scalar] = (), *, row: type[S]
    ) -> list[S]: ...
    async def sql(
        self, statement: str, parameters: Sequence[Scalar] = (), *, row: type[S] | None = None
    ) -> list[S] | list[tuple[Any, ...]]:
        """Run a SELECT; give its rows as tuples, or as structs.

        - `statement`: tables go by their names in SQL, `<projection>_<attribute>`.
        - `parameters`: values of its `?`, in order.
        - `row`: a struct whose fields are the columns' names.

        Meant for few rows, sums and the like: for many rows of one table `find` is far faster.
        Raises UsageError for a statement that cannot be run or would change anything, and
        InvalidInput for parameters that SQL cannot hold.
        """
        if self._no_sql is not None:
            raise UsageError(self._no_sql)
        if self._reads is not None:
            self._reads.statement()
        values = _bindable(parameters)
        selected = await self._store.sql(statement, values, self._rows_max)
        self._note(selected.tables)
        names, rows = selected.names, selected.rows
        if row is None:
            return rows
        _check_names(names, row)
        try:
            # Not strict, since SQL has no booleans, dates or enums of its own.
            dicts = [dict(zip(names, values, strict=True)) for values in rows]
            return msgspec.convert(dicts, list[row], strict=False)  # type: ignore[valid-type]
        except msgspec.ValidationError as error:
            raise UsageError(f"the columns {list(names)} are no {row.__name__}: {error}") from None

    def _note(self, tables: Iterable[str]) -> None:
        """Note what a statement has read of the projections."""
        known = self._projections
        read = [(known[name.lower()], name) for name in tables if name.lower() in known]
        self.read.update(projection for projection, _ in read)
        if self._reads is not None:
            self._reads.selected(read)

    def _read(self, table: Table[Any]) -> TableDefinition:
        """Give the table's definition to who may read any of its rows."""
        definition = self._known(table)
        if self._reads is not None:
            self._reads.table(definition)
        return definition

    def _filters(
        self, definition: TableDefinition, where: Mapping[str, Any] | None
    ) -> tuple[Filter, ...]:
        if not where:
            return ()
        return filters_of(definition.name, definition.shape, where, self._limits.query_values)

    def _note_some(
        self, definition: TableDefinition, filters: tuple[Filter, ...], after: Any, offset: int
    ) -> None:
        """Note which rows a page depends on, beside those that it has."""
        if self._reads is None:
            return
        if after is not None and not isinstance(after, Row):
            self._reads.row(definition, key_of(definition.shape, after))
        if not filters or offset:  # what is passed over may leave, and is in no answer
            self._reads.table(definition)
        else:
            self._reads.some(definition, filters)

    def _check_page(self, limit: int | None, offset: int) -> None:
        for name, given in (("limit", 0 if limit is None else limit), ("offset", offset)):
            if not _is_a(int, given):
                raise InvalidInput(f"{name} is a whole number, not {named(given)}")
        if not 0 <= offset <= INTEGER_MAX or (
            limit is not None and not 0 <= limit <= self._rows_max
        ):
            raise InvalidInput(
                f"limit={limit}, offset={offset}: a page has 0 to {self._rows_max} rows "
                f"(Limits.query_rows) and begins at 0 or later"
            )

    def _readable(self, text: object) -> list[str]:
        """Give a text that is searched for in pieces, without what no text has."""
        if not isinstance(text, str):
            raise InvalidInput(f"a text to search for is a string, not {named(text)}")
        most = self._limits.search_characters
        if len(text) > most:
            raise InvalidInput(
                f"a text to search for has {len(text)} characters, above "
                f"Limits.search_characters at {most}: search for fewer words"
            )
        if not text.isprintable():
            # What is no character, or ends a text in C: nothing to look for, nor to pass on.
            text = "".join(c if c.isprintable() else " " for c in text)
        return text.split()

    def _known(self, table: Table[Any]) -> TableDefinition:
        given: Any = getattr(table, "definition", None)
        if not isinstance(given, TableDefinition):
            name = getattr(table, "__name__", named(table))
            raise UsageError(
                f"what is read is a table of a projection, as `Balances.rows`, and not {name}"
            )
        definition = given
        if self._tables.get(definition.name) is not definition:
            raise UsageError(
                f"{definition.name} is no table of this engine: pass its projection "
                f"{definition.projection!r} to Engine(projections=[...])"
            )
        if not self._store.serves(definition.projection):
            raise ProjectionUnserved(definition.projection)
        self.read.add(definition.projection)
        return definition

    async def _place(
        self, definition: TableDefinition, order_by: str | None, after: Any
    ) -> tuple[Scalar, Scalar] | None:
        """Give the value and the key behind which a page begins."""
        if after is None:
            return None
        shape = definition.shape
        order_by = order_by or shape.key
        if shape.column(order_by).nullable:
            raise UsageError(
                f"{definition.name}.{order_by} may be None, and such rows have no place to page "
                f"`after`: use `offset=`, or order by another field"
            )
        row = after
        if not isinstance(after, Row):
            key = key_of(shape, after)
            if order_by == shape.key:
                return key, key
            row = await self._store.get(definition, key)
            if row is None:
                raise InvalidInput(
                    f"{definition.name} has no row with the key given as `after` any more: pass "
                    f"the last row itself, `after=rows[-1]`, which also works then"
                )
        if type(row) is not shape.row:
            raise InvalidInput(
                f"`after` is {named(row)}, and {definition.name} holds {shape.row.__name__}"
            )
        flat = shape.flatten(row)
        place = [column.name for column in shape.columns].index(order_by)
        return flat[place], flat[shape.key_place]


def _bare(word: str) -> str:
    """Give a word without what stands around it: to a text without spaces that is no end.

    What is ASCII alone is no such word. An index of words passes over its marks by itself.
    """
    if word.isascii():
        return word
    return word.strip("".join(c for c in word if unicodedata.category(c) in _AROUND))
