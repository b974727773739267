"""FastAPI in its own style: what stands in a signature, what it is given, and what OpenAPI says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from fastapi import Body, Depends, FastAPI, Header, Request, Response
from fastapi.responses import StreamingResponse

from engine import (
    Aggregate,
    Command,
    DefinitionError,
    Engine,
    EngineError,
    EngineFailed,
    Event,
    Id,
    InvalidInput,
    LoggedEvent,
    Meta,
    Projection,
    Query,
    Receipt,
    Rejected,
    Row,
    Table,
    UsageError,
    Views,
    answers,
    applies,
    handles,
    id_from_key,
    projects,
)
from engine.integrations.asgi import EngineMiddleware
from engine.integrations.fastapi import (
    PROBLEMS,
    Ask,
    Executing,
    RunningEngine,
    Watch,
    engine_lifespan,
    executing,
    health_routes,
)
from engine.integrations.server import stop_server, stopping_with
from tests.integrations.failing_app import make_engine as failing_engine
from tests.integrations.serving import ROOT, server
from tests.support.counters import Add


class Part(msgspec.Struct, frozen=True):
    name: str
    parts: tuple[Part, ...] = ()


class AddTool(Command):
    tool_id: Id
    name: Annotated[str, msgspec.Meta(min_length=1)]
    part: Part | None = None


class ToolAdded(Event, name="tool-added"):
    name: str
    part: Part | None


class Sharpen(Command):
    tool_id: Id


class Sharpened(Event, name="sharpened"):
    pass


class Tool(Aggregate, kind="tool"):
    name: str = ""
    times: int = 0

    @handles
    def sharpen(self, command: Sharpen) -> Sharpened:
        return Sharpened()

    @applies
    def sharpened(self, event: Sharpened) -> None:
        self.times += 1

    @handles
    def add(self, command: AddTool) -> ToolAdded:
        if self.name:
            raise Rejected("tool-known", "there is such a tool")
        return ToolAdded(command.name, command.part)

    @applies
    def added(self, event: ToolAdded) -> None:
        self.name = event.name


class Shown(Row, key="tool_id"):
    tool_id: str
    name: str
    part: Part | None


class Tools(Projection, name="tools", version=1):
    rows: Table[Shown]

    @projects
    def added(self, event: ToolAdded, meta: Meta) -> None:
        self.rows.put(Shown(meta.id, event.name, event.part))


class AllTools(Query[list[Shown]]):
    pass


@answers
async def all_tools(query: AllTools, views: Views) -> list[Shown]:
    return await views.find(Tools.rows)


def make_engine() -> Engine:
    return Engine([Tool], projections=[Tools], answers=[all_tools])


def user(x_user: Annotated[str | None, Header()] = None) -> str | None:
    return x_user


ByUser = Annotated[Executing, Depends(executing(user))]
app = FastAPI(lifespan=engine_lifespan(make_engine), responses=PROBLEMS)
app.add_middleware(EngineMiddleware)


@app.post("/tools", status_code=201)
async def add(
    command: Annotated[AddTool, Body()],
    execute: ByUser,
    x_request_id: Annotated[str | None, Header()] = None,
) -> Receipt:
    return await execute(command, deadline=10, correlation=x_request_id)


@app.post("/new-tools", status_code=201)
async def add_new(name: str, execute: ByUser) -> Receipt:
    return await execute(AddTool(execute.id_from_key(), name))


@app.post("/renamed-twice", status_code=201)
async def add_and_rename(tool_id: str, execute: ByUser):  # type: ignore[no-untyped-def]
    # An endpoint that does not say what it gives, as a beginner writes it.
    await execute(AddTool(tool_id, "saw"))
    await execute(Sharpen(tool_id))
    return await execute(Sharpen(tool_id))


@app.get("/tools")
async def shown(ask: Ask) -> list[Shown]:
    return await ask(AllTools())


@app.get("/tools/{tool_id}/history")
async def history(tool_id: str, engine: RunningEngine) -> list[LoggedEvent]:
    return list((await engine.history(Tool, tool_id)).events)


@app.get("/live", response_class=StreamingResponse)
async def live(watch: Watch) -> StreamingResponse:
    return await watch(AllTools())


DRILL: dict[str, object] = {"tool_id": "t-1", "name": "drill", "part": {"name": "bit", "parts": []}}


JSON = {"Content-Type": "application/json"}


def client_of(served: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://localhost")


@pytest.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient]:
    async with app.router.lifespan_context(app), client_of(app) as made:
        yield made


async def test_a_command_is_a_body_and_a_receipt_an_answer(client: httpx.AsyncClient) -> None:
    done = await client.post("/tools", json=DRILL)

    assert (done.status_code, done.headers["ETag"]) == (201, '"1"')
    assert done.json() == {"stream": "tool:t-1", "version": 1, "position": 1}


async def test_rows_are_an_answer_and_see_what_was_written(client: httpx.AsyncClient) -> None:
    done = await client.post("/tools", json=DRILL)

    seen = await client.get("/tools", params={"at": done.headers["Foldline-Receipt"]})
    assert seen.json() == [DRILL]


async def test_a_request_that_comes_again_with_its_key_is_not_done_twice(
    client: httpx.AsyncClient,
) -> None:
    tries = [
        await client.post("/tools", json=DRILL, headers={"Idempotency-Key": '"k"', "X-User": name})
        for name in ("ann", "ann", "bob")
    ]

    assert [done.status_code for done in tries] == [201, 201, 409]
    assert tries[0].json() == tries[1].json()
    assert tries[2].headers["Content-Type"] == "application/problem+json"


async def test_a_nul_which_no_row_can_hold_is_a_fault_of_the_client(
    client: httpx.AsyncClient,
) -> None:
    refused = await client.post("/tools", json={"tool_id": "t-1", "name": "a\0"})
    fine = await client.post("/tools", json={"tool_id": "t-1", "name": r"\u0000"})

    assert (refused.status_code, refused.json()["code"]) == (422, "bad-body")
    assert fine.status_code == 201


async def test_each_command_of_one_request_to_one_aggregate_is_run_once(
    client: httpx.AsyncClient,
) -> None:
    url = "/renamed-twice?tool_id=t-1"
    headers = {"Idempotency-Key": "k" * 200, "If-None-Match": "*", "X-User": "a" * 54}
    answers = [await client.post(url, headers=headers) for _ in range(2)]
    events = (await client.get("/tools/t-1/history")).json()

    receipt = {"stream": "tool:t-1", "version": 3, "position": 3}
    assert [(done.status_code, done.json()) for done in answers] == [(201, receipt)] * 2
    assert len({event["meta"]["key"] for event in events}) == len(events) == 3


async def test_what_a_request_creates_has_an_id_from_its_key(client: httpx.AsyncClient) -> None:
    saw, key = "/new-tools?name=saw", {"Idempotency-Key": '"k-1"'}
    first, again = [await client.post(saw, headers=key) for _ in range(2)]
    without = await client.post(saw)

    assert first.json() == again.json()
    assert first.json()["stream"] == "tool:" + id_from_key("k-1")
    assert (without.status_code, without.json()["code"]) == (400, "key-required")


async def test_a_change_to_another_version_than_was_read_is_refused(
    client: httpx.AsyncClient,
) -> None:
    late = await client.post("/tools", json=DRILL, headers={"If-Match": '"3"'})
    new = await client.post("/tools", json=DRILL, headers={"If-None-Match": "*"})

    assert (late.status_code, new.status_code) == (412, 201)


async def test_the_log_keeps_who_asked_and_a_history_is_an_answer(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/tools", json=DRILL, headers={"X-User": "ann", "X-Request-Id": "r-7"})

    (logged,) = (await client.get("/tools/t-1/history")).json()
    meta = logged["meta"]
    assert (logged["name"], meta["principal"], meta["correlation"]) == ("tool-added", "ann", "r-7")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "Expected `str` of length >= 1 - at `$.name`"),
        ({"price": 3}, "Object contains unknown field `price`"),
    ],
)
async def test_what_is_no_such_command_is_refused_by_path_and_rule(
    client: httpx.AsyncClient, change: dict[str, object], says: str
) -> None:
    wrong = await client.post("/tools", json={**DRILL, **change})

    assert wrong.status_code == 422
    assert says in wrong.json()["detail"][0]["msg"]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": '"k"'}])
@pytest.mark.parametrize("part", ["name", "part"])
async def test_half_a_character_is_a_fault_of_the_client(
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    part: str,
    key: dict[str, str],
) -> None:
    """Python's JSON lets it in, and it was a fault of the handler: 500 and a traceback."""
    half: dict[str, object] = {"name": "\ud83d", "part": {"name": "\udc00", "parts": []}}
    body = json.dumps({**DRILL, part: half[part]}).encode()

    wrong = await client.post("/tools", content=body, headers={**JSON, **key})

    assert (wrong.status_code, wrong.json()["code"], caplog.records) == (422, "invalid-input", [])
    assert (await client.post("/tools", json=DRILL, headers=key)).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        b'{"tool_id": "t-1", "name": ["\\ud83d"]}',
        b'{"tool_id": "t-1", "name": NaN}',
        b'{"tool_id": "t-1", "name": "drill", "\\udc00": 1}',
    ],
)
async def test_what_cannot_be_sent_back_is_refused_all_the_same(
    client: httpx.AsyncClient, body: bytes
) -> None:
    """FastAPI shows what it refuses, and failed as it wrote that: 500 and a traceback."""
    wrong = await client.post("/tools", content=body, headers=JSON)

    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid-input")
    assert "AddTool" in wrong.json()["detail"]


