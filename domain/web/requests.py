"""What the endpoints share: reading a request, and making an answer.

Rules: a body is JSON of exactly one struct; who asks is named by one function, which an
application replaces. An answer to a change has the receipt's headers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from engine import Engine
from engine.integrations.asgi import BadRequest, decode

__all__ = [
    "HANDLING_SECONDS",
    "PAGE_ROWS_MAX",
    "Principal",
    "answered",
    "engine_of",
    "nobody",
    "number_asked",
    "request_id",
    "sent",
]

HANDLING_SECONDS = 10.0
"""Within which a command must be decided, and a query answered."""
PAGE_ROWS_MAX = 200

Principal: TypeAlias = Callable[[Request], str | None]
T = TypeVar("T")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_NUMBER = re.compile("[0-9]{1,9}")


def nobody(_: Request) -> str | None:
    """Name nobody: put your own authentication here."""
    return None


def engine_of(request: Request) -> Engine:
    """Give the engine of the application."""
    engine: Engine = request.app.state.engine
    return engine


async def sent(request: Request, cls: type[T]) -> T:
    """Give a request's body."""
    return decode(await request.body(), cls, headers=request.headers, unique=True)


def number_asked(request: Request, name: str, usual: int, least: int, most: int) -> int:
    """Give a number of the query string."""
    text = request.query_params.get(name, str(usual))
    if not (_NUMBER.fullmatch(text) and least <= int(text) <= most):
        raise BadRequest(422, f"bad-{name}", f"{name} is a number from {least} to {most}")
    return int(text)


def request_id(request: Request) -> str | None:
    """Give a request's id, if it is one: it is stored with every event, so not any text will do."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else None


def answered(status: int, body: Any, **headers: str) -> Response:
    """Give a response of JSON."""
    made: Mapping[str, str] = {**headers, "Content-Type": "application/json"}
    return Response(msgspec.json.encode(body), status_code=status, headers=made)
