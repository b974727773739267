"""Requests to calls, answers to status codes: the pieces, without a server."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from domain.model.orders import CancelReason
from engine import Command, Id, Receipt, errors
from engine.errors import (
    Closed,
    Conflict,
    Damaged,
    DeadlinePassed,
    DefinitionError,
    EngineError,
    EngineFailed,
    Forbidden,
    HandlerFailed,
    InvalidInput,
    KeyReused,
    OutcomeUnknown,
    Overloaded,
    ProjectionFailed,
    ProjectionLag,
    ProjectionUnserved,
    Rejected,
    RowRefused,
    StoreFailed,
    StoreLocked,
    StoreRefused,
    StreamUnreadable,
    UsageError,
    Voided,
    WrongVersion,
)
from engine.integrations.asgi import (
    BadRequest,
    EngineMiddleware,
    asks_for_current,
    check_match,
    decode,
    expected_version,
    idempotency_key,
    not_modified,
    problem_of,
    receipt_headers,
)


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

EXPECTED: dict[type[BaseException], tuple[BaseException, int, str, str]] = {
    Rejected: (Rejected("sold-out", "none left", card=SECRET), 409, "sold-out", "no"),
    WrongVersion: (WrongVersion("box:1", 3, 5), 412, "wrong-version", "no"),
    InvalidInput: (InvalidInput("the id has 0 characters"), 422, "invalid-input", "no"),
    KeyReused: (KeyReused(f"the key {SECRET}"), 422, "key-reused", "no"),
    Forbidden: (Forbidden(SECRET, SECRET, "execute"), 403, "forbidden", "no"),
    Overloaded: (Overloaded(SECRET), 429, "overloaded", "yes"),
    Closed: (Closed(SECRET), 503, "closed", "yes"),
    DeadlinePassed: (DeadlinePassed(SECRET), 503, "deadline-passed", "yes"),
    Conflict: (Conflict("box:1", 1, 2), 503, "not-stored", "yes"),
    Voided: (Voided(SECRET), 503, "not-stored", "yes"),
    ProjectionLag: (ProjectionLag(9, {"boxes": 4}, {"boxes": "live"}), 503, "views-lag", "yes"),
    ProjectionUnserved: (ProjectionUnserved("boxes"), 503, "views-built", "yes"),
    TimeoutError: (TimeoutError(SECRET), 503, "timed-out", "with-the-same-key"),
    OutcomeUnknown: (OutcomeUnknown(SECRET), 500, "outcome-unknown", "with-the-same-key"),
    HandlerFailed: (HandlerFailed(SECRET), 500, "internal", "no"),
    StreamUnreadable: (StreamUnreadable(SECRET), 500, "internal", "no"),
    Damaged: (Damaged(7, SECRET), 500, "internal", "no"),
    UsageError: (UsageError(SECRET), 500, "internal", "no"),
    DefinitionError: (DefinitionError(SECRET), 500, "internal", "no"),
    EngineFailed: (EngineFailed(SECRET), 500, "internal", "no"),
    ProjectionFailed: (ProjectionFailed("boxes", 7, SECRET, SECRET), 500, "internal", "no"),
    RowRefused: (RowRefused("boxes_rows", SECRET), 500, "internal", "no"),
    StoreFailed: (StoreFailed(SECRET, written=None), 500, "internal", "no"),
    StoreLocked: (StoreLocked(SECRET), 500, "internal", "no"),
    StoreRefused: (StoreRefused(SECRET), 500, "internal", "no"),
}


@pytest.mark.parametrize("cls", EXPECTED, ids=lambda cls: cls.__name__)
def test_every_error_has_its_status_and_says_whether_to_send_again(cls: Any) -> None:
    error, status, code, resend = EXPECTED[cls]
    problem = problem_of(error)  # type: ignore[arg-type]
    body = json.loads(problem.body)

    assert (problem.status, problem.code, problem.resend) == (status, code, resend)
    assert (body["status"], body["code"], body["resend"]) == (status, code, resend)
    assert body["type"] == f"urn:foldline:problem:{code}"
    assert SECRET not in problem.body.decode() + str(problem.headers)
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert ("Retry-After" in problem.headers) is (status in (429, 503))
    views = isinstance(error, ProjectionLag | ProjectionUnserved)
    if isinstance(error, EngineError) and resend == "yes" and not views:
        assert error.safe_to_resend


def test_no_error_of_the_engine_is_forgotten() -> None:
    public = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, EngineError)
    }

    assert public - {EngineError, errors.NotRun} <= EXPECTED.keys()


def test_a_lost_precondition_tells_the_version_that_was_found() -> None:
    assert problem_of(WrongVersion("box:1", 3, 5)).headers["ETag"] == '"5"'


def test_a_lag_names_who_lags_and_by_how_much() -> None:
    assert "boxes is 5 behind" in problem_of(ProjectionLag(9, {"boxes": 4}, {"boxes": "x"})).detail


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


# -- headers ---------------------------------------------------------------------------------


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


# -- the middleware --------------------------------------------------------------------------


async def serve(
    app: Any, pieces: list[Any], headers: list[tuple[bytes, bytes]] | None = None, **options: Any
) -> list[Any]:
    """Give what the middleware sends for a request whose body comes in these pieces."""
    sent: list[Any] = []
    waiting = list(pieces)

    async def receive() -> Any:
        if waiting:
            piece = waiting.pop(0)
            if isinstance(piece, dict):
                return piece
            return {"type": "http.request", "body": piece, "more_body": bool(waiting)}
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": headers or []}
    await EngineMiddleware(app, **options)(scope, receive, send)
    return sent


def raising(error: BaseException, started: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Callable[..., Awaitable[None]]) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


async def reading(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client left")
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def test_an_error_becomes_a_problem_response() -> None:
    start, body = await serve(raising(Rejected("sold-out", "none left")), [b""])

    assert start["status"] == 409
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert json.loads(body["body"])["code"] == "sold-out"


async def test_an_error_inside_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    failed = HandlerFailed("Box.pack failed")
    failed.__cause__ = ValueError(f"no such card: {SECRET}")
    with caplog.at_level(logging.DEBUG):
        start, body = await serve(raising(failed), [b""])

    assert start["status"] == 500
    assert b"Box.pack" not in body["body"]
    assert "Box.pack failed" in caplog.text
    assert "caused by:\nValueError" in caplog.text
    assert SECRET not in caplog.text


async def test_an_error_after_the_answer_began_goes_on_to_the_server() -> None:
    with pytest.raises(Rejected):
        await serve(raising(Rejected("late", "too late"), started=True), [b""])


async def test_other_errors_go_on_to_the_server() -> None:
    with pytest.raises(ZeroDivisionError):
        await serve(raising(ZeroDivisionError()), [b""])


async def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    await EngineMiddleware(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 6, b"x" * 5], [b"x"] * 11])
async def test_a_body_is_capped_as_it_arrives(pieces: list[bytes]) -> None:
    start, _ = await serve(reading, pieces, body_bytes=10)

    assert start["status"] == 413
    assert (b"connection", b"close") in start["headers"]
    assert (await serve(reading, [b"x" * 10], body_bytes=10))[1]["body"] == b"x" * 10


async def test_a_length_that_is_too_large_is_refused_unread() -> None:
    async def app(*_: Any) -> None:
        raise AssertionError("not reached")

    for name in ("11", "99999999999999999999", "9" * 5_000):
        start, _ = await serve(app, [], [(b"content-length", name.encode())], body_bytes=10)
        assert start["status"] == 413


@pytest.mark.parametrize("how", ["answers", "leaves-it", "raises-another"])
async def test_what_cuts_a_body_off_is_said_whatever_the_framework_makes_of_it(how: str) -> None:
    """FastAPI answers 400 where reading a body fails, and Litestar 500."""

    async def framework(scope: Any, receive: Any, send: Any) -> None:
        try:
            while True:
                await receive()
        except Exception as error:
            if how == "raises-another":
                raise RuntimeError("could not be parsed") from error
            if how == "answers":
                await send({"type": "http.response.start", "status": 400, "headers": []})
                await send({"type": "http.response.body", "body": b"no"})

    start, body = await serve(framework, [b"x" * 6] * 3, body_bytes=10)
    assert (start["status"], json.loads(body["body"])["code"]) == (413, "too-large")


@pytest.mark.parametrize("name", [b"if-match", b"idempotency-key", b"content-type"])
async def test_a_header_that_counts_once_comes_once(name: bytes) -> None:
    start, body = await serve(reading, [b""], [(name, b'"1"'), (b"x", b"y"), (name, b'"2"')])
    assert (start["status"], json.loads(body["body"])["code"]) == (400, "repeated-header")


async def test_a_code_may_have_a_status_of_its_own() -> None:
    for code, status in (("box-unknown", 404), ("sold-out", 409)):
        start, _ = await serve(raising(Rejected(code, "no")), [b""], statuses={"box-unknown": 404})
        assert start["status"] == status


async def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    pieces = [{"type": "http.request", "body": b"x", "more_body": True}]
    start, body = await serve(reading, pieces, body_seconds=0.01)

    assert (start["status"], json.loads(body["body"])["code"]) == (408, "too-slow")


async def test_a_client_that_leaves_in_the_middle_makes_no_noise() -> None:
    pieces = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.disconnect"},
    ]
    assert await serve(reading, pieces) == []
