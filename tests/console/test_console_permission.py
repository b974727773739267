"""Who may use the console: each route by its own action, nobody from elsewhere, no other site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from engine import Engine, Forbidden
from engine.errors import DefinitionError
from engine.integrations.console import Console, ConsoleAction
from engine.integrations.console.app import STATIC
from engine.integrations.console.endpoints import ENDPOINTS, Endpoint
from engine.integrations.console.permission import ACTIONS
from tests.console.consoling import Write, asking, console_of, make_engine, notes

INFO: Final = "/api/v1/console"
FIELDS: Final[Mapping[str, Any]] = {
    "projection": "notes",
    "stream": "note:n-1",
    "name": "reminder",
    "before": 0,
    "after": 1,
    "position": 1,
    "reason": "a test",
}


def given(endpoint: Endpoint) -> dict[str, Any]:
    """Give what an endpoint takes at least."""
    names = endpoint.takes.__struct_fields__
    needed = names[: len(names) - len(endpoint.takes.__struct_defaults__)]
    return {name: FIELDS[name] for name in needed}


async def called(client: httpx.AsyncClient, endpoint: Endpoint, **headers: str) -> httpx.Response:
    """Call an endpoint as it is to be called."""
    if endpoint.method == "GET":
        return await client.get(endpoint.path, params=given(endpoint), headers=headers)
    return await client.post(endpoint.path, json=given(endpoint), headers=headers)


async def decisions(engine: Engine) -> int:
    """Give how much was decided."""
    return len(await engine.projections.decisions("notes"))


async def test_without_permission_every_route_is_forbidden_and_does_nothing(
    tmp_path: Path,
) -> None:
    asked: list[tuple[str, str]] = []

    def authorize(principal: str | None, action: str, target: str) -> bool:
        asked.append((action, target))
        return False

    async with notes(tmp_path) as engine, console_of(engine, authorize=authorize) as client:
        await engine.execute(Write("n-1", "one"))
        for endpoint in ENDPOINTS:
            answer = await called(client, endpoint)
            assert answer.status_code == 403, endpoint.path
            assert answer.json()["code"] == "forbidden"
            assert asked.pop()[0] == endpoint.action, endpoint.path
            assert not asked
        assert (await client.get(INFO)).status_code == 403
        assert await decisions(engine) == 0


async def test_each_route_needs_its_own_action_and_no_other(tmp_path: Path) -> None:
    allowed: set[ConsoleAction] = set()

    async def authorize(principal: str | None, action: str, target: str) -> bool:
        return action in allowed

    async with notes(tmp_path) as engine, console_of(engine, authorize=authorize) as client:
        await engine.execute(Write("n-1", "one"))
        for endpoint in ENDPOINTS:
            allowed = {*ACTIONS} - {endpoint.action}
            assert (await called(client, endpoint)).status_code == 403, endpoint.path
            allowed = {endpoint.action}
            assert (await called(client, endpoint)).status_code in (200, 409), endpoint.path


async def test_the_action_is_asked_of_the_projection_and_of_the_stream(tmp_path: Path) -> None:
    def authorize(principal: str | None, action: str, target: str) -> bool:
        return target in ("note:n-1", "other")

    async with notes(tmp_path) as engine, console_of(engine, authorize=authorize) as client:
        await engine.execute(Write("n-1", "one"))
        ours = {"stream": "note:n-1", "payloads": "true"}
        assert (await client.get("/api/v1/log", params=ours)).status_code == 200
        assert (await client.get("/api/v1/log", params={"stream": "note:n-2"})).status_code == 403
        assert (await client.get("/api/v1/log")).status_code == 403
        body = {"projection": "notes"}
        assert (await client.post("/api/v1/projections/pause", json=body)).status_code == 403
        assert await decisions(engine) == 0


@pytest.mark.parametrize("path", ["log", "timers"])
async def test_payloads_are_given_to_whoever_may_see_them(tmp_path: Path, path: str) -> None:
    def authorize(principal: str | None, action: str, target: str) -> bool:
        return action == "look" or (action == "payload" and principal == "boss")

    def principal_of(scope: Any) -> str:
        sent: bytes = dict(scope["headers"]).get(b"x-user", b"")
        return sent.decode()

    async with (
        notes(tmp_path) as engine,
        console_of(engine, authorize=authorize, principal_of=principal_of) as client,
    ):
        await engine.execute(Write("n-1", "a secret"), headers={"from": "a secret"})
        url = f"/api/v1/{path}"
        plain = await client.get(url)
        refused = await client.get(url, params={"payloads": True})
        shown = await client.get(url, params={"payloads": True}, headers={"X-User": "boss"})

    assert plain.status_code == 200
    assert "a secret" not in plain.text
    assert refused.status_code == 403
    assert shown.status_code == 200
    assert ("a secret" in shown.text) == (path == "log")


async def test_whoever_may_do_nothing_is_not_told_what_is_wrong(tmp_path: Path) -> None:
    async with (
        notes(tmp_path) as engine,
        console_of(engine, authorize=lambda *_: False) as client,
    ):
        for endpoint in ENDPOINTS:
            if endpoint.method == "GET":
                answer = await client.get(endpoint.path, params={"nonsense": "1"})
            else:
                answer = await client.post(endpoint.path, json={"nonsense": 1})
            assert answer.status_code == 403, endpoint.path


def _raises(*_: object) -> bool:
    raise RuntimeError("a failure of the host's")


@pytest.mark.parametrize("answer", [None, 1, "yes", _raises])
async def test_only_true_allows(tmp_path: Path, answer: Any) -> None:
    authorize = answer if callable(answer) else lambda *_: answer
    async with notes(tmp_path) as engine, console_of(engine, authorize=authorize) as client:
        assert (await client.get("/api/v1/overview")).status_code == 403


@pytest.mark.parametrize("principal_of", [_raises, lambda _: 7])
async def test_who_cannot_be_told_is_not_let_in(tmp_path: Path, principal_of: Any) -> None:
    async with (
        notes(tmp_path) as engine,
        console_of(engine, authorize=lambda *_: True, principal_of=principal_of) as client,
    ):
        assert (await client.get("/api/v1/overview")).status_code == 403


async def test_the_engines_own_authorize_is_asked_as_well(tmp_path: Path) -> None:
    def engines(principal: str | None, action: str, message: object) -> bool:
        return principal == "ops" or action not in ("control", "feed", "history", "erase")

    def principal_of(scope: Any) -> str:
        sent: bytes = dict(scope["headers"]).get(b"x-user", b"")
        return sent.decode()

    async with (
        notes(tmp_path, authorize=engines) as engine,
        console_of(engine, authorize=lambda *_: True, principal_of=principal_of) as client,
    ):
        await engine.execute(Write("n-1", "one"))
        for endpoint in ENDPOINTS:
            assert (await called(client, endpoint)).status_code == 403, endpoint.path
            if endpoint.method == "GET":
                answer = await called(client, endpoint, **{"X-User": "ops"})
                assert answer.status_code == 200, (endpoint.path, answer.text)
        with pytest.raises(Forbidden):
            await engine.operations.overview()


# -- from where ------------------------------------------------------------------------------

ELSEWHERE: Final[list[tuple[dict[str, Any], dict[str, str]]]] = [
    ({"client": ("192.0.2.7", 1)}, {}),
    ({"client": ("::ffff:192.0.2.7", 1)}, {}),
    ({"host": "http://192.0.2.1"}, {}),
    ({"host": "http://host"}, {}),
    ({}, {"X-Forwarded-For": "127.0.0.1"}),
    ({}, {"Forwarded": "for=127.0.0.1"}),
    ({}, {"Via": "1.1 proxy"}),
    ({}, {"X-Forwarded-Proto": "https"}),
    ({}, {"CF-Connecting-IP": "192.0.2.7"}),
    # A proxy that says nothing, and gives its own Host: the browser names the page it knows.
    ({}, {"Origin": "https://ops.example", "Sec-Fetch-Site": "same-origin"}),
]


async def test_without_authorize_nobody_from_elsewhere_is_answered(tmp_path: Path) -> None:
    paths = ("/", "/main.js", INFO, *(e.path for e in ENDPOINTS if e.method == "GET"))
    async with notes(tmp_path) as engine:
        for where, headers in ELSEWHERE:
            async with asking(Console(engine), **where) as client:
                for path in paths:
                    assert (await client.get(path, headers=headers)).status_code == 403, path
                body = {"projection": "notes"}
                url = "/api/v1/projections/pause"
                assert (await client.post(url, json=body, headers=headers)).status_code == 403
        assert await decisions(engine) == 0


@pytest.mark.parametrize(
    "where",
    [
        {"client": ("127.0.0.1", 1), "host": "http://127.0.0.1:8000"},
        {"client": ("::1", 1), "host": "http://[::1]:8000"},
        {"client": ("::ffff:127.0.0.1", 1), "host": "http://localhost"},
    ],
)
async def test_without_authorize_this_machine_is_answered(tmp_path: Path, where: Any) -> None:
    async with notes(tmp_path) as engine, asking(Console(engine), **where) as client:
        assert (await client.get("/api/v1/overview")).status_code == 200


async def test_a_name_that_somebody_made_lead_here_is_answered_nothing(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        console = Console(engine, authorize=lambda *_: True)
        async with asking(console, host="http://evil.example") as client:
            assert (await client.get("/api/v1/overview")).status_code == 421
            assert (await client.get("/")).status_code == 421
        known = Console(engine, authorize=lambda *_: True, hosts=["ops.example"])
        async with asking(known, host="https://ops.example") as client:
            assert (await client.get("/api/v1/overview")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_page_of_another_site_may_neither_read_nor_act(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        for endpoint in ENDPOINTS:
            assert (await called(client, endpoint, **headers)).status_code == 403, endpoint.path
        assert await decisions(engine) == 0


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
async def test_what_a_form_can_send_does_nothing(tmp_path: Path, kind: str) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        answer = await client.post(
            "/api/v1/projections/pause",
            content=b'{"projection": "notes"}',
            headers={"Content-Type": kind} if kind else {},
        )
        assert answer.status_code == 415
        assert await decisions(engine) == 0


async def test_what_acts_is_not_done_by_a_get(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        for endpoint in ENDPOINTS:
            if endpoint.method == "POST":
                answer = await client.get(endpoint.path, params=given(endpoint))
                assert answer.status_code == 405, endpoint.path
        assert await decisions(engine) == 0


async def test_the_page_and_its_parts_are_sent_with_a_strict_policy(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine, console_of(engine) as client:
        paths = ["/", *(f"/{each.name}" for each in STATIC.iterdir() if each.suffix != ".html")]
        for path in paths:
            answer = await client.get(path)
            assert answer.status_code == 200, path
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "trusted-types 'none'" in policy
            again = await client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert (await client.get("/no.js")).status_code == 404
        assert (await client.get("/../app.py")).status_code == 404


@pytest.mark.parametrize("option", ["authorize", "principal_of"])
def test_what_cannot_decide_is_refused(tmp_path: Path, option: str) -> None:
    engine = make_engine(f"sqlite:{tmp_path / 'notes.db'}")
    with pytest.raises(DefinitionError, match=option):
        Console(engine, **{option: "ann"})  # type: ignore[arg-type]