async def test_a_stream_goes_on_from_what_its_client_had(client: httpx.AsyncClient) -> None:
    wrong = await client.get("/live", headers={"Last-Event-ID": "no token"})

    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid-input")


async def test_openapi_has_schemas_of_bodies_answers_headers_and_errors() -> None:
    told = app.openapi()
    post: dict[str, Any] = told["paths"]["/tools"]["post"]

    body = post["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/AddTool"}
    answer = told["paths"]["/tools"]["get"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"]["items"] == {"$ref": "#/components/schemas/Shown"}
    assert [p["name"] for p in post["parameters"]] == [
        "x-request-id",
        "Idempotency-Key",
        "If-Match",
        "x-user",
    ]
    assert "application/problem+json" in post["responses"]["409"]["content"]
    assert {"AddTool", "LoggedEvent", "Receipt", "Shown"} <= told["components"]["schemas"].keys()


async def test_a_schema_stands_for_itself_though_its_class_contains_itself() -> None:
    schema = app.openapi()["components"]["schemas"]["AddTool"]

    (part, _) = schema["properties"]["part"]["anyOf"]
    assert part["properties"]["name"] == {"type": "string"}
    assert part["properties"]["parts"]["items"] == {"type": "object", "title": "Part"}
    assert schema["properties"]["name"] == {"type": "string", "minLength": 1}


async def test_an_app_without_a_lifespan_is_told_what_it_lacks() -> None:
    bare = FastAPI()
    bare.add_api_route("/", shown)

    async with client_of(bare) as client:
        with pytest.raises(UsageError, match="runs no engine"):
            await client.get("/")


async def test_slips_in_an_app_are_told_by_name() -> None:
    with pytest.raises(DefinitionError, match=r"without \(\)"):
        engine_lifespan(make_engine())  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="gave None: let it give an Engine"):
        async with engine_lifespan(lambda: None)(app):  # type: ignore[arg-type,return-value]
            pass
    with pytest.raises(DefinitionError, match="bounds= is a Health"):
        health_routes({"lag_seconds_max": 30})  # type: ignore[arg-type]
    slips: list[dict[str, Any]] = [
        {"body_bytes": "1 MB"},
        {"body_seconds": "5"},
        {"statuses": {"no": "404"}},
    ]
    for given in slips:
        with pytest.raises(InvalidInput, match=r"not (text|'|\")"):
            EngineMiddleware(app, **given)


