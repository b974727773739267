"""The operations as tools for agents, asked by the SDK's own client: in process, HTTP and stdio."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import msgspec
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from engine import Engine
from engine.errors import DefinitionError
from engine.integrations import mcp
from engine.integrations.console.endpoints import ENDPOINTS
from engine.integrations.mcp import McpTools
from engine.operations.answers import Overview
from tests.console.consoling import AILING, Write, caught_up, notes

GETS = [each for each in ENDPOINTS if each.method == "GET"]
PAYLOADS = {"state", "difference", "claims"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "parked": {"projection": "notes"},
    "state": {"stream": "note:n-1"},
    "difference": {"stream": "note:n-1", "before": 0, "after": 1},
}


@pytest.fixture(autouse=True)
def _well_again() -> Any:
    yield
    AILING.clear()


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


@asynccontextmanager
async def asked(engine: Engine, **options: Any) -> AsyncGenerator[Client]:
    """Give a client in the same process."""
    async with Client(McpTools(engine, **options).server) as client:
        yield client


async def test_the_tools_are_what_can_be_looked_at_and_change_nothing(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        async with asked(engine, payloads=True) as client:
            tools = (await client.list_tools()).tools
        async with asked(engine) as client:
            without = {tool.name for tool in (await client.list_tools()).tools}

    assert {tool.name for tool in tools} == {name_of(each.path) for each in GETS}
    assert without == {tool.name for tool in tools} - PAYLOADS
    for tool in tools:
        assert tool.annotations is not None
        assert (tool.annotations.read_only_hint, tool.annotations.destructive_hint) == (True, False)
        assert tool.description
        assert tool.input_schema["additionalProperties"] is False


async def test_each_tool_gives_what_its_endpoint_gives(tmp_path: Path) -> None:
    AILING.add("bad")
    async with notes(tmp_path) as engine, asked(engine, payloads=True) as client:
        await engine.execute(Write("n-1", "one"))
        await engine.execute(Write("bad", "two"))
        await caught_up(engine)
        answers: dict[str, Any] = {}
        for each in GETS:
            name = name_of(each.path)
            result = await client.call_tool(name, ARGUMENTS.get(name, {}))
            assert not result.is_error, result.content
            (content,) = result.content
            told = msgspec.json.decode(content.text.encode(), type=each.gives)  # type: ignore[union-attr]
            assert told is not None
            answers[name] = result.structured_content

    assert msgspec.convert(answers["overview"], Overview).position == 2
    assert [one["position"] for one in answers["parked"]["items"]] == [2]
    assert answers["state"]["state"]["text"] == "one"
    assert [one["stream"] for one in answers["log"]["events"]] == ["note:bad", "note:n-1"]


async def test_payloads_leave_only_if_the_program_says_so(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        await engine.execute(Write("n-1", "a secret text"))
        async with asked(engine) as client:
            page = await client.call_tool("log", {})
            refused = await client.call_tool("log", {"payloads": True})
            with pytest.raises(MCPError, match="no tool 'state'"):
                await client.call_tool("state", {"stream": "note:n-1"})
        async with asked(engine, payloads=True) as client:
            shown = await client.call_tool("log", {"payloads": True})

    assert "a secret text" not in str(page)
    assert refused.is_error
    assert "Forbidden" in str(refused.content)
    assert "a secret text" in str(shown.structured_content)


async def test_personal_data_of_who_was_erased_is_masked(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, asked(engine, payloads=True) as client:
        await engine.execute(Write("n-1", "one", "ann", "Ann Smith"))
        before = await client.call_tool("log", {"payloads": True})
        await engine.personal.erase("ann", reason="a test")
        after = [
            await client.call_tool("log", {"payloads": True}),
            await client.call_tool("state", {"stream": "note:n-1"}),
        ]

    assert "Ann Smith" in str(before.structured_content)
    assert "Ann Smith" not in str(after)


async def test_each_call_is_authorized_by_its_own_action(tmp_path: Path) -> None:
    asked_about: list[tuple[str | None, str, str]] = []
    allowed: set[str] = set()

    def authorize(principal: str | None, action: str, target: str) -> bool:
        asked_about.append((principal, action, target))
        return action in allowed

    async with (
        notes(tmp_path) as engine,
        asked(engine, authorize=authorize, principal="an agent", payloads=True) as client,
    ):
        await engine.execute(Write("n-1", "one"))
        assert (await client.list_tools()).tools == []
        for each in GETS:
            name = name_of(each.path)
            allowed = {"look", "payload", "audit"} - {each.action}
            result = await client.call_tool(name, ARGUMENTS.get(name, {}))
            assert result.is_error, name
            assert asked_about[-1][:2] == ("an agent", each.action)
            allowed = {each.action}
            assert not (await client.call_tool(name, ARGUMENTS.get(name, {}))).is_error
        allowed = {"look"}
        assert (await client.call_tool("log", {"payloads": True})).is_error


async def test_wrong_arguments_are_refused_without_their_values(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, asked(engine, payloads=True) as client:
        for name, arguments in (
            ("log", {"limit": 501}),
            ("log", {"limit": "a secret"}),
            ("log", {"unheard": 1}),
            ("state", {}),
            ("state", {"stream": "nothing of the kind"}),
        ):
            result = await client.call_tool(name, arguments)
            assert result.is_error, arguments
            assert "a secret" not in str(result.content)
        with pytest.raises(MCPError, match="no tool"):
            await client.call_tool("projections/pause", {"projection": "notes"})


async def test_an_answer_that_is_too_large_for_a_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp, "ANSWER_BYTES", 2_000)
    async with notes(tmp_path) as engine, asked(engine, payloads=True) as client:
        for number in range(10):
            await engine.execute(Write(f"n-{number}", f"{number} {'x' * 200}"))
        all_of_it = await client.call_tool("log", {"payloads": True})
        one = await client.call_tool("log", {"payloads": True, "limit": 1})

    assert all_of_it.is_error
    assert "ask for less" in str(all_of_it.content)
    assert not one.is_error, one.content


@asynccontextmanager
async def over_http(tools: McpTools, url: str, **headers: str) -> AsyncGenerator[Client]:
    transport = httpx2.ASGITransport(tools)
    async with (
        httpx2.AsyncClient(transport=transport, headers=headers) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


async def test_over_http_it_is_asked_by_whom_the_host_knows(tmp_path: Path) -> None:
    def authorize(principal: str | None, action: str, target: str) -> bool:
        return principal == "ann"

    def principal_of(scope: Any) -> str | None:
        return dict(scope["headers"]).get(b"x-user", b"").decode() or None

    async with notes(tmp_path) as engine:
        await engine.execute(Write("n-1", "one"))
        tools = McpTools(
            engine, authorize=authorize, principal_of=principal_of, hosts=["ops.example"]
        )
        async with tools, over_http(tools, "http://ops.example/", **{"x-user": "ann"}) as client:
            overview = await client.call_tool("overview", {})
            assert len((await client.list_tools()).tools) == len(GETS) - len(PAYLOADS)
        async with tools, over_http(tools, "http://ops.example/", **{"x-user": "bob"}) as client:
            assert (await client.list_tools()).tools == []
            assert (await client.call_tool("overview", {})).is_error

    assert overview.structured_content is not None
    assert overview.structured_content["position"] == 1


async def test_without_authorize_only_this_machine_is_answered(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, McpTools(engine) as tools:
        async with over_http(tools, "http://localhost/") as client:
            assert len((await client.list_tools()).tools) > 3
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accept = {"accept": "application/json, text/event-stream"}
        for address, host, more in (
            ("192.0.2.1", "localhost", {}),
            ("127.0.0.1", "evil.example", {}),
            ("127.0.0.1", "localhost", {"x-forwarded-for": "192.0.2.1"}),
            ("127.0.0.1", "localhost", {"origin": "https://evil.example"}),
        ):
            transport = httpx.ASGITransport(tools, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, headers={**accept, **more}) as http:
                answer = await http.post(f"http://{host}/", json=body)
                assert answer.status_code in (403, 421), answer.text


async def test_a_lifespan_enters_it_and_twice_is_refused(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, McpTools(engine) as tools:
        with pytest.raises(DefinitionError, match="run already"):
            await tools.__aenter__()


async def test_over_stdin_it_looks_at_a_log(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        await engine.execute(Write("n-1", "a secret text"))
        url = f"sqlite:{tmp_path / 'notes.db'}"
        program = StdioServerParameters(command=sys.executable, args=["-m", "engine", "mcp", url])
        async with Client(program) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            page = await client.call_tool("log", {})
            denied = await client.call_tool("log", {"payloads": True})

    assert {"overview", "projections", "parked", "log", "timers"} <= names
    assert page.structured_content is not None
    assert [one["stream"] for one in page.structured_content["events"]] == ["note:n-1"]
    assert denied.is_error
