"""The engine behind HTTP, for any ASGI framework: requests to calls, answers to status codes.

Rules: a page of another site gets no answer. A body has a cap on its bytes and a time to arrive,
before anything looks at it, and a cap on its nesting before it is decoded. Bad input is told by
path and rule and never by value; what went wrong inside is told by its kind only, and logged. Every
answer that is an error says whether the same request may be sent again. Nothing here imports a
framework, or knows an application.

A framework that answers every error itself, as Litestar does, shows none to a middleware around
it: give it an exception handler for EngineError and BadRequest that answers with `problem_of`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import string
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec

from ..errors import (
    EngineError,
)
from ..limits import KEY_LENGTH_MAX
from ..model.given import as_seconds, as_whole
from ..runtime.safely import safe_logger
from .bad_request import BadRequest
from .conditions import asks_for_current, check_match, expected_version, not_modified
from .headers import Headers
from .origin import names_of, origins_of, refusal_of
from .problems import Problem, etag, problem_of, receipt_headers

__all__ = [
    "BadRequest",
    "EngineMiddleware",
    "OriginMiddleware",
    "Problem",
    "asks_for_current",
    "check_match",
    "decode",
    "etag",
    "expected_version",
    "idempotency_key",
    "not_modified",
    "problem_of",
    "receipt_headers",
]

T = TypeVar("T")

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]  # frameworks have types of their own

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)', re.DOTALL)
"""A JSON string, or the rest of the body where it is not closed: each byte is looked at once."""
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""An escape by itself, and not behind a backslash that is escaped."""
_BRACKET = re.compile(rb"[\[\]{}]")
_AT = r"( - at `[^`]*`)?\Z"
_VALUE = re.compile(r"(Invalid (?:enum )?value) .*?" + _AT, re.DOTALL)
_LONG_NAME = re.compile(r"(unknown field `.{60}).*(`)" + _AT, re.DOTALL)
_PLAIN: Final = string.punctuation.replace("/", "").replace("%", "")
"""What stays as it is in the key of nobody; `/` stands after a principal only."""
_ONCE: Final = (b"idempotency-key", b"if-match", b"content-type")  # of two, frameworks show one
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
_AS_TEXT: Final[Any] = {"parse_int": str, "parse_float": str, "parse_constant": str}
"""Numbers are only passed over; Python makes no integer of thousands of digits."""
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_HOSTS_TOLD_MAX: Final = 20
"""Of how many wrong hosts the log is told."""


# -- requests --------------------------------------------------------------------------------


def decode(
    body: bytes,
    cls: type[T],
    *,
    headers: Headers | None = None,
    depth_max: int = 32,
    unique: bool = False,
) -> T:
    """Decode a JSON body, into a command for instance; raise BadRequest (422) for what is none.

    Give the request's `headers`, and a body that is not said to be JSON is refused too (415). Then
    no form of another site's page can send one. So is one that is encoded, as by gzip. Nesting
    deeper than `depth_max` is refused before decoding. Unknown fields are refused where the class
    forbids them, as commands do; the classes of its fields forbid them for themselves. Of a field
    that comes twice the last counts. With `unique` it is refused, since a proxy before may have
    taken the other. A text with a NUL is refused, since no view holds it. What a class raises in
    its own `__post_init__` is not shown, as it may have a value. What a client should read belongs
    in a rule of the type, or in a handler's Rejected.
    """
    if headers is not None:
        _check_json(headers)
    check_texts(body)
    if _depth(body) > depth_max:
        raise BadRequest(422, "too-deep", f"the body is nested deeper than {depth_max} levels")
    try:
        decoded = msgspec.json.decode(body, type=cls)
        if unique:
            json.loads(body, object_pairs_hook=_check_fields, **_AS_TEXT)
    except msgspec.MsgspecError as error:
        raise BadRequest(422, "bad-body", _without_values(error)) from None
    except UnicodeDecodeError:
        raise BadRequest(422, "bad-body", "the body is not UTF-8") from None
    except RecursionError:
        raise BadRequest(422, "too-deep", "the body is nested too deeply") from None
    except ValueError:
        raise BadRequest(422, "bad-body", "the body is no JSON") from None
    return decoded


def check_texts(body: bytes) -> None:
    """Raise BadRequest (422) for JSON with a NUL in a text, which no table of a view can hold."""
    if b"\\u0000" in body and _NUL.search(body):
        raise BadRequest(422, "bad-body", "a text in the body has a NUL, which no table can hold")