async def test_who_executes_is_a_text(client: httpx.AsyncClient) -> None:
    running = app.state.foldline_engine
    with pytest.raises(UsageError, match="handles the class AddTool|AddTool"):
        await executing(user)(running, Response(), Request({"type": "http", "headers": []}), "a")(
            AddTool  # type: ignore[arg-type]
        )
    with pytest.raises(UsageError, match="who executes is a text"):
        executing(user)(running, Response(), Request({"type": "http", "headers": []}), 7)


async def test_a_server_whose_engine_has_failed_stops_to_be_started_again() -> None:
    async with server("tests.integrations.failing_app:app", ROOT) as served:
        async with httpx.AsyncClient(base_url=served.url) as client:
            assert (await client.post("/counters/a")).status_code == 500
        async with asyncio.timeout(20):
            await served.process.wait()

    assert "the engine failed" in served.log


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_host_of_another_kind_is_stopped_as_it_says(is_async: bool) -> None:
    stopped = asyncio.Event()

    async def stop() -> None:
        stopped.set()

    with pytest.raises(EngineFailed):
        async with (
            failing_engine() as engine,
            stopping_with(engine, stop if is_async else stopped.set),
        ):
            assert not stopped.is_set()
            with pytest.raises(EngineError):
                await engine.execute(Add("a", 1))
            async with asyncio.timeout(20):
                await stopped.wait()


def test_where_no_server_is_known_none_is_stopped() -> None:
    assert not stop_server()
