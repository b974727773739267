"""Rows: which types are columns, how values come back, and what is refused with the class."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import msgspec
import pytest

from engine.errors import DefinitionError
from engine.model.projection import Row
from tests.support.everything import Colour, Everything, everything
from tests.support.shelf import Book


def test_a_row_comes_back_as_it_was() -> None:
    shape = Everything.__shape__

    assert shape.build(shape.flatten(everything())) == everything()


def test_columns_have_the_types_that_sql_can_order_and_sum() -> None:
    shape = Everything.__shape__

    sql = {c.name: ("JSON" if c.is_json else c.sql) + "?" * c.nullable for c in shape.columns}

    assert sql == {
        "id": "TEXT",
        "text": "TEXT",
        "whole": "INTEGER",
        "real": "REAL",
        "blob": "BLOB",
        "truth": "INTEGER",
        "moment": "TEXT",
        "day": "TEXT",
        "colour": "TEXT",
        "rank": "INTEGER",
        "choice": "TEXT",
        "pence": "INTEGER",
        "bounded": "INTEGER",
        "inner": "JSON",
        "many": "JSON",
        "either": "JSON",
        "maybe": "INTEGER?",
        "maybe_inner": "JSON?",
        "some": "JSON",
    }


def test_there_is_no_negative_zero_in_memory_since_there_is_none_in_sql() -> None:
    zero = Everything.__shape__.column("real").encode(-0.0)

    assert str(zero) == "0.0"


def test_text_order_of_moments_is_time_order() -> None:
    column = Everything.__shape__.column("moment")
    early = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    late = datetime(2026, 1, 1, 8, 0, 0, 1, tzinfo=UTC)

    assert str(column.encode(early)) < str(column.encode(late))


WRONG: list[tuple[str, Any]] = [
    ("text", 5),
    ("text", None),
    ("text", "a\0b"),
    ("text", "half \ud800"),
    ("whole", 1.0),
    ("whole", True),
    ("whole", 2**63),
    ("real", "1"),
    ("real", math.nan),
    ("real", math.inf),
    ("blob", "b"),
    ("truth", 1),
    ("moment", datetime(2026, 1, 1)),
    ("day", "2026-01-01"),
    ("colour", "red"),
    ("rank", 3),
    ("choice", "c"),
    ("inner", {"name": 5}),
    ("many", {"k": [1]}),
    ("maybe", "1"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_that_could_not_be_read_back_is_refused_without_showing_it(
    field: str, value: Any
) -> None:
    row = msgspec.structs.replace(everything(), **{field: value})

    with pytest.raises((TypeError, ValueError), match=f"Everything.{field} is "):
        Everything.__shape__.flatten(row)


def test_rows_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Book("b", 1).price = 2  # type: ignore[misc]


def test_a_row_class_can_be_declared_frozen_false_by_nobody() -> None:
    with pytest.raises(DefinitionError, match="rows are frozen"):

        class Melted(Row, key="id", frozen=False):
            id: str


def test_keyword_only_rows_are_built_too() -> None:
    class Named(Row, key="id", kw_only=True):
        id: str
        size: int = 3

    shape = Named.__shape__

    assert shape.build(shape.flatten(Named(id="x"))) == Named(id="x", size=3)


def filled(namespace: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda body: body.update(namespace)


def refused_row(message: str, annotation: Any, **options: Any) -> None:
    namespace = {"__annotations__": {"id": str, "field": annotation}, "__module__": __name__}
    with pytest.raises(DefinitionError, match=message):
        types.new_class("Refused", (Row,), {"key": "id", **options}, filled(namespace))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Decimal, "Decimal, which is no column: money is kept as integers"),
        (Decimal | None, "money is kept as integers"),
        (timedelta, "span of time as an integer"),
        (Any, "say which type it is"),
        (object, "types that msgspec decodes"),
        (None, "always None"),
    ],
)
def test_types_that_are_no_columns_are_refused(annotation: Any, message: str) -> None:
    refused_row(message, annotation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": None}, "names no key"),
        ({"key": "other"}, "the key 'other', which is not a field"),
        ({"index": ["other"]}, "index on 'other', which is not a field"),
        ({"index": "field"}, r'write a list of fields, index=\["field"\]'),
    ],
)
def test_keys_and_indexes_name_fields(options: dict[str, Any], message: str) -> None:
    refused_row(message, str, **options)


@pytest.mark.parametrize("annotation", [str | None, float, bool, dict[str, int], bytes])
def test_a_key_is_plain_and_never_none(annotation: Any) -> None:
    refused_row("is the key and", annotation, key="field")


def test_a_nested_field_has_no_index() -> None:
    refused_row("nested and kept as JSON", dict[str, int], index=["field"])


@pytest.mark.parametrize(
    "annotation", [str, str | None, Annotated[str, msgspec.Meta(min_length=1)]]
)
def test_text_is_searched(annotation: Any) -> None:
    assert row_of(annotation, search=["price", "id", "price"]).__shape__.search == ("price", "id")


@pytest.mark.parametrize(
    "annotation", [int, bytes, datetime, UUID, Colour, Literal["a", "b"], str | int, dict[str, str]]
)
def test_only_text_is_searched(annotation: Any) -> None:
    refused_row("searches 'field', which has the type .*: words are", annotation, search=["field"])


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (["other"], "searches 'other', which is not a field: name one of"),
        ("field", r'write a list of fields, search=\["field"\]'),
    ],
)
def test_a_search_names_fields(search: Any, message: str) -> None:
    refused_row(message, str, search=search)


def test_a_field_that_is_named_as_the_index_needs_is_not_searched() -> None:
    with pytest.raises(DefinitionError, match="'rank', a name that the index needs"):

        class Ranked(Row, key="id", search=["rank"]):
            id: str
            rank: str


def test_a_shared_mutable_default_is_refused() -> None:
    @dataclass
    class Holder:
        names: str = "x"

    with pytest.raises(DefinitionError, match=r"Shared.inner is one mutable object"):

        class Shared(Row, key="id"):
            id: str
            inner: Holder = Holder()


def test_fields_that_are_one_name_to_sql_are_refused() -> None:
    with pytest.raises(DefinitionError, match="are one name to SQL"):

        class Twice(Row, key="id"):
            id: str
            Id: str


def test_a_field_whose_type_is_not_known_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot be resolved"):

        class Unknown(Row, key="id"):
            id: Missing  # type: ignore[name-defined]  # noqa: F821


def test_a_row_may_extend_another() -> None:
    class Longer(Book, index=["lent"], search=["holder"]):
        pages: int = 0

    class Longest(Longer, search=["id"]):
        pass

    assert Longest.__shape__.search == ("holder", "id")
    assert Longer.__shape__.key == "id"
    assert Longer.__shape__.indexes == (("holder",), ("price",), ("lent",))


def row_of(price: Any, **options: Any) -> type[Row]:
    namespace = {"__annotations__": {"id": str, "price": price}, "__module__": __name__}
    return types.new_class("Changing", (Row,), {"key": "id", **options}, filled(namespace))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[float | None], [1.0, math.nan]),
        (dict[str, float | None], {"a": math.inf}),
        (list[datetime], [datetime(1900, 1, 1, tzinfo=timezone(timedelta(seconds=61)))]),
        (list[str], [UUID(int=1)]),
    ],
)
def test_a_nested_value_that_would_come_back_changed_is_refused(
    annotation: Any, value: Any
) -> None:
    class Held(Row, key="id"):
        id: str
        values: annotation

    with pytest.raises(TypeError, match=r"Held\.values"):
        Held.__shape__.flatten(Held("1", value))


def test_an_int_that_no_float_holds_exactly_is_no_float() -> None:
    shape = row_of(float).__shape__
    changing = cast("Any", shape.row)
    assert shape.build(shape.flatten(changing("1", 2**53))).price == 2**53
    with pytest.raises(ValueError, match=r"price is an int that no float holds exactly"):
        shape.flatten(changing("1", 2**53 + 1))


def test_a_nested_list_may_stand_for_a_tuple() -> None:
    class Held(Row, key="id"):
        id: str
        values: tuple[int, ...]

    shape = Held.__shape__
    assert shape.build(shape.flatten(Held("1", [1, 2]))) == Held("1", (1, 2))  # type: ignore[arg-type]


def test_what_a_nested_value_cannot_hold_is_told_without_it() -> None:
    class Held(Row, key="id"):
        id: str
        values: list[Literal["a"]]

    with pytest.raises(TypeError, match="Invalid enum value - at") as refused:
        Held.__shape__.flatten(Held("1", ["Mrs Holm"]))  # type: ignore[list-item]
    assert "Holm" not in str(refused.value)