def _check_fields(pairs: list[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise BadRequest(422, "repeated-field", "a field comes twice in one object of the body")


def _check_json(headers: Headers) -> None:
    kind = (headers.get("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not re.fullmatch(r"application/[^/]*\+json", kind):
        raise BadRequest(415, "not-json", "send a body with Content-Type: application/json")
    charset = _CHARSET.search(headers.get("content-type") or "")
    if charset is not None and charset[1].lower() not in ("utf-8", "utf8"):
        raise BadRequest(415, "not-utf8", "send JSON as UTF-8")
    if (headers.get("content-encoding") or "identity").strip().lower() not in ("", "identity"):
        raise BadRequest(415, "encoded", "send a body without a Content-Encoding")


def _without_values(error: msgspec.MsgspecError) -> str:
    """Give what it says without values; paths, types and names of fields may be shown."""
    text = str(error)
    if error.__cause__ is not None:
        # msgspec puts the path behind what the class said.
        said = str(error.__cause__)
        return "refused by a rule of its class" + text[len(said) :] * text.startswith(said)
    text = _VALUE.sub(lambda found: found[1] + (found[2] or ""), text)
    return _LONG_NAME.sub(lambda found: found[1] + "..." + found[2] + (found[3] or ""), text)


def _depth(body: bytes) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def idempotency_key(
    headers: Headers, principal: str | None = None, *, required: bool = False
) -> str | None:
    """Give the `Idempotency-Key` of a request as a command's key, or None where there is none.

    `headers` finds names whatever their case, or has them in lower case. Give the `principal` where
    there is one: the key is then theirs. No request of others, nor one without a principal, is
    taken for a repetition of theirs. Make the id of what a POST creates with `id_from_key` of it.
    Raises BadRequest (400) for a malformed one, or for a missing one if `required`.
    """
    given = headers.get("idempotency-key")
    if given is None:
        if required:
            raise BadRequest(400, "key-required", "send an Idempotency-Key with this request")
        return None
    # A structured-field string has quotes, and many clients send none.
    text = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given
    if not _KEY.fullmatch(text):
        raise BadRequest(
            400,
            "bad-key",
            "an Idempotency-Key is 1 to 200 visible ASCII characters, without spaces",
        )
    # Without a principal no `/` stays, so that it cannot be written to look like one with.
    key = quote(text, _PLAIN) if principal is None else f"{quote(principal, safe='')}/{text}"
    if len(key) > KEY_LENGTH_MAX:
        raise BadRequest(400, "bad-key", "this Idempotency-Key is too long for this principal")
    return key


# -- the middleware --------------------------------------------------------------------------


class OriginMiddleware:
    """ASGI middleware: no page of another site reads or acts, and no made-up name leads here.

    Put it outermost. It answers requests under the machine's own names, under addresses, under
    names without a dot, and under `hosts`. Give the names that the world knows the server by, or
    `*` behind a proxy that checks them. What a page of another site sends is refused, unless
    `origins` has that site, as "https://shop.example". Bodies of forms are refused, unless `forms`.
    All that holds for requests, streams and websockets. Raises TypeError or ValueError for hosts
    and origins that no request can have.
    """

    def __init__(
        self,
        app: App,
        *,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        forms: bool = False,
        logger: logging.Logger | None = None,
    ) -> None:
        self._app = app
        self._logger = safe_logger(logger)
        self._told: set[str] = set()
        """What the log has been told of wrong hosts."""
        self._hosts = names_of(hosts)
        self._origins = origins_of(origins)
        self._forms = forms

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request, or refuse it."""
        refused = None
        if scope["type"] in ("http", "websocket"):
            refused = refusal_of(scope, self._hosts, self._origins, forms=self._forms)
        if refused is None:
            await self._app(scope, receive, send)
            return
        self._tell(*refused)
        if scope["type"] == "http":
            closing = _is_of_http_1(scope)
            await _send_problem(send, problem_of(BadRequest(*refused)), closing=closing)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    def _tell(self, _: int, code: str, detail: str) -> None:
        # A health check or a proxy shows nobody what it was answered. Names can be made up.
        if code == "wrong-host" and detail not in self._told and len(self._told) < _HOSTS_TOLD_MAX:
            self._told.add(detail)
            self._logger.warning("a request was refused with 421: %s", detail)


class EngineMiddleware:
    """ASGI middleware: caps on bodies, and errors of the engine as problem responses.

    Add it to any ASGI application, as its middleware or around the whole. `body_bytes` is the
    largest body, `body_seconds` the time in which it must have arrived. `statuses` gives codes of
    rejections another status than 409. What is said to a body that was cut off stays, whatever the
    application answers to it.
    """

    def __init__(
        self,
        app: App,
        *,
        body_bytes: int = 65_536,
        body_seconds: float = 10.0,
        statuses: Mapping[str, int] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self._app = app
        self._body_bytes = as_whole("body_bytes", body_bytes)
        self._body_seconds = as_seconds("body_seconds", body_seconds)
        self._statuses = {
            code: as_whole(f"the status of {code!r}", status, 400, 599)
            for code, status in (statuses or {}).items()
        }
        self._logger = safe_logger(logger)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_head = scope.get("method") == "HEAD"
        request = _Request(receive, send, self._body_bytes, self._body_seconds, is_head=is_head)
        try:
            request.check_headers(scope)
            await self._app(scope, request.receive, request.send)
            await request.end()
        except (EngineError, BadRequest, TimeoutError) as error:
            if request.answered:
                raise
            await self._answer(scope, send, request.refused or error)
        except Exception:
            await request.release()
            # Frameworks raise where the client left in the middle of its body: nobody waits.
            if request.answered or not (request.left or request.refused):
                raise
            if request.refused:
                await self._answer(scope, send, request.refused)
        else:
            if request.refused and not request.answered:
                await self._answer(scope, send, request.refused)

    async def _answer(
        self, scope: Scope, send: Send, error: EngineError | BadRequest | TimeoutError
    ) -> None:
        problem = problem_of(error, self._statuses, logger=self._logger)
        # Of a body that was cut off the rest is not read: the connection is not used again.
        closing = problem.status in (408, 413) and _is_of_http_1(scope)
        await _send_problem(send, problem, closing=closing)


def _is_of_http_1(scope: Scope) -> bool:
    """Tell whether a header may say that the connection ends: in HTTP/2 it is an error."""
    return str(scope.get("http_version", "1.1")).startswith("1")


async def _send_problem(send: Send, problem: Problem, *, closing: bool) -> None:
    body = problem.body
    headers = {**problem.headers, "Content-Length": str(len(body))}
    if closing:
        headers["Connection"] = "close"
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class _Request:
    """One request's body as it arrives, and whether it has been answered."""

    def __init__(
        self, receive: Receive, send: Send, bytes_max: int, seconds: float, *, is_head: bool
    ) -> None:
        self._receive = receive
        self._send = send
        self._bytes_max = bytes_max
        self._seconds = seconds
        self._is_head = is_head
        self._is_over = False
        """Whether the whole answer has been sent."""
        self._due: float | None = None
        self._bytes = 0
        self._whole = False
        self._held: list[Message] = []
        """An answer with status 500, of which its framework may tell the reason yet."""
        self.answered = False
        self.left = False
        self.refused: BadRequest | None = None
        """Why its body was cut off."""

    def check_headers(self, scope: Scope) -> None:
        """Refuse a body that says itself that it is too large, and headers that contradict."""
        names: set[bytes] = set()
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and self._is_too_large(value):
                raise self._too_large()
            if name in _ONCE and name in names:
                raise BadRequest(400, "repeated-header", f"send one {name.decode()} header")
            names.add(name)

    def _is_too_large(self, length: bytes) -> bool:
        # Python makes no number of thousands of digits.
        return len(length) > 18 or int(length) > self._bytes_max

    def _too_large(self) -> BadRequest:
        return BadRequest(413, "too-large", f"a body has at most {self._bytes_max} bytes")

    async def receive(self) -> Message:
        """Give the next piece; raise BadRequest where it is too much or comes too late."""
        if self._whole:
            return await self._receive()
        try:
            return await self._next()
        except BadRequest as error:
            if self.answered:
                # Too late to be told: who streams an answer hears that nobody is there.
                self.left = True
                return {"type": "http.disconnect"}
            self.refused = error
            raise

    async def _next(self) -> Message:
        if self.refused is not None:
            raise self.refused
        loop = asyncio.get_running_loop()
        if self._due is None:
            self._due = loop.time() + self._seconds
        try:
            async with asyncio.timeout_at(self._due):
                message = await self._receive()
        except TimeoutError:
            detail = f"the body did not arrive within {self._seconds:g} s"
            raise BadRequest(408, "too-slow", detail) from None
        if message["type"] == "http.disconnect":
            self.left = True
            return message
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._bytes_max:
            raise self._too_large()
        self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass on a piece of the answer; nothing of one to a body that was cut off."""
        if (self.refused is not None and not self.answered) or self._is_over:
            return
        if message.get("status") == 500 or (self._held and not message.get("more_body", False)):
            # Starlette answers what an application raises, and raises it then.
            self._held.append(message)
            return
        await self.release()
        await self._pass_on(message)

    async def release(self) -> None:
        """Send an answer with status 500 that was held back: it has no reason that is ours."""
        held, self._held = self._held, []
        for message in held:
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        self.answered = True
        if self._is_head and message["type"] == "http.response.body":
            # A stream would be sent to nobody, and never end.
            message = {"type": "http.response.body", "body": b""}
        if message["type"] == "http.response.body":
            self._is_over = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """Send what was held back, and end an answer that was broken off because of the body."""
        await self.release()
        if self.left and self.answered and not self._is_over:
            await self.send({"type": "http.response.body", "body": b""})
