"""The demo: a real process that is killed, replaced and asked whether anything was lost."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.web.app import create_app
from domain.web.demo import Demo, is_loopback
from domain.web.serve import main
from tests.domain.goods import ORDER
from tests.domain.replaying import replaying
from tests.integrations.serving import ROOT, server


async def until(client: httpx.AsyncClient, holds: Any) -> Any:
    """Ask who answers until a condition holds of it."""
    async with asyncio.timeout(60):
        while True:
            told = (await client.get("/demo")).json()
            if holds(told):
                return told
            await asyncio.sleep(0.02)


async def kill(client: httpx.AsyncClient, life: int) -> None:
    """Have a life killed: no answer can come."""
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/demo/kill", params={"life": life})


async def test_a_killed_process_is_replaced_and_has_lost_nothing() -> None:
    async with (
        replaying(5) as served,
        httpx.AsyncClient(base_url=served.url, timeout=60) as client,
    ):
        first = await until(client, lambda told: (told["replay"] or {}).get("executed", 0) > 100)
        await kill(client, 1)
        second = await until(client, lambda told: told["life"] == 2)
        assert second["process"] != first["process"]
        proof = second["proof"]
        assert proof["acknowledged"] >= 100
        assert (proof["lost"], proof["doubled"]) == (0, 0)
        assert proof["events"] >= proof["acknowledged"]

        done = (await until(client, lambda t: t["replay"] and t["replay"]["done"]))["replay"]
        assert done["repeated"] == proof["events"]
        assert done["executed"] + done["repeated"] + done["refused"] == done["commands"]


async def test_what_was_sent_by_hand_outlives_a_kill_too() -> None:
    async with (
        replaying(None) as served,
        httpx.AsyncClient(base_url=served.url, timeout=60) as client,
    ):
        key = {"Idempotency-Key": "one"}
        made = await client.post("/orders", json=ORDER, headers=key)
        await kill(client, 1)
        again = await client.post("/orders", json=ORDER, headers=key)
        assert again.json() == made.json()
        told = (await client.get("/demo")).json()
        assert (told["life"], told["replay"], told["proof"]["events"]) == (2, None, 1)


async def test_nobody_else_may_kill() -> None:
    async with (
        replaying(None) as served,
        httpx.AsyncClient(base_url=served.url, timeout=60) as client,
    ):
        evil = {"Origin": "http://evil.example"}
        other = await client.post("/demo/kill?life=1", headers=evil)
        assert (other.status_code, other.json()["code"]) == (403, "other-site")
        rebound = await client.post("/demo/kill?life=1", headers={"Host": "evil.example"})
        assert rebound.status_code == 421
        assert (await client.get("/demo/kill?life=1")).status_code == 405
        for life in ("", "?life=2", "?life=0"):
            late = await client.post(f"/demo/kill{life}")
            assert (late.status_code, late.json()["code"]) == (409, "other-life")
        assert (await client.get("/demo")).json()["life"] == 1


@pytest.mark.parametrize(("killable", "address"), [(True, "10.1.2.3"), (False, "127.0.0.1")])
async def test_a_request_from_elsewhere_kills_nothing(
    tmp_path: Path, killable: bool, address: str
) -> None:
    app = create_app(demo=Demo(1, tmp_path / "acks", None, killable=killable))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app, client=(address, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            # Of another life, so that the test itself is not killed where it is not refused.
            refused = await client.post("/demo/kill?life=2")
            assert (refused.status_code, refused.json()["code"]) == (403, "not-here")


async def test_behind_a_proxy_nobody_may_kill() -> None:
    """There everybody seems to be on this machine."""
    async with (
        replaying(None, "--name", "shop.example") as served,
        httpx.AsyncClient(base_url=served.url, timeout=60) as client,
    ):
        assert (await client.get("/demo")).json()["killable"] is False
        refused = await client.post("/demo/kill?life=1")
        assert (refused.status_code, refused.json()["code"]) == (403, "not-here")


async def test_a_shop_that_is_no_demo_has_no_such_thing() -> None:
    app = create_app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert (await client.post("/demo/kill?life=1")).status_code == 404
            told = (await client.get("/demo")).json()
            assert (told["process"], told["life"], told["killable"]) == (0, 0, False)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_the_parent_ends_its_process_and_says_that_all_is_well(how: int) -> None:
    async with replaying(None) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            process = (await client.get("/demo")).json()["process"]
        assert await served.end(how) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


async def test_a_process_whose_parent_was_killed_ends() -> None:
    async with replaying(None) as served:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            process = (await client.get("/demo")).json()["process"]
        await served.end(signal.SIGKILL)
        async with asyncio.timeout(60):
            while _lives(process):
                await asyncio.sleep(0.02)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_process_that_cannot_begin_is_not_begun_again(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/none/shop.db"
    async with replaying(None, "--store", store) as served:
        assert served.process.stderr is not None
        told = (await served.process.stderr.read()).decode()
        assert await served.process.wait() != 0
    assert "none" in told
    assert "takes its place" not in told


def test_only_this_machines_addresses_are_its_own() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.1.2.3", "::", "shop.example", "")))


@pytest.mark.parametrize("seconds", ["0", "-1", "many", "1e9", "nan"])
def test_seconds_that_are_none_are_told_with_the_usage(
    seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--replay", seconds])
    assert "usage: python -m domain.web" in capsys.readouterr().err


async def test_a_shop_whose_engine_has_failed_stops_to_be_started_again() -> None:
    async with server("tests.domain.failing_shop:app", ROOT) as served:
        async with httpx.AsyncClient(base_url=served.url) as client:
            key = {"Idempotency-Key": "checkout-77"}
            assert (await client.post("/orders", json=ORDER, headers=key)).status_code == 500
        async with asyncio.timeout(20):
            await served.process.wait()

    assert "the engine failed" in served.log
