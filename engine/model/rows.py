"""Rows of views: a frozen struct is a real SQL table, with one column per field.

Rules: whatever cannot be a column is refused when the class is made, with the mend in the message.
A row is checked against its types when it is flattened, so that nothing is kept that could not be
read back; what is kept is flat and immutable, so that no dict inside a row is shared by two of its
readers. Values keep their meaning exactly: numbers are numbers, times are UTC and sort as text,
nested values are JSON. This file knows no SQL statement, async or store.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar, cast, dataclass_transform

import msgspec
from msgspec import inspect

from ..errors import DefinitionError
from .annotations import (
    UNRESOLVED,
    PlainMeta,
    check_options,
    defining_namespace,
    shared_default,
    what_is_missing,
)
from .columns import Column, Scalar, bare_type, name_of_type, read_column
from .for_pydantic import core_schema, json_schema

__all__ = [
    "Column",
    "Flat",
    "Row",
    "RowShape",
    "Scalar",
]

Flat: TypeAlias = tuple[Scalar, ...]
"""A row as SQL holds it: one value per column, all immutable."""
Index: TypeAlias = Sequence[str | Sequence[str]]
"""Columns to index: each a name, or several names for one index."""
Search: TypeAlias = Sequence[str]
"""Columns whose words are searched."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class RowMeta(PlainMeta):
    """Makes row classes: frozen, each with its shape."""

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        key: str | None = None,
        index: Index = (),
        search: Search = (),
        trigrams: bool | None = None,
        **options: Any,
    ) -> Any:
        """Make the class; raise DefinitionError for what cannot be a table."""
        if options.get("frozen") is False:
            raise DefinitionError(f"{class_name} is a row, and rows are frozen: drop frozen")
        options["frozen"] = True
        check_options(f"row {class_name}", options, ("key", "index", "search"))
        try:
            cls = super().__new__(mcls, class_name, bases, namespace, **options)
        except TypeError as error:
            raise DefinitionError(f"row {class_name} cannot be made: {error}") from error
        if namespace.get("__module__") != __name__:
            row = cast("type[Row]", cls)
            row.__shape__ = _read_shape(row, key, index, search, trigrams, defining_namespace(1))
        return cls


# The base says it again: mypy looks at it first, and finds msgspec.Struct's own word otherwise.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Row(msgspec.Struct, metaclass=RowMeta):
    """Base of rows: `class OrderSummary(Row, key="order_id", index=["status"])`.

    `key` names the field that identifies a row. `index` names fields that queries look up or
    order by; a tuple of names makes one index of several. `search` names text fields whose words
    `views.search` finds. With `trigrams=True` they are found inside of other words too, as texts of
    Chinese, Japanese or Thai want it, whose words stand without spaces.
    """

    __shape__: ClassVar[RowShape]

    __get_pydantic_core_schema__ = classmethod(core_schema)
    __get_pydantic_json_schema__ = classmethod(json_schema)


R = TypeVar("R", bound=Row)


