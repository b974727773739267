"""Errors to status codes, and the middleware that makes problem responses of them."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from engine import errors
from engine.errors import (
    ArchiveUnread,
    BrokerFailed,
    Closed,
    Conflict,
    Damaged,
    DeadlinePassed,
    DefinitionError,
    EngineError,
    EngineFailed,
    EventUnread,
    Forbidden,
    HandlerFailed,
    InvalidInput,
    KeyReused,
    MessageRefused,
    OutcomeUnknown,
    Overloaded,
    ProjectionFailed,
    ProjectionLag,
    ProjectionUnserved,
    ReactionTooDeep,
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
from engine.integrations.asgi import EngineMiddleware, problem_of

# -- errors ----------------------------------------------------------------------------------


SECRET = "4929-1234-5678"


EXPECTED: dict[type[BaseException], tuple[BaseException, int, str, str]] = {
    Rejected: (Rejected("sold-out", "none left", card=SECRET), 409, "sold-out", "no"),
    WrongVersion: (WrongVersion("box:1", 3, 5), 412, "wrong-version", "no"),
    EventUnread: (EventUnread("sold", 2, [SECRET]), 503, "older-release", "yes"),
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
    ArchiveUnread: (ArchiveUnread(7, SECRET, SECRET), 500, "internal", "no"),
    UsageError: (UsageError(SECRET), 500, "internal", "no"),
    DefinitionError: (DefinitionError(SECRET), 500, "internal", "no"),
    EngineFailed: (EngineFailed(SECRET), 500, "internal", "no"),
    ProjectionFailed: (ProjectionFailed("boxes", 7, SECRET, SECRET), 500, "internal", "no"),
    RowRefused: (RowRefused("boxes_rows", SECRET), 500, "internal", "no"),
    StoreFailed: (StoreFailed(SECRET, written=None), 500, "internal", "no"),
    StoreLocked: (StoreLocked(SECRET), 503, "closed", "yes"),
    StoreRefused: (StoreRefused(SECRET), 500, "internal", "no"),
    BrokerFailed: (BrokerFailed(SECRET, passes=True), 500, "internal", "no"),
    MessageRefused: (MessageRefused(SECRET), 500, "internal", "no"),
    ReactionTooDeep: (ReactionTooDeep(SECRET, "paid v1", 65, 64), 500, "internal", "no"),
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


@pytest.mark.parametrize("written", [False, None])
def test_a_store_that_is_away_is_asked_again_later(written: bool | None) -> None:
    problem = problem_of(StoreFailed(SECRET, written=written, passes=True))
    found = problem.status, problem.code, problem.resend, problem.headers.get("Retry-After")
    away = (503, "store-away", "yes", "5")
    assert found == (away if written is False else (500, "internal", "no", None))


def test_no_error_of_the_engine_is_forgotten() -> None:
    public = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, EngineError)
    }

    assert public - {EngineError, errors.NotRun} <= EXPECTED.keys()


def test_what_is_said_to_be_logged_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    problem_of(StoreRefused("another log"))
    problem_of(Rejected("no", "not now"))

    assert [record.name for record in caplog.records] == ["foldline"]
    assert "answered with 500 internal" in caplog.text
    assert "StoreRefused: another log" in caplog.text


def test_what_passes_by_itself_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[EngineError] = [
        ProjectionLag(9, {"boxes": 4}, {"boxes": "stopped"}),
        Closed("it stops"),
        Rejected("later", SECRET),
    ]
    for error in errors:
        try:
            raise error
        except EngineError as caught:
            problem_of(caught, {"later": 503})

    lines = [record.getMessage().count("\n") for record in caplog.records]
    assert (lines[:2], lines[2] > 0) == ([0, 0], True)
    assert "answered with 503 views-lag: ProjectionLag: position 9" in caplog.text
    assert SECRET not in caplog.text


def test_a_lost_precondition_tells_the_version_that_was_found() -> None:
    assert problem_of(WrongVersion("box:1", 3, 5)).headers["ETag"] == '"5"'


def test_a_lag_names_who_lags_and_by_how_much() -> None:
    assert "boxes is 5 behind" in problem_of(ProjectionLag(9, {"boxes": 4}, {"boxes": "x"})).detail


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


@pytest.mark.parametrize("make", [Starlette, FastAPI])
async def test_around_a_whole_framework_an_error_is_the_engines_and_not_its_page(
    make: type[Starlette],
) -> None:
    """Starlette sends a page for what an application raises, and then raises it."""

    async def work(request: Request) -> Response:
        match request.path_params["what"]:
            case "rejected":
                raise Rejected("sold-out", "none left")
            case "broken":
                raise ZeroDivisionError
            case "streamed":
                return StreamingResponse(aiter_of(b"a", b"b"), 500)
        return Response(b"its own", 500)

    app = make()
    app.add_route("/{what}", work, methods=["GET"])
    for debug in (False, True):
        app.debug = debug
        transport = httpx.ASGITransport(EngineMiddleware(app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answer = await client.get("/rejected")
            assert (answer.status_code, answer.json()["code"]) == (409, "sold-out")
            broken = await client.get("/broken")
            assert (broken.status_code, broken.is_stream_consumed) == (500, True)
            assert ("Internal Server Error" in broken.text) or debug
            for what, body in (("own", b"its own"), ("streamed", b"ab")):
                answer = await client.get(f"/{what}")
                assert (answer.status_code, answer.content) == (500, body)


async def aiter_of(*pieces: bytes) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece


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

    await EngineMiddleware(app)({"type": "lifespan"}, None, None)
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
