"""Answers over HTTP: what it says to each error of the engine, and to a receipt.

Rules: what went wrong inside is told by its kind only, and logged. Every answer that is an error
says whether the same request may be sent again. Nothing here reads a request, or knows a framework.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from ..errors import (
    Closed,
    Conflict,
    DeadlinePassed,
    EngineError,
    EventUnread,
    Forbidden,
    InvalidInput,
    KeyReused,
    NotRun,
    OutcomeUnknown,
    Overloaded,
    ProjectionLag,
    ProjectionUnserved,
    Rejected,
    StoreFailed,
    StoreLocked,
    Voided,
    WrongVersion,
)
from ..model.messages import Receipt
from ..runtime.safely import described, safe_logger
from ..runtime.tracebacks import traceback_text
from .bad_request import BadRequest

__all__ = ["Problem", "etag", "problem_of", "receipt_headers"]

RECEIPT_HEADER: Final = "Foldline-Receipt"
"""Carries a receipt's token; a client gives it back as `at` to read what it wrote."""

Resend: TypeAlias = Literal["yes", "with-the-same-key", "no"]


def etag(version: int) -> str:
    """Give the ETag of a version."""
    return f'"{version}"'


def receipt_headers(receipt: Receipt) -> dict[str, str]:
    """Give the headers of an executed command: its version as ETag, and its token."""
    return {"ETag": etag(receipt.version), RECEIPT_HEADER: receipt.token}


class Problem(msgspec.Struct, frozen=True):
    """An error as HTTP says it: RFC 9457, `application/problem+json`."""

    status: int
    code: str
    """For programs; stays the same."""
    detail: str
    """For people."""
    resend: Resend
    """Whether the same request may be sent again: and if, whether only with the same key."""
    retry_after: int | None = None
    """Seconds to wait before."""
    version: int | None = None
    """The version that was found, where another one was asked for."""

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.version is not None:
            headers["ETag"] = etag(self.version)
        return headers

    @property
    def body(self) -> bytes:
        """The body that goes with it."""
        return msgspec.json.encode(
            {
                "type": f"urn:foldline:problem:{self.code}",
                "title": self.code.replace("-", " "),
                "status": self.status,
                "code": self.code,
                "detail": self.detail,
                "resend": self.resend,
            }
        )


_SERVERS_FAULT: Final = 500
_PASSES: Final = 503
_INTERNAL = "something is wrong inside; it was logged, and nothing about it is told here"


def problem_of(
    error: EngineError | BadRequest | TimeoutError,
    statuses: Mapping[str, int] | None = None,
    *,
    logger: logging.Logger | None = None,
) -> Problem:
    """Give what HTTP says to an error of the engine; log what is the server's own fault.

    A rejection is 409 with its own code, or what `statuses` has for that code. That is 404, for
    instance, if it means that an order is not there. An answer with 500 or more is logged: to
    `logger`, or to the one named "foldline". What passes by itself is one line, and all else has
    the error's traceback.
    """
    problem = _problem_of(error, statuses)
    if problem.status >= _SERVERS_FAULT:
        told = _logged(error, passes=problem.status == _PASSES)
        safe_logger(logger).error("answered with %d %s%s", problem.status, problem.code, told)
    return problem


def _logged(error: EngineError | BadRequest | TimeoutError, *, passes: bool) -> str:
    is_known = isinstance(error, EngineError) and not isinstance(error, Rejected)
    if passes and is_known and error.__cause__ is None:
        return f": {described(error)}"  # where it was raised helps nobody, once for each request
    return f"\n{traceback_text(error)}"


def _problem_of(
    error: EngineError | BadRequest | TimeoutError, statuses: Mapping[str, int] | None
) -> Problem:
    match error:
        case BadRequest():
            return Problem(error.status, error.code, error.detail, "no")
        case Rejected():
            return Problem((statuses or {}).get(error.code, 409), error.code, error.message, "no")
        case WrongVersion():
            detail = f"the version is {error.actual}, not {error.expected}: read again, then decide"
            return Problem(412, "wrong-version", detail, "no", None, error.actual)
        case InvalidInput():
            return Problem(422, "invalid-input", str(error), "no")
        case KeyReused():
            detail = (
                "this Idempotency-Key was used for another command. Use a new one for a new "
                "request; of a request that is repeated, read first what was done"
            )
            return Problem(422, "key-reused", detail, "no")
        case Forbidden():
            return Problem(403, "forbidden", "this is not allowed", "no")
        case ProjectionLag():
            return Problem(503, "views-lag", _lag(error), "yes", 1)
        case ProjectionUnserved() if error.release is not None:
            detail = f"{error.projection} is of another release: ask again when that is replaced"
            return Problem(503, "views-of-another-release", detail, "yes", 5)
        case ProjectionUnserved() if error.refused is not None:
            detail = f"{error.projection} is run by no process: who operates this must act"
            return Problem(503, "views-refused", detail, "yes", 60)
        case ProjectionUnserved():
            detail = f"{error.projection} is being built anew: ask again when that is done"
            return Problem(503, "views-built", detail, "yes", 5)
        case OutcomeUnknown():
            detail = "it may have been done or not: the same request with the same key finds out"
            return Problem(500, "outcome-unknown", detail, "with-the-same-key")
        case NotRun():
            return _not_run(error)
        case StoreLocked():
            detail = "another process has the log, and this one waits for it: nothing was done"
            return Problem(503, "closed", detail, "yes", 5)
        case StoreFailed() if error.passes and error.written is False:
            detail = "what this needs cannot be had now: nothing was done"
            return Problem(503, "store-away", detail, "yes", 5)
        case TimeoutError():
            # The host gave up waiting; a command that the engine has goes on all the same.
            detail = "it may be done or not: the same request with the same key finds out"
            return Problem(503, "timed-out", detail, "with-the-same-key", 1)
        case _:
            return Problem(500, "internal", _INTERNAL, "no")


def _not_run(error: NotRun) -> Problem:
    match error:
        case Overloaded():
            return Problem(429, "overloaded", "too much at once: nothing was done", "yes", 1)
        case Closed():
            return Problem(503, "closed", "the service is stopping: nothing was done", "yes", 5)
        case DeadlinePassed():
            return Problem(503, "deadline-passed", "it took too long and was not done", "yes", 1)
        case EventUnread():
            detail = "another process runs an older release: ask again when that is replaced"
            return Problem(503, "older-release", detail, "yes", 5)
        case Conflict() | Voided():
            return Problem(503, "not-stored", "it could not be stored: nothing was done", "yes", 1)
        case _:
            # The aggregate's code failed, or its stream cannot be read: again would be the same.
            return Problem(500, "internal", _INTERNAL, "no")


def _lag(error: ProjectionLag) -> str:
    behind = ", ".join(
        f"{name} is {error.wanted - position} behind" for name, position in error.behind.items()
    )
    return f"what was written is not yet in the views: {behind}"
