"""The console as an ASGI application: its page, and the API that the page asks.

Rules: a page of another site gets no answer, and no made-up name leads here. The page is sent as it
is to whoever asks from this machine, or to all where the host authorizes: it has nothing of the
engine in it. Each call of the API is authorized by itself. What comes from the log reaches the page
as JSON, and becomes text there; the page may load nothing from elsewhere and run no script but its
own. Nothing here imports a framework.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, quote

import msgspec

from ...engine import Engine
from ...errors import InvalidInput, StoreRefused, UsageError
from ...model.retention import Retention
from ...model.withheld import text_without_values
from ...operations.operations import Operations
from ...runtime.safely import safe_logger, text_of
from ..asgi import App, EngineMiddleware, OriginMiddleware, Receive, Send, decode
from ..bad_request import BadRequest
from .endpoints import VERSION, Endpoint, info
from .permission import ConsoleAuthorize, Permission, PrincipalOf
from .retention import endpoints_with

__all__ = ["Console"]

Scope: TypeAlias = MutableMapping[str, Any]

STATIC: Final = Path(__file__).parent / "static"
TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
BODY_BYTES: Final = 16 * 1024
_QUERY_BYTES: Final = 16 * 1024

_SAFE: Final = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    # Kept, and asked for again: a page and its script are always of one release.
    "Cache-Control": "no-cache",
    **_SAFE,
}
API_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Content-Type": "application/json",
    **_SAFE,
}
_LISTS: Final = frozenset({"name", "kind"})
_INFO: Final = f"/api/v{VERSION}/console"
_encoder: Final = msgspec.json.Encoder()


class _File(msgspec.Struct, frozen=True):
    content: bytes
    headers: Mapping[str, str]
    tag: str


class Console:
    """An ASGI application to mount: `app.mount("/ops", Console(engine, authorize=...))`.

    - `engine`: an engine, or `Operations` of a log beside one.
    - `authorize`: a function of principal, action and target, sync or async. It is asked before
      each call; only True allows. Without it only this machine's own browser is answered.
    - `principal_of`: gives who sends a request, out of its ASGI scope. The engine keeps it with
      what is decided.
    - `rules`: rules of retention that operators may look at and run.
    - `hosts`, `origins`: as for `OriginMiddleware`: names that the server goes by, and other sites
      whose pages may ask.
    - `title`: what the page shows above.
    - `logger`: where it logs what was done; `logging.getLogger("foldline")` without.

    Raises DefinitionError, TypeError or ValueError for what is none of that.
    """

    def __init__(
        self,
        engine: Engine | Operations,
        *,
        authorize: ConsoleAuthorize | None = None,
        principal_of: PrincipalOf | None = None,
        rules: Sequence[Retention] = (),
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        title: str = "Foldline",
        logger: logging.Logger | None = None,
    ) -> None:
        self._operations = engine.operations if isinstance(engine, Engine) else engine
        self._logger = safe_logger(logger)
        self._permission = Permission(authorize, principal_of, self._logger, origins)
        self._title = title
        self._files = _files()
        self._has_rules = bool(rules)
        self._endpoints = {(each.path, each.method): each for each in endpoints_with(rules)}
        self._paths = {path for path, _ in self._endpoints}
        answering = EngineMiddleware(self._answer, body_bytes=BODY_BYTES, logger=self._logger)
        self._app: App = OriginMiddleware(
            answering, hosts=hosts, origins=origins, logger=self._logger
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await self._app(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        self._permission.check_local(scope)
        path, method = _path_of(scope), scope["method"]
        if path == "" and method in ("GET", "HEAD"):
            # What the page loads stands beside it, wherever the console is mounted.
            place = quote(_root_of(scope).rpartition("/")[2], safe="")
            await _send(send, 307, {"Location": f"./{place}/".replace("//", "/"), **_SAFE}, b"")
        elif path in self._files and method in ("GET", "HEAD"):
            await _send_file(send, self._files[path], scope)
        elif path == _INFO or path in self._paths:
            await self._call(path, method, scope, receive, send)
        else:
            raise BadRequest(404, "not-found", "there is no such page here")

    async def _call(
        self, path: str, method: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        caller = await self._permission.caller(scope)
        asked = "GET" if method == "HEAD" else method
        endpoint = self._endpoints.get((path, asked))
        if path == _INFO and asked == "GET":
            await caller.check("look")
            told: Any = await info(self._operations, self._title, caller, has_rules=self._has_rules)
        elif endpoint is None:
            raise BadRequest(405, "wrong-method", "this is asked for by another method")
        else:
            given = await _given(endpoint, scope, receive, caller)
            await caller.check(endpoint.action, endpoint.target_of(given))
            told = await self._called(endpoint, given, caller)
            if endpoint.method == "POST":
                self._logger.info(
                    "console: %s of %s by %s: %s",
                    *(endpoint.action, endpoint.target_of(given), caller.principal, told.state),
                )
        await _send(send, 200, API_HEADERS, _encoder.encode(told))

    async def _called(self, endpoint: Endpoint, given: Any, caller: Any) -> Any:
        try:
            return await endpoint.call(self._operations, given, caller)
        except InvalidInput:
            raise
        except (UsageError, StoreRefused) as error:
            # Whoever operates is told what the engine says, and not that something is wrong inside.
            raise BadRequest(409, "refused", text_of(error)) from error


async def _given(endpoint: Endpoint, scope: Scope, receive: Receive, caller: Any) -> Any:
    """Give what a request takes along; whoever may do nothing is not told what is wrong with it."""
    try:
        if endpoint.method == "POST":
            headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in scope["headers"]}
            body = await _body(receive)
            return decode(body or b"{}", endpoint.takes, headers=headers, unique=True)
        return _from_query(endpoint, bytes(scope.get("query_string", b"")))
    except BadRequest:
        await caller.check(endpoint.action)
        raise


def _from_query(endpoint: Endpoint, query: bytes) -> Any:
    if len(query) > _QUERY_BYTES:
        raise BadRequest(422, "bad-parameter", "the query is too long")
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadRequest(422, "bad-parameter", "the query is no UTF-8") from None
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in _LISTS and name in endpoint.takes.__struct_fields__:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise BadRequest(422, "bad-parameter", "a parameter comes twice")
        else:
            found[name] = value
    try:
        return msgspec.convert(found, endpoint.takes, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(422, "bad-parameter", text_without_values(error)) from None


async def _body(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest(400, "left", "the client has gone")
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _live(receive: Receive, send: Send) -> None:
    """Say that there is nothing to start and to end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _path_of(scope: Scope) -> str:
    """Give the path below the place where the console is mounted; "" for that place itself."""
    path, root = str(scope["path"]), _root_of(scope)
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]  # as ASGI has it; some frameworks have taken it off already
    return path


def _root_of(scope: Scope) -> str:
    """Give the place where the console is mounted; some servers end it with a slash."""
    return str(scope.get("root_path", "")).rstrip("/")


# -- files -------------------------------------------------------------------------------------


def _files() -> Mapping[str, _File]:
    """Give what is sent at each path of the page; read once."""
    found = [path for path in sorted(STATIC.iterdir()) if path.suffix in TYPES]
    return {"/" if path.name == "index.html" else f"/{path.name}": _file(path) for path in found}


def _file(path: Path) -> _File:
    content = path.read_bytes()
    tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
    kind = f"{TYPES[path.suffix]}; charset=utf-8"
    return _File(content, {**PAGE_HEADERS, "ETag": tag, "Content-Type": kind}, tag)


async def _send_file(send: Send, file: _File, scope: Scope) -> None:
    known = [
        value.decode("latin-1") for name, value in scope["headers"] if name == b"if-none-match"
    ]
    if known == [file.tag]:
        await _send(send, 304, file.headers, b"")
    else:
        await _send(send, 200, file.headers, file.content)


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    if status != 304:
        raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
