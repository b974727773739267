"""Keys and preconditions in headers, and receipts in them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from engine import Receipt
from engine.integrations.asgi import (
    BadRequest,
    asks_for_current,
    check_match,
    decode,
    expected_version,
    idempotency_key,
    not_modified,
    receipt_headers,
)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("order-7", "order-7"),
        ("x" * 200, "x" * 200),
    ],
)
def test_an_idempotency_key_comes_with_quotes_or_without(given: str, key: str) -> None:
    assert idempotency_key({"idempotency-key": given}) == key


@pytest.mark.parametrize("given", ["", '""', "a b", "x" * 201, "é", "a\nb", "\x00"])
def test_a_malformed_key_is_refused(given: str) -> None:
    with pytest.raises(BadRequest) as caught:
        idempotency_key({"idempotency-key": given})
    assert (caught.value.status, caught.value.code) == (400, "bad-key")


def test_a_missing_key_is_none_or_refused_where_it_is_required() -> None:
    assert idempotency_key({}) is None
    with pytest.raises(BadRequest, match="send an Idempotency-Key"):
        idempotency_key({}, required=True)


def test_a_key_belongs_to_its_principal() -> None:
    """No two pairs of principal and header give one key, whatever is in them."""
    pairs = [
        ("ann", "b/c"),
        ("ann/b", "c"),
        ("ann%2Fb", "c"),
        ("bob", "b/c"),
        ("", "b/c"),
        # One who is nobody must not be able to write the key of somebody.
        (None, "ann/b/c"),
        (None, "/b/c"),
        (None, "ann%2Fb/c"),
        (None, "ann%2Fb%2Fc"),
    ]
    keys = [idempotency_key({"idempotency-key": key}, who) for who, key in pairs]

    assert len(set(keys)) == len(keys)
    assert keys[0] == "ann/b/c"
    with pytest.raises(BadRequest, match="too long for this principal"):
        idempotency_key({"idempotency-key": "k" * 200}, "p" * 60)


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({}, None),
        ({"if-match": '"0"'}, 0),
        ({"if-match": ' "12" '}, 12),
        ({"if-none-match": "*"}, 0),
    ],
)
def test_preconditions_give_the_expected_version(
    headers: dict[str, str], version: int | None
) -> None:
    assert expected_version(headers) == version


@pytest.mark.parametrize(
    "headers",
    [
        {"if-match": "12"},
        {"if-match": 'W/"12"'},
        {"if-match": '"a"'},
        {"if-match": '"1", "2"'},
        {"if-match": "*"},
        {"if-match": '"-1"'},
        {"if-match": '"' + "9" * 30 + '"'},
        {"if-none-match": '"3"'},
        {"if-none-match": "*", "if-match": '"3"'},
    ],
)
def test_other_preconditions_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as caught:
        expected_version(headers)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("headers", "current", "given"),
    [
        ({"if-match": '"1", "12"'}, 12, 12),
        ({"if-match": '"1" , ,"2",W/"9"'}, 2, 2),
        ({"if-match": '"1", "2"'}, 3, 412),
        ({"if-match": 'W/"3"'}, 3, 412),  # a weak tag never matches here
        ({"if-match": '"a,b", "3"'}, 3, 3),
        ({"if-match": '"a"'}, 3, 412),
        ({"if-match": '"' + "9" * 30 + '"'}, 3, 412),
        ({"if-match": "*"}, 3, 3),
        ({"if-match": " * "}, 1, 1),
        ({"if-match": "*"}, 0, 412),  # there is nothing
        ({"if-match": '"0", "1"'}, 0, 412),
        ({"if-none-match": '"3"'}, 4, 4),
        ({"if-none-match": '"3"'}, 3, 412),
        ({"if-none-match": 'W/"3"'}, 3, 412),
        ({"if-none-match": '"3"'}, 0, 0),
        ({"if-match": '"1" "2"'}, 1, 400),
        ({"if-match": '"1", *'}, 1, 400),
        ({"if-match": "1, 2"}, 1, 400),
        ({"if-match": 'w/"1"'}, 1, 400),
        ({"if-match": '"1'}, 1, 400),
        ({"if-match": ""}, 1, 400),
        ({"if-match": ","}, 1, 400),
        ({"if-none-match": "3"}, 3, 400),
    ],
)
def test_all_forms_of_a_precondition_hold_or_do_not(
    headers: dict[str, str], current: int, given: int
) -> None:
    assert asks_for_current(headers)
    if given >= 400:
        with pytest.raises(BadRequest) as caught:
            expected_version(headers, current=current)
        assert caught.value.status == given
    else:
        assert expected_version(headers, current=current) == given


@pytest.mark.parametrize("headers", [{}, {"if-match": '"3"'}, {"if-none-match": "*"}])
def test_a_usual_precondition_asks_for_nothing(headers: dict[str, str]) -> None:
    assert not asks_for_current(headers)


@pytest.mark.parametrize(
    ("sent", "unchanged"),
    [
        ('"3"', True),
        ('W/"3"', True),
        ('"1", W/"2" ,"3"', True),
        ("*", True),
        ('"30"', False),
        ('"a\\", "3"', True),
        ('"1""3"', False),
        ("3", False),
        ("", False),
        ('W/"3', False),
    ],
)
def test_what_a_client_has_is_not_sent_again(sent: str, unchanged: bool) -> None:
    assert not_modified({"if-none-match": sent}, '"3"') == unchanged
    assert not not_modified({}, '"3"')


def test_a_read_may_have_a_precondition() -> None:
    for sent in ('"3"', "*", '"1", "3"'):
        check_match({"if-match": sent}, '"3"')
    for sent, status in (('"4"', 412), ('W/"3"', 412), ("x", 400)):
        with pytest.raises(BadRequest) as caught:
            check_match({"if-match": sent}, '"3"')
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-encoding": "gzip"}, "encoded"),
        ({"content-encoding": "identity, br"}, "encoded"),
        ({"content-type": "application/json; charset=utf-16"}, "not-utf8"),
        ({"content-type": 'application/json;Charset="latin-1"'}, "not-utf8"),
    ],
)
def test_a_body_is_taken_as_it_stands_only_where_it_says_so(
    headers: dict[str, str], code: str
) -> None:
    json_ = {"content-type": "application/json"}
    with pytest.raises(BadRequest) as caught:
        decode(b"{}", dict, headers={**json_, **headers})
    assert (caught.value.status, caught.value.code) == (415, code)
    plain = {"content-encoding": "identity", "content-type": "application/json; charset=UTF-8"}
    assert decode(b"{}", dict, headers=plain) == {}


@pytest.mark.parametrize(
    "body", [b'{"a":1,"a":1}', b'{"a":{"b":1,"c":2,"\\u0062":3}}', b'[{"a":[{"x":0,"x":0}]}]']
)
def test_a_field_that_comes_twice_may_be_refused(body: bytes) -> None:
    assert decode(body, dict if body.startswith(b"{") else list) is not None
    with pytest.raises(BadRequest) as caught:
        decode(body, Any, unique=True)
    assert caught.value.code == "repeated-field"
    assert decode(b'[{"a":1e9},{"a":-2}]', list, unique=True) == [{"a": 1e9}, {"a": -2}]


def test_a_precondition_may_be_required() -> None:
    with pytest.raises(BadRequest) as caught:
        expected_version({}, required=True)
    assert caught.value.status == 428


def test_a_receipt_goes_into_headers() -> None:
    receipt = Receipt("box:b", 3, 17)

    assert receipt_headers(receipt) == {"ETag": '"3"', "Foldline-Receipt": receipt.token}
    assert re.fullmatch(r"[A-Za-z0-9_-]+", receipt.token)
