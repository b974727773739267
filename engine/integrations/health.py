"""Routes that tell how an engine is, for any ASGI framework: `/live`, `/ready` and `/health`.

Rules: `/live` is answered out of memory, and asks no disk and no other process: whoever ends a
process because of it must never end one whose disk is slow. Each answer is 200 or 503, and nothing
is kept by a cache. Without `details` an answer has names of checks only. Nothing here imports a
framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from ..engine import Engine
from ..health.bounds import Health
from ..health.report import HealthReport
from ..model.given import as_instance

__all__ = ["HealthRoutes", "answer_of"]

App: TypeAlias = Callable[[Any, Any, Any], Any]
Find: TypeAlias = Callable[[], Engine | None]

_PATHS: Final = ("/live", "/ready", "/health")
_GOOD, _BAD, _METHOD, _NOT_FOUND = 200, 503, 405, 404


class HealthRoutes:
    """ASGI: `GET` of `/live`, `/ready` and `/health`, as an app to mount or as a middleware.

    - `app`: what answers every other path; without it these are 404.
    - `engine`: the engine, or a function that gives it, or None as long as there is none.
    - `bounds`: of the checks; the usual ones without.
    - `prefix`: what stands before the paths, as "/-"; nothing without.
    - `details`: whether `/health` shows values, bounds and what to do. Names of projections and
      folders are in it: let no stranger reach it.

    `/live` is 503 if only a new start of the process helps: give it to what restarts processes.
    `/ready` is 503 if requests should go elsewhere: give it to a load balancer. `/health` is 503 if
    any check is beyond its bound: give it to what calls people.
    """

    def __init__(
        self,
        app: App | None = None,
        *,
        engine: Engine | Find,
        bounds: Health | None = None,
        prefix: str = "",
        details: bool = False,
    ) -> None:
        self._app = app
        self._find: Find = (lambda: engine) if isinstance(engine, Engine) else engine
        self._bounds = as_instance("bounds", bounds, Health)
        self._prefix = prefix.rstrip("/")
        self._details = details

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        path = self._path_of(scope) if scope["type"] == "http" else ""
        if path in _PATHS:
            if scope["method"] not in ("GET", "HEAD"):
                await _send(send, _METHOD, b"", allow=True)
                return
            status, body = await answer_of(
                path[1:], self._find(), self._bounds, details=self._details
            )
            await _send(send, status, b"" if scope["method"] == "HEAD" else body)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _send(send, _NOT_FOUND, b"")

    def _path_of(self, scope: Any) -> str:
        """Give the path behind where this is mounted; frameworks leave that in it, or take it.

        Some end it with a slash.
        """
        path: str = scope["path"]
        path = path.removeprefix(scope.get("root_path", "").rstrip("/"))
        if self._prefix and not path.startswith(f"{self._prefix}/"):
            return ""
        return path.removeprefix(self._prefix).rstrip("/")


async def answer_of(
    what: str, engine: Engine | None, bounds: Health | None = None, *, details: bool = False
) -> tuple[int, bytes]:
    """Give status and JSON body of the answer to "live", "ready" or "health"."""
    if engine is None:
        # A process whose engine has not started yet is not to be ended for that.
        is_good = what == "live"
        told: object = {"live": True, "ready": False, "ok": False}
    elif what == "live":
        is_good = engine.is_live
        told = {"live": is_good}
    else:
        report = await engine.health(bounds)
        is_good = report.ready if what == "ready" else report.ok
        told = report if details and what == "health" else _short(report, what)
    return (_GOOD if is_good else _BAD), msgspec.json.encode(told)


def _short(report: HealthReport, what: str) -> object:
    """Give what strangers may read."""
    if what == "ready":
        wrong = [check.name for check in report.failing if check.decides != "nothing"]
        return {"ready": report.ready, "failing": wrong}
    names = list(dict.fromkeys(check.name for check in report.failing))
    return {"live": report.live, "ready": report.ready, "ok": report.ok, "failing": names}


async def _send(send: Any, status: int, body: bytes, *, allow: bool = False) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        *([(b"allow", b"GET, HEAD")] if allow else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
