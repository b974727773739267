"""`/live`, `/ready` and `/health`, behind each framework's own way of routes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from litestar import Litestar, asgi
from starlette.applications import Starlette
from starlette.routing import Mount

from engine import Engine, Health
from engine.integrations.fastapi import engine_lifespan, health_routes
from engine.integrations.health import HealthRoutes
from tests.health.looking import SomeDisk, engine_on
from tests.support.counters import Add
from tests.support.tallies import AILING
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def all_well() -> Iterator[None]:
    yield
    AILING.clear()


async def inner(scope: Any, receive: Any, send: Any) -> None:
    """Be an application that knows nothing of an engine."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def asked(app: Any, path: str, method: str = "GET") -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path)


async def stopped(engine: Engine) -> None:
    """Let a projection of the engine stop."""
    AILING.add("a")
    await engine.execute(Add("a", 1))
    await until(lambda: engine.statistics().projectors["tallies"].failure is not None)


async def test_each_route_answers_200_or_503_and_is_kept_by_no_cache(tmp_path: Path) -> None:
    async with engine_on(f"sqlite:{tmp_path}/log.db") as engine:
        app = HealthRoutes(engine=engine, bounds=Health(unready=["projection"]))
        well = [await asked(app, path) for path in ("/live", "/ready", "/health")]
        await stopped(engine)
        ill = [await asked(app, path) for path in ("/live", "/ready", "/health")]

    assert [answer.status_code for answer in well] == [200, 200, 200]
    assert [answer.json() for answer in well] == [
        {"live": True},
        {"ready": True, "failing": []},
        {"live": True, "ready": True, "ok": True, "failing": []},
    ]
    assert [answer.status_code for answer in ill] == [200, 503, 503]
    assert ill[1].json() == {"ready": False, "failing": ["projection"]}
    for answer in (*well, *ill):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"


async def test_a_stopped_projection_takes_no_engine_from_a_load_balancer(tmp_path: Path) -> None:
    async with engine_on(f"sqlite:{tmp_path}/log.db") as engine:
        app = HealthRoutes(engine=engine)
        await stopped(engine)

        assert (await asked(app, "/ready")).status_code == 200
        assert (await asked(app, "/health")).status_code == 503


async def test_whether_it_lives_is_answered_while_the_disk_hangs(tmp_path: Path) -> None:
    disk = SomeDisk()
    async with engine_on(f"sqlite:{tmp_path}/log.db", disk) as engine:
        disk.answers.clear()
        app = HealthRoutes(engine=engine)
        assert (await asked(app, "/live")).status_code == 200
        assert disk.asked_by == []
        assert (await asked(app, "/ready")).status_code == 200
        assert len(disk.asked_by) == 1
        disk.answers.set()


async def test_strangers_read_names_only_and_who_may_reads_all(tmp_path: Path) -> None:
    async with engine_on(f"sqlite:{tmp_path}/log.db") as engine:
        await stopped(engine)
        short = (await asked(HealthRoutes(engine=engine), "/health")).text
        whole = (await asked(HealthRoutes(engine=engine, details=True), "/health")).json()

    assert "tallies" not in short
    assert ("projection", "tallies") in {(one["name"], one["of"]) for one in whole["checks"]}


async def test_what_is_no_route_goes_on_to_the_app_or_is_not_found(tmp_path: Path) -> None:
    async with engine_on(f"sqlite:{tmp_path}/log.db") as engine:
        around = HealthRoutes(inner, engine=engine, prefix="/-")

        assert (await asked(around, "/-/live")).status_code == 200
        for path in ("/live", "/-/other", "/other/-/live"):
            assert (await asked(around, path)).text == path
        assert (await asked(HealthRoutes(engine=engine), "/other")).status_code == 404
        refused = await asked(around, "/-/live", "POST")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        head = await asked(around, "/-/ready", "HEAD")
        assert (head.status_code, head.content) == (200, b"")


async def test_before_there_is_an_engine_a_process_is_live_and_not_ready() -> None:
    app = HealthRoutes(engine=lambda: None)

    found = [(await asked(app, path)).status_code for path in ("/live", "/ready", "/health")]
    assert found == [200, 503, 503]


async def test_it_is_mounted_in_starlette_and_litestar(tmp_path: Path) -> None:
    async with engine_on(f"sqlite:{tmp_path}/log.db") as engine:
        routes = HealthRoutes(engine=lambda: engine)
        mounted = asgi("/-", is_mount=True, copy_scope=True)(routes)
        # Litestar sets the level of the root logger otherwise, for all tests that follow.
        litestar = Litestar([mounted], logging_config=None)
        for app in (Starlette(routes=[Mount("/-", routes)]), litestar):
            assert (await asked(app, "/-/ready")).json() == {"ready": True, "failing": []}
            assert (await asked(app, "/-/nothing")).status_code == 404


async def test_fastapi_includes_them_with_its_own_engine(tmp_path: Path) -> None:
    app = FastAPI(lifespan=engine_lifespan(lambda: engine_on(f"sqlite:{tmp_path}/log.db")))
    app.include_router(health_routes(details=True), prefix="/-")
    async with app.router.lifespan_context(app):
        ready, health = await asked(app, "/-/ready"), await asked(app, "/-/health")
        live, head = await asked(app, "/-/live"), await asked(app, "/-/ready", "HEAD")
        other = await asked(app, "/-/ready", "POST")

    assert (live.json(), ready.json()) == ({"live": True}, {"ready": True, "failing": []})
    assert {one["name"] for one in health.json()["checks"]} > {"state", "lag.seconds"}
    assert (head.status_code, head.headers["cache-control"], other.status_code) == (
        200,
        "no-store",
        405,
    )
    assert [*app.openapi()["paths"]["/-/ready"]] == ["get"]
