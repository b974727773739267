"""The engine in FastAPI's own style: dependencies in the signature, headers and errors in OpenAPI.

Rules: an endpoint names what it needs and is given it, the running engine too; none needs a raw
request. What a command needs of its request (`Idempotency-Key`, `If-Match`) and tells its client
(`ETag`, `Foldline-Receipt`) is read and set here, and stands in the OpenAPI page. Commands, events,
rows and receipts are models of their own: they stand in signatures as pydantic's models do.
Nothing is decided here. This is the one file that imports FastAPI.

```python
app = FastAPI(lifespan=engine_lifespan(make_engine), responses=PROBLEMS)
app.add_middleware(EngineMiddleware)


@app.post("/accounts/{account_id}/deposits", status_code=201)
async def deposit(account_id: str, sent: NewDeposit, execute: Execute) -> Receipt:
    return await execute(Deposit(account_id, sent.cents))


@app.get("/accounts/{account_id}")
async def balance(account_id: str, ask: Ask) -> Balance | None:
    return await ask(GetBalance(account_id))
```
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import wraps
from typing import Annotated, Any, Final, TypeAlias, TypeVar, cast

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Response, encoders
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection

from ..engine import Engine
from ..errors import DefinitionError, UsageError
from ..health.bounds import Health
from ..limits import KEY_LENGTH_MAX
from ..model.given import as_instance, as_text
from ..model.messages import Command, Receipt
from ..model.messages import Query as Question
from ..write.keys import id_from_key
from .asgi import check_texts, idempotency_key, receipt_headers
from .bad_request import BadRequest
from .conditions import expected_version
from .event_stream import event_stream, last_event
from .health import answer_of
from .server import stopping_with

__all__ = [
    "PROBLEMS",
    "Ask",
    "Asking",
    "Execute",
    "Executing",
    "RunningEngine",
    "Watch",
    "Watching",
    "asking",
    "engine_lifespan",
    "executing",
    "health_routes",
    "watching",
]

Answer = TypeVar("Answer")
Reply = TypeVar("Reply")
Asked = TypeVar("Asked", bound=Callable[..., Coroutine[Any, Any, Any]])
Principal: TypeAlias = Callable[..., Any]
"""A dependency that gives who asks, as a text, or None for nobody."""

_STATE: Final = "foldline_engine"

# What an endpoint gives that does not say its type is encoded by its class.
encoders.encoders_by_class_tuples[msgspec.to_builtins] = (msgspec.Struct,)


# -- the engine ------------------------------------------------------------------------------


def engine_lifespan(
    make_engine: Callable[[], Engine],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Give a lifespan for `FastAPI(lifespan=...)`: the engine runs for as long as the app does.

    `make_engine` makes a new one for each start of the app. In a lifespan of your own write
    `async with engine_lifespan(make_engine)(app):`. Starting raises what the engine raises. If the
    engine fails, uvicorn is stopped, so that its supervisor starts both again; another server must
    be stopped by who watches `engine.failed`.
    """
    if not callable(make_engine):
        raise DefinitionError(
            f"engine_lifespan takes the function that makes an engine, as "
            f"engine_lifespan(make_engine) without (), and not {make_engine!r:.60}"
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        made: Any = make_engine()
        if not isinstance(made, Engine):
            raise DefinitionError(f"{make_engine!r:.60} gave {made!r:.60}: let it give an Engine")
        async with made as engine, stopping_with(engine):
            setattr(app.state, _STATE, engine)
            yield

    return lifespan


def _running_engine(connection: HTTPConnection) -> Engine:
    engine = getattr(connection.app.state, _STATE, None)
    if not isinstance(engine, Engine):
        raise UsageError(
            "this app runs no engine: make it with `FastAPI(lifespan=engine_lifespan(make_engine))`"
            ". In a test, enter the client: `with TestClient(app) as client`. An app that is "
            "mounted in another has no lifespan: add its routes by `include_router`."
        )
    return engine


RunningEngine: TypeAlias = Annotated[Engine, Depends(_running_engine)]
"""The engine of this app, in an endpoint or in a dependency."""


def _nobody() -> None:
    return None


def _awaited(call: Asked) -> Asked:
    """Let a call raise UsageError in a thread without a loop: nobody there could await it.

    What is given gives a coroutine, and says so: background tasks await it, in no thread.
    """

    @wraps(call)
    def checked(*given: Any, **options: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                "an endpoint that executes or asks is an `async def`. In one that is a `def`, take "
                "`engine: RunningEngine` and ask through `engine.portal()`. Nothing was done"
            ) from None
        return call(*given, **options)

    return cast("Asked", _marked(checked))


def _marked(call: Callable[..., Any]) -> Callable[..., Any]:
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(call)
    vars(call)["_is_coroutine"] = vars(asyncio.coroutines)["_is_coroutine"]  # what that one does
    return call


# -- commands --------------------------------------------------------------------------------

_KEY: Final = "The client's name for this request: sent again with it, it is not done twice."
_MATCH: Final = "The ETag that the client read: if there is a newer version, the answer is 412."


class Executing:
    """Executes commands for one request; set the endpoint's return type to Receipt, or to None.

    An endpoint that gives several commands to one aggregate has a key for each: the request's, and
    others made of it. `If-Match` is about the aggregates of the first command, and is asked until
    one is stored. A command that raises leaves its key to the next one. Of the two only one can be
    stored, however often the request is sent. A command with a `name` has a key of that name, which
    depends on no other command.
    """

    def __init__(
        self, engine: Engine, response: Response, connection: HTTPConnection, principal: str | None
    ) -> None:
        if principal is not None and not isinstance(cast("object", principal), str):
            raise UsageError(
                f"who executes is a text, as a user's name, or None: the function given to "
                f"executing() gave a {type(principal).__name__}"
            )
        self._engine = engine
        self._response = response
        self._numbers = _Numbers()
        """Of all commands."""
        self._unnamed = _Numbers()
        self._matched: Sequence[str] = ()
        """The streams that `If-Match` is about."""
        self.principal = principal
        """The principal that asks."""
        self.key = idempotency_key(connection.headers, principal)
        """The key of the request, or None; `id_from_key()` makes an id of it."""
        self.expected = expected_version(connection.headers)
        """The version that the client read, or None."""

    def id_from_key(self) -> str:
        """Give the id of what this request creates: the same one when the request is repeated.

        Raises BadRequest (400, `key-required`) for a request without an `Idempotency-Key`.
        """
        if self.key is None:
            raise BadRequest(400, "key-required", "send an Idempotency-Key with this request")
        return id_from_key(self.key)

    @_awaited
    async def __call__(
        self,
        command: Command[Reply],
        *,
        name: str | None = None,
        deadline: float | None = None,
        correlation: str | None = None,
    ) -> Receipt[Reply]:
        """Execute a command with the request's key and version; set the answer's headers.

        `name` is the command's own within this request, as "line-3" is in a loop that goes on
        behind a rejection. Its key is made of the request's and of it, so a repetition finds the
        same command whatever became of others. A command and its fallback have the same name.
        `deadline` (seconds) and `correlation` are as for `Engine.execute`, which says what is
        raised; EngineMiddleware makes an answer of that. Raises UsageError in an endpoint that is
        no `async def`.
        """
        with suppress(TypeError, ValueError, RecursionError):  # the engine says what is no JSON
            check_texts(msgspec.json.encode(command))
        streams: Sequence[str] = ()
        with suppress(UsageError):  # the engine says what is wrong with it
            streams = self._engine.streams_of(command)
        number = self._numbers.take(streams)
        self._matched = self._matched or streams
        is_first = number == 1 and any(stream in self._matched for stream in streams)
        unnamed = 0 if name is not None else self._unnamed.take(streams)
        try:
            receipt = await self._engine.execute(
                command,
                key=None if self.key is None else _key_of(self.key, name, unnamed),
                expected=self.expected if is_first else None,
                deadline=deadline,
                correlation=correlation,
                principal=self.principal,
            )
        except BaseException:
            self._numbers.give_back(number, streams)
            if name is None:
                self._unnamed.give_back(unnamed, streams)
            raise
        self._response.headers.update(receipt_headers(receipt))
        return receipt


class _Numbers:
    """The numbers of one request's commands: no two for one aggregate have the same at a time.

    A number that was given back is the next to be taken: also while later ones are on their way.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        """The highest number so far, by stream."""
        self._left: dict[str, set[int]] = {}
        """Those below it that were given back."""

    def take(self, streams: Sequence[str]) -> int:
        """Give the number of a command that names these streams: 1 to the first of all."""
        last, left = self._last, self._left
        found = sorted({number for stream in streams for number in left.get(stream, ())})
        for number in found:
            if all(number in left.get(s, ()) or number > last.get(s, 0) for s in streams):
                break
        else:
            number = 1 + max([last.get(stream, 0) for stream in streams], default=0)
        for stream in streams:
            left.get(stream, set[int]()).discard(number)
            last[stream] = max(number, last.get(stream, 0))
        return number

    def give_back(self, number: int, streams: Sequence[str]) -> None:
        """Let the next command have the number of one that has no receipt."""
        for stream in streams:
            self._left.setdefault(stream, set()).add(number)


def _key_of(key: str, name: str | None, number: int) -> str:
    """Give the key of a command of a request; no client's key has a space."""
    if name is None and number == 1:
        return key
    suffix = f" {number}" if name is None else f" :{as_text('the name of a command', name, 255)}"
    if len(key + suffix) <= KEY_LENGTH_MAX:
        return key + suffix
    return id_from_key(key) + suffix if name is None else id_from_key(key + suffix)


def executing(principal: Principal = _nobody) -> Callable[..., Executing]:
    """Give a dependency that executes commands in the name of whom `principal` gives.

    `principal` is a dependency like any: `Annotated[Executing, Depends(executing(current_user))]`.
    """
    asked_by = Depends(principal)

    def executor(
        engine: RunningEngine,
        response: Response,
        connection: HTTPConnection,
        who: str | None = asked_by,
        # Read out of the headers, which have more forms; here they are shown to the client.
        _key: Annotated[str | None, Header(alias="Idempotency-Key", description=_KEY)] = None,
        _match: Annotated[str | None, Header(alias="If-Match", description=_MATCH)] = None,
    ) -> Executing:
        return Executing(engine, response, connection, who)

    return executor


Execute: TypeAlias = Annotated[Executing, Depends(executing())]
"""`execute: Execute` in an endpoint: `await execute(command)`, in nobody's name."""


# -- queries ---------------------------------------------------------------------------------

_AT: Final = "A Foldline-Receipt: the answer contains what was written with it."


class Asking:
    """Asks queries for one request."""

    def __init__(self, engine: Engine, at: str | None, principal: str | None) -> None:
        self._engine = engine
        self._at = at
        self.principal = principal
        """The principal that asks."""

    @_awaited
    async def __call__(self, query: Question[Answer]) -> Answer:
        """Ask a query; raise what `Engine.query` raises, and UsageError outside `async def`."""
        return await self._engine.query(query, at=self._at, principal=self.principal)


def asking(principal: Principal = _nobody) -> Callable[..., Asking]:
    """Give a dependency that asks in the name of whom `principal` gives, as with `executing`."""
    asked_by = Depends(principal)

    def asker(
        engine: RunningEngine,
        who: str | None = asked_by,
        at: Annotated[str | None, Query(description=_AT)] = None,
    ) -> Asking:
        return Asking(engine, at, who)

    return asker


Ask: TypeAlias = Annotated[Asking, Depends(asking())]
"""`ask: Ask` in an endpoint: `await ask(query)`; the client may say `?at=` with a receipt."""


class Watching:
    """Sends the answers of a query to one client, as server-sent events."""

    def __init__(
        self, engine: Engine, connection: HTTPConnection, at: str | None, principal: str | None
    ) -> None:
        self._engine = engine
        self._at = last_event(connection.headers, at)
        self.principal = principal
        """The principal that watches."""

    @_awaited
    async def __call__(self, query: Question[Any]) -> StreamingResponse:
        """Give a response that never ends by itself; raise what `Engine.watch` raises."""
        watched = self._engine.watch(query, at=self._at, principal=self.principal)
        stream = await event_stream(watched)
        return StreamingResponse(stream, headers=stream.headers)


def watching(principal: Principal = _nobody) -> Callable[..., Watching]:
    """Give a dependency that watches in the name of whom `principal` gives."""
    asked_by = Depends(principal)

    def watcher(
        engine: RunningEngine,
        connection: HTTPConnection,
        who: str | None = asked_by,
        at: Annotated[str | None, Query(description=_AT)] = None,
    ) -> Watching:
        return Watching(engine, connection, at, who)

    return watcher


Watch: TypeAlias = Annotated[Watching, Depends(watching())]
"""`watch: Watch` in an endpoint with `response_class=StreamingResponse`: `await watch(query)`."""


# -- health ----------------------------------------------------------------------------------


def health_routes(bounds: Health | None = None, *, details: bool = False) -> APIRouter:
    """Give the routes `/live`, `/ready` and `/health`, for `app.include_router(health_routes())`.

    `bounds` and `details` are as for `HealthRoutes`, which says who should ask which of them.
    """
    as_instance("bounds", bounds, Health)
    router = APIRouter(tags=["health"])

    def add(what: str, says: str) -> None:
        async def answer(engine: RunningEngine) -> Response:
            status, body = await answer_of(what, engine, bounds, details=details)
            headers = {"Cache-Control": "no-store"}
            return Response(body, status, headers, media_type="application/json")

        told: dict[int | str, dict[str, Any]] = {503: {"description": says}}
        router.add_api_route(f"/{what}", answer, name=what, methods=["GET"], responses=told)
        # Some that look after processes ask so. A path stands once in the OpenAPI page.
        router.add_api_route(f"/{what}", answer, methods=["HEAD"], include_in_schema=False)

    add("live", "Only a new start of the process helps.")
    add("ready", "Requests should go elsewhere at this moment.")
    add("health", "A check is beyond its bound: somebody should look.")
    return router


# -- errors ----------------------------------------------------------------------------------

_SAYS: Final = {
    400: "A header is malformed.",
    403: "This is not allowed.",
    409: "The domain said no; `code` says why.",
    412: "The version is not the one that `If-Match` names.",
    429: "Too much at once: nothing was done.",
    503: "It passes by itself: ask again after `Retry-After` seconds.",
}


def _problem(says: str) -> dict[str, Any]:
    texts = {key: {"type": "string"} for key in ("type", "title", "code", "detail")}
    resend = {"enum": ["yes", "with-the-same-key", "no"]}
    properties = {**texts, "status": {"type": "integer"}, "resend": resend}
    schema = {"type": "object", "title": "Problem", "properties": properties}
    return {"description": says, "content": {"application/problem+json": {"schema": schema}}}


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: _problem(says) for status, says in _SAYS.items()
}
"""What EngineMiddleware answers to errors, for the OpenAPI page: `FastAPI(responses=PROBLEMS)`."""
