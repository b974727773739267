"""Bodies of requests to commands: what is refused, by path and rule, and never by value."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from domain.model.orders import CancelReason
from engine import Command, Id
from engine.integrations.asgi import BadRequest, decode


class Pack(Command):
    box_id: Id
    weight: int
    label: str = ""
    inside: dict[str, Any] = {}


class Call(Command):
    box_id: Id
    reason: CancelReason = CancelReason.OTHER


# -- errors ----------------------------------------------------------------------------------


SECRET = "4929-1234-5678"


# -- bodies ----------------------------------------------------------------------------------


def refused(body: bytes, cls: Any = Pack, **options: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(body, cls, **options)
    return caught.value


def test_a_sound_body_is_decoded() -> None:
    assert decode(b'{"box_id": "b", "weight": 3}', Pack) == Pack("b", 3)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"box_id": "b", "weight": "SECRET"}', "Expected `int`, got `str` - at `$.weight`"),
        (b'{"box_id": "b"}', "missing required field `weight`"),
        (b'{"box_id": "b", "weight": 1, "colour": "SECRET"}', "unknown field `colour`"),
        (b'{"box_id": "", "weight": 1}', "length >= 1 - at `$.box_id`"),
        (b'{"box_id": "b", "weight": NaN}', "malformed"),
        (b'{"box_id": "b", "weight": 1e400}', "out of range"),
        (b'{"box_id": "b", "weight": 1', "truncated"),
        (b'{"box_id": "\xff", "weight": 1}', "is not UTF-8"),
        (b"", "truncated"),
        (rb'{"box_id": "\u0000SECRET", "weight": 1}', "has a NUL"),
        (b"[1, 2]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
    ],
)
def test_a_bad_body_is_told_by_path_and_rule_and_not_by_value(body: bytes, told: str) -> None:
    found = refused(body)

    assert (found.status, found.code) == (422, "bad-body")
    assert told in found.detail
    assert "SECRET" not in found.detail


def test_of_enums_the_value_is_not_shown_either() -> None:
    detail = refused(b'{"box_id": "b", "reason": "SECRET - at home"}', Call).detail
    assert detail == "Invalid enum value - at `$.reason`"
    assert refused(b'"SECRET"', CancelReason).detail == "Invalid enum value"


class Box(msgspec.Struct, tag="box"):
    label: str = ""

    def __post_init__(self) -> None:
        if self.label:
            raise ValueError(f"no such label: {self.label}")


class Crate(msgspec.Struct, tag="crate"):
    inside: list[Box] = []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"type": "SECRET"}', "Invalid value - at `$.type`"),
        (b'{"type": "SECRET - at `$`"}', "Invalid value - at `$.type`"),
        (b'{"type": "box", "label": "SECRET - at `SECRET`"}', "refused by a rule of its class"),
        (
            b'{"type": "crate", "inside": [{"type": "box", "label": "SECRET - at `$`"}]}',
            "refused by a rule of its class - at `$.inside[0]`",
        ),
    ],
)
def test_neither_tags_nor_what_a_class_says_itself_show_a_value(body: bytes, told: str) -> None:
    assert refused(body, Box | Crate).detail == told


def test_the_name_of_an_unknown_field_is_cut() -> None:
    detail = refused(b'{"box_id": "b", "weight": 1, "' + b"x`" * 20_000 + b'": 1}').detail
    assert len(detail) < 120


def test_of_a_field_that_comes_twice_the_last_counts() -> None:
    assert decode(b'{"box_id": "b", "weight": 1, "weight": 2}', Pack).weight == 2


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", None),
        ("Application/JSON; charset=utf-8", None),
        ("application/merge-patch+json", None),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain; a=application/json", 415),
        ("", 415),
        (None, 415),
    ],
)
def test_a_body_is_said_to_be_json(kind: str | None, status: int | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = b'{"box_id": "b", "weight": 1}'
    if status is None:
        assert decode(body, Pack, headers=headers).weight == 1
    else:
        assert refused(body, headers=headers).status == status


@pytest.mark.parametrize("kind", [b"[]", b"{}"])
@pytest.mark.parametrize("depth", [40, 1_000, 30_000])
def test_nesting_is_capped_before_decoding(kind: bytes, depth: int) -> None:
    opening = b"[" if kind == b"[]" else b'{"a":'
    body = b'{"box_id":"b","weight":1,"inside":' + opening * depth + b"1" + kind[1:] * depth + b"}"

    assert refused(body).code == "too-deep"


def test_nesting_within_the_cap_and_brackets_in_text_pass() -> None:
    inside: Any = 1
    for _ in range(29):
        inside = [inside]
    body = msgspec.json.encode({"box_id": "b", "weight": 1, "inside": {"a": inside}})
    assert decode(body, Pack).weight == 1
    text = '[{"\\' * 100
    assert decode(msgspec.json.encode(Pack("b", 1, text)), Pack).label == text


@pytest.mark.parametrize(
    "body",
    [b'"' + b"\\" * 65_000, b'"\\"' * 20_000, b'"' * 65_001, b'"' + b"a\\" * 32_000, b"[" * 65_000],
    ids=["backslashes", "escaped-quotes", "quotes", "escapes", "brackets"],
)
def test_looking_for_the_depth_takes_one_way_through_any_body(body: bytes) -> None:
    began = time.perf_counter()
    refused(body)
    # One pass takes about a millisecond; a pattern that goes back takes minutes.
    assert time.perf_counter() - began < 5


def test_deep_types_that_msgspec_cannot_follow_are_refused_too() -> None:
    body = b"[" * 100_000 + b"]" * 100_000
    assert refused(body, Any, depth_max=1_000_000).code == "too-deep"