class RowShape:
    """A row class as columns, with the way to flatten its rows and to build them again."""

    __slots__ = (
        "_build",
        "_checks_itself",
        "_decoders",
        "_encoders",
        "_places",
        "columns",
        "encode_key",
        "indexes",
        "key",
        "key_place",
        "row",
        "search",
        "trigrams",
    )

    def __init__(
        self,
        row: type[Row],
        columns: tuple[Column, ...],
        key: str,
        indexes: tuple[tuple[str, ...], ...],
        search: tuple[str, ...] = (),
        trigrams: bool = False,
    ) -> None:
        self.row = row
        self.columns = columns
        self.key = key
        self.indexes = indexes
        self.search = search
        """Columns whose words are searched."""
        self.trigrams = trigrams
        """Whether they are indexed by their runs of three characters, and not by words."""
        self._encoders = tuple(column.encode for column in columns)
        self._places = {c.name: (place, c.encode) for place, c in enumerate(columns)}
        self.key_place = self._places[key][0]
        decoders = tuple(column.decode for column in columns)
        self._decoders = decoders if any(decoders) else None
        self._build = _constructor(row)
        self._checks_itself = hasattr(row, "__post_init__")
        self.encode_key = self._encoders[self.key_place]
        """Gives a key as SQL holds it; TypeError or ValueError for what is no key."""

    def column(self, name: str) -> Column:
        """Give a column; KeyError where there is none of that name."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def flatten(self, row: Row) -> Flat:
        """Check a row and give it flat; TypeError or ValueError for what a field cannot hold."""
        values = msgspec.structs.astuple(row)
        return tuple([encode(value) for encode, value in zip(self._encoders, values, strict=True)])

    def changed(self, flat: Flat, changes: Mapping[str, Any]) -> Flat:
        """Give a flat row with other values in some fields; errors as `flatten` has them."""
        if self._checks_itself:  # it may have a say in every change
            return self.flatten(msgspec.structs.replace(self.build(flat), **changes))
        values = list(flat)
        for name, value in changes.items():
            found = self._places.get(name)
            if found is None:
                raise TypeError(f"{self.row.__name__} has no field {name!r}")
            place, encode = found
            values[place] = encode(value)
        return tuple(values)

    def build(self, flat: Sequence[Scalar]) -> Any:
        """Give a fresh row of what `flatten` gave."""
        if self._decoders is None:
            return self._build(*flat)
        pairs = zip(self._decoders, flat, strict=True)
        return self._build(*[v if d is None or v is None else d(v) for d, v in pairs])


def _constructor(row: type[Row]) -> Callable[..., Any]:
    names = row.__struct_fields__
    if len(row.__match_args__) == len(names):
        return row

    def by_name(*values: Any) -> Row:
        return row(**dict(zip(names, values, strict=True)))

    return by_name


def _read_shape(
    cls: type[Row],
    key: str | None,
    index: Index,
    search: Search,
    trigrams: bool | None,
    namespace: Mapping[str, Any],
) -> RowShape:
    where = cls.__qualname__
    inherited = getattr(cls, "__shape__", None)
    if key is None and inherited is not None:
        key = inherited.key
    try:
        hints = typing.get_type_hints(cls, localns=dict(namespace), include_extras=True)
    except UNRESOLVED as error:
        told = what_is_missing(error)
        raise DefinitionError(
            f"a field of row {where} cannot be resolved: {told}. Declare its type before the row, "
            f"and import it outside `if TYPE_CHECKING`."
        ) from error
    shared = shared_default(cls)
    if shared is not None:
        raise DefinitionError(
            f"the default of {where}.{shared} is one mutable object that all would share: write "
            f"`{shared}: ... = msgspec.field(default_factory=...)`"
        )
    columns = tuple(read_column(where, n, hints[n]) for n in cls.__struct_fields__)
    lowered: dict[str, str] = {}
    for column in columns:
        other = lowered.setdefault(column.name.lower(), column.name)
        if other is not column.name:
            raise DefinitionError(
                f"{where}.{other} and {where}.{column.name} are one name to SQL, which does not "
                f"tell small letters from capitals: rename one"
            )
    by_name = {column.name: column for column in columns}
    name = _check_key(where, by_name, key)
    indexes = _read_indexes(where, by_name, index, inherited)
    searched = _read_search(where, by_name, search, inherited)
    if trigrams is None:
        trigrams = inherited is not None and inherited.trigrams
    if trigrams and not searched:
        raise DefinitionError(
            f"row {where} has trigrams and no field that is searched: name these in `search=[...]`"
        )
    return RowShape(cls, columns, name, indexes, searched, bool(trigrams))


def _check_key(where: str, columns: Mapping[str, Column], key: str | None) -> str:
    if key is None or key not in columns:
        said = "names no key" if key is None else f"names the key {key!r}, which is not a field"
        raise DefinitionError(
            f'row {where} {said}: write `class {where}(Row, key="...")` with the field that '
            f"identifies a row, one of {sorted(columns)}"
        )
    column = columns[key]
    if column.nullable:
        raise DefinitionError(
            f"{where}.{key} is the key and may be None: give it a type without None"
        )
    is_bool = isinstance(inspect.type_info(column.annotation), inspect.BoolType)
    if column.is_json or column.sql not in ("TEXT", "INTEGER") or is_bool:
        raise DefinitionError(
            f"{where}.{key} is the key and has the type {column.annotation!r}: a key is a str, an "
            f"int, an enum, a date, a time or a UUID"
        )
    return key


def _read_indexes(
    where: str, columns: Mapping[str, Column], index: Index, inherited: RowShape | None
) -> tuple[tuple[str, ...], ...]:
    if isinstance(index, str):
        raise DefinitionError(
            f'row {where} has index={index!r}: write a list of fields, index=["{index}"]'
        )
    found = list(inherited.indexes) if inherited is not None else []
    for entry in index:
        names = (entry,) if isinstance(entry, str) else tuple(entry)
        for name in names:
            if name not in columns:
                raise DefinitionError(
                    f"row {where} has an index on {name!r}, which is not a field: name one of "
                    f"{sorted(columns)}"
                )
            if columns[name].is_json:
                raise DefinitionError(
                    f"row {where} has an index on {name!r}, which is nested and kept as JSON: "
                    f"index a field of a plain type"
                )
        if names and names not in found:
            found.append(names)
    return tuple(found)


def _read_search(
    where: str, columns: Mapping[str, Column], search: Search, inherited: RowShape | None
) -> tuple[str, ...]:
    if isinstance(search, str):
        raise DefinitionError(
            f'row {where} has search={search!r}: write a list of fields, search=["{search}"]'
        )
    found = list(inherited.search) if inherited is not None else []
    for name in search:
        if name not in columns:
            raise DefinitionError(
                f"row {where} searches {name!r}, which is not a field: name one of "
                f"{sorted(columns)}"
            )
        info, _ = bare_type(inspect.type_info(columns[name].annotation))
        if not isinstance(info, inspect.StrType):
            raise DefinitionError(
                f"row {where} searches {name!r}, which has the type "
                f"{name_of_type(columns[name].annotation)}: words are searched in fields of text, "
                f"`str` or `str | None`; keep what shall be found in one of these"
            )
        if name.lower() in _SEARCH_TAKEN:
            raise DefinitionError(
                f"row {where} searches {name!r}, a name that the index needs for itself: rename "
                f"the field"
            )
        if name not in found:
            found.append(name)
    return tuple(found)


_SEARCH_TAKEN = ("rank", "rowid")
