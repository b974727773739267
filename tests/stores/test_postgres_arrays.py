"""Columns of many rows reach PostgreSQL as texts that say, value for value, what an array would."""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from engine.stores.postgres.views.arrays import bound, marked
from engine.stores.postgres.views.link import is_unfit
from tests.support.postgres import Server, asked

ODD: Final = ["", " ", "NULL", "null", "{}", '"', "\\", "\\n", "\n", "\t\r\b\f\v", "\x01\x1f\x7f"]
MORE: Final = ["a,b", "{a,b}", "'", '\\"', '\\\\"\\', '"\\\n', "\u20ac\U0001f600", "\u2028", "\x85"]
REALS: Final = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, 1e16, None, 3.0]
INTS: Final = [0, -1, 2**63 - 1, -(2**63), None]


async def back(server: Server, kind: str, values: list[Any]) -> list[Any]:
    query = f"SELECT v FROM unnest({marked(1, kind)}) WITH ORDINALITY AS g(v, n) ORDER BY n"
    return [row[0] for row in await asked(server, query, bound(kind, values))]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("text", [*ODD, *MORE, None]),
        ("text", ["a", None, "\u20ac"]),
        ("text", ['say "yes"', "C:\\new\\\\", None]),
        ("bigint", INTS),
        ("double precision", REALS),
        ("bytea", [b"", b"\0\xff\\", None]),
        ("text", []),
    ],
    ids=["odd texts", "plain texts", "quotes", "numbers", "floats", "bytes", "nothing"],
)
async def test_what_is_bound_comes_back(postgres: Server, kind: str, values: list[Any]) -> None:
    assert await back(postgres, kind, values) == values


async def test_any_texts_come_back(postgres: Server) -> None:
    chance = random.Random(7)
    alphabet = '\\\\\\"""nu,{}\nN\x08 \u00e9'
    for _ in range(30):
        count = chance.randrange(1, 40)
        texts = ["".join(chance.choices(alphabet, k=chance.randrange(6))) for _ in range(count)]
        assert await back(postgres, "text", texts) == texts


@pytest.mark.parametrize(
    ("kind", "value"),
    [("text", "\0"), ("text", "\ud800"), ("bigint", 2**63), ("bigint", 2**70), ("bigint", 1.5)],
)
async def test_what_sql_has_not_is_refused_for_its_value(
    postgres: Server, kind: str, value: Any
) -> None:
    with pytest.raises(Exception, match=r".") as refused:
        await back(postgres, kind, [value])

    assert is_unfit(refused.value)


async def test_a_number_that_is_none_reaches_the_table_that_refuses_it(postgres: Server) -> None:
    found = await back(postgres, "double precision", [float("nan"), float("inf"), float("-inf")])

    assert [str(value) for value in found] == ["nan", "inf", "-inf"]
