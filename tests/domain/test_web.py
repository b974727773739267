"""The shop over HTTP: a real uvicorn, real clients, and requests that nobody should send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.model.orders import Order
from domain.shop import open_shop
from domain.web.app import create_app
from engine import Archive, Limits, id_from_key
from tests.domain.goods import ORDER, heart
from tests.integrations.serving import ROOT, Server, server


@asynccontextmanager
async def shop(folder: Path) -> AsyncGenerator[tuple[httpx.AsyncClient, Server]]:
    """Serve the shop out of a folder."""
    store = f"sqlite:{folder / 'shop.db'}"
    async with (
        server("domain.web.app:app", ROOT, SHOP_STORE=store) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
    ):
        yield client, served


async def create(client: httpx.AsyncClient, key: str, **changes: Any) -> httpx.Response:
    return await client.post("/orders", json={**ORDER, **changes}, headers={"Idempotency-Key": key})


async def versions(folder: Path, order_id: str) -> int:
    """Give the version of an order as its log has it."""
    async with Archive([Order], store=f"sqlite:{folder / 'shop.db'}") as archive:
        return (await archive.state(Order, order_id)).version


async def test_an_order_goes_its_way(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, _):
        created = await create(client, "checkout-77")
        assert (created.status_code, created.headers["ETag"]) == (201, '"1"')
        where = created.headers["Location"]
        at = {"at": created.json()["receipt"]}
        shown = await client.get(where, params=at)
        assert (shown.json()["status"], shown.json()["total"]) == ("created", 2_544)
        assert shown.headers["ETag"] == '"1"'
        unchanged = await client.get(where, headers={"If-None-Match": '"1"'})
        assert (unchanged.status_code, unchanged.content) == (304, b"")

        adjusted = await client.put(
            f"{where}/lines/{heart().id}", json={"quantity": 5}, headers={"If-Match": '"1"'}
        )
        assert (adjusted.status_code, adjusted.headers["ETag"]) == (200, '"2"')
        pending = await client.get("/orders", params={"at": adjusted.json()["receipt"]})
        assert [order["version"] for order in pending.json()["orders"]] == [2]
        shipped = await client.post(f"{where}/shipment")
        assert shipped.status_code == 200
        late = await client.post(f"{where}/cancellation", json={"reason": "customer"})
        assert (late.status_code, late.json()["code"]) == (409, "order-shipped")
        empty = await client.get("/orders", params={"at": shipped.json()["receipt"]})
        assert empty.json() == {"orders": [], "after": None}


async def test_products_are_found_by_their_words(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, _):
        at = (await create(client, "k")).json()["receipt"]

        async def ask(**asked: str) -> httpx.Response:
            return await client.get("/catalogue", params=asked)

        found = await ask(q="LANT", at=at)
        assert (found.status_code, len(found.json()["products"])) == (200, 1)
        assert found.json()["products"][0]["units_sold"] == 6
        assert (await ask(q="lantern OR heart")).json() == {"products": []}
        for wrong in ({}, {"q": "*"}, {"q": "x" * 501}, {"q": "a", "limit": "0"}):
            refused = await ask(**wrong)
            assert refused.status_code == 422, wrong


async def test_a_repeated_post_creates_once_also_after_a_restart(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, _):
        both = await asyncio.gather(create(client, "k"), create(client, "k"))
        assert [answer.status_code for answer in both] == [201, 201]
        assert both[0].json() == both[1].json()
        other = await create(client, "k", invoiced_at="2010-12-02T09:00:00")
        assert (other.status_code, other.json()["code"]) == (422, "key-reused")
    async with shop(tmp_path) as (client, _):
        again = await create(client, "k")
        assert again.json() == both[0].json()

    assert await versions(tmp_path, again.json()["order_id"]) == 1


async def test_only_an_id_is_kept_of_a_requests_id(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, _):
        for n, given in enumerate((b"r-1", b"x" * 5_000, b"a b", b"\xff\x01")):
            headers = [(b"Idempotency-Key", b"k%d" % n), (b"X-Request-ID", given)]
            assert (await client.post("/orders", json=ORDER, headers=headers)).status_code == 201
    async with Archive([Order], store=f"sqlite:{tmp_path / 'shop.db'}") as archive:
        kept = [
            (await archive.history(Order, id_from_key(f"k{n}"))).events[0].meta.correlation
            for n in range(4)
        ]

    assert kept == ["r-1", None, None, None]


async def test_of_two_who_saw_the_same_version_one_wins(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, _):
        where = (await create(client, "k")).headers["Location"]
        line = f"{where}/lines/{heart().id}"
        answers = await asyncio.gather(
            *(
                client.put(line, json={"quantity": n}, headers={"If-Match": '"1"'})
                for n in (3, 4, 5)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412]
        lost = next(answer for answer in answers if answer.status_code == 412)
        assert (lost.headers["ETag"], lost.json()["resend"]) == ('"2"', "no")


JSON = {"Idempotency-Key": "k", "Content-Type": "application/json"}

BAD: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no-key": ("POST", "/orders", {"json": ORDER}, 400, "key-required"),
    "unknown-field": (
        "POST",
        "/orders",
        {"json": {**ORDER, "discount": 1}, "headers": {"Idempotency-Key": "k"}},
        422,
        "bad-body",
    ),
    "wrong-type": (
        "POST",
        "/orders",
        {"json": {**ORDER, "lines": "all"}, "headers": {"Idempotency-Key": "k"}},
        422,
        "bad-body",
    ),
    "not-json": (
        "POST",
        "/orders",
        {"content": b"\xff{", "headers": JSON},
        422,
        "bad-body",
    ),
    "too-deep": (
        "POST",
        "/orders",
        {"content": b"[" * 9_000, "headers": JSON},
        422,
        "too-deep",
    ),
    "too-large": (
        "POST",
        "/orders",
        {"content": b" " * 70_000, "headers": {"Idempotency-Key": "k"}},
        413,
        "too-large",
    ),
    "bad-key": (
        "POST",
        "/orders",
        {"json": ORDER, "headers": {"Idempotency-Key": "a b"}},
        400,
        "bad-key",
    ),
    "bad-id": ("POST", "/orders/%00/shipment", {}, 422, "invalid-input"),
    "long-id": ("POST", f"/orders/{'x' * 300}/shipment", {}, 422, "invalid-input"),
    "no-kind": (
        "POST",
        "/orders",
        {"content": json.dumps(ORDER), "headers": {**JSON, "Content-Type": "text/plain"}},
        415,
        "not-json",
    ),
    "unknown-field-inside": (
        "POST",
        "/orders",
        {"json": {**ORDER, "buyer": {"country": "France", "vip": True}}, "headers": JSON},
        422,
        "bad-body",
    ),
    "bad-time": (
        "POST",
        "/orders",
        {"json": {**ORDER, "invoiced_at": "yesterday"}, "headers": JSON},
        422,
        "bad-body",
    ),
    **{
        f"time {time}": (
            "POST",
            "/orders",
            {"json": {**ORDER, "invoiced_at": time}, "headers": {"Idempotency-Key": "k"}},
            422,
            "time-impossible",
        )
        for time in ("2011-02-29T10:00:00", "0000-01-01T00:00:00", "2010-12-01T24:00:00")
    },
    **{
        f"time {time}": (
            "POST",
            "/orders",
            {"json": {**ORDER, "invoiced_at": time}, "headers": {"Idempotency-Key": "k"}},
            422,
            "bad-body",
        )
        for time in ("2011-02-01T10:00:00+25:00", "12011-02-01T10:00:00", "2011-02-01T10:00:00Z")
    },
    **{
        f"country {character!r}": (
            "POST",
            "/orders",
            {
                "json": {**ORDER, "buyer": {"country": f"U{character}K"}},
                "headers": {"Idempotency-Key": "k"},
            },
            422,
            "bad-body",
        )
        for character in "\x00\n\x1b\x7f\x9b\u2028\u202e\u2066"
    },
    **{
        f"body {body[:20]!r}": (
            "POST",
            "/orders",
            {"content": body, "headers": {**JSON, "Idempotency-Key": "k"}},
            422,
            "bad-body",
        )
        for body in (
            b"",
            b"\xef\xbb\xbf{}",
            json.dumps(ORDER).replace("2", "NaN").encode(),
            json.dumps(ORDER).replace("France", "\\ud800").encode(),
            json.dumps(ORDER).encode("utf-16"),
            json.dumps(ORDER)[:-1].encode(),
            json.dumps(ORDER).encode() + b"{}",
        )
    },
    "twice": (
        "POST",
        "/orders",
        {
            "content": json.dumps(ORDER)[:-1] + ', "invoiced_at": "2010-12-01T08:26:00"}',
            "headers": {**JSON, "Idempotency-Key": "k"},
        },
        422,
        "repeated-field",
    ),
    "zipped": (
        "POST",
        "/orders",
        {
            "json": ORDER,
            "headers": {"Idempotency-Key": "k", "Content-Encoding": "gzip"},
        },
        415,
        "encoded",
    ),
    "no-version": (
        "POST",
        "/orders/none/shipment",
        {"headers": {"If-Match": "*"}},
        412,
        "wrong-version",
    ),
    "two-matches": (
        "POST",
        "/orders/x/shipment",
        {"headers": [("If-Match", '"1"'), ("If-Match", '"2"')]},
        400,
        "repeated-header",
    ),
    "unknown": ("POST", "/orders/none/shipment", {}, 404, "order-unknown"),
    "unknown-read": ("GET", "/orders/none", {}, 404, "order-unknown"),
    "bad-at": ("GET", "/orders/none", {"params": {"at": "!"}}, 422, "invalid-input"),
    "bad-limit": ("GET", "/orders", {"params": {"limit": "-1"}}, 422, "bad-limit"),
    "long-limit": ("GET", "/orders", {"params": {"limit": "1" * 5_000}}, 422, "bad-limit"),
    "bad-match": (
        "POST",
        "/orders/x/shipment",
        {"headers": {"If-Match": "1"}},
        400,
        "bad-precondi",
    ),
    "bad-reason": ("POST", "/orders/x/cancellation", {"json": {"reason": "?"}}, 422, "bad-body"),
}


async def test_bad_requests_are_told_and_write_nothing(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, served):
        for name, (method, path, options, status, code) in BAD.items():
            answer = await client.request(method, path, **options)
            assert answer.status_code == status, name
            assert answer.json()["code"].startswith(code), name
            assert answer.headers["Content-Type"] == "application/problem+json", name
        numbers = (await client.get("/statistics")).json()
        assert numbers["position"] == 0
        assert "Traceback" not in served.log


async def test_an_order_is_changed_under_any_form_of_its_version(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, _):
        where = (await create(client, "k")).headers["Location"]
        line = f"{where}/lines/{heart().id}"

        async def adjust(quantity: int, **headers: str) -> int:
            sent = await client.put(line, json={"quantity": quantity}, headers=headers)
            return sent.status_code

        assert await adjust(1, **{"If-Match": '"7", "1"'}) == 200
        assert await adjust(2, **{"If-Match": '"1", "7"'}) == 412
        assert await adjust(2, **{"If-Match": 'W/"2"'}) == 412
        assert await adjust(2, **{"If-Match": "*"}) == 200
        assert await adjust(3, **{"If-None-Match": 'W/"3"'}) == 412
        made = await client.post(
            "/orders", json=ORDER, headers={"Idempotency-Key": "x", "If-Match": "*"}
        )
        assert made.status_code == 412
        seen = await client.get(where, headers={"If-None-Match": '"2", W/"3"'})
        assert seen.status_code in (200, 304)
        assert (await client.get(where, headers={"If-Match": '"99"'})).status_code == 412
        assert (
            await client.get("/static/main.js", headers={"If-None-Match": "*"})
        ).status_code == 304


@pytest.mark.parametrize("number", [10**30, 2**63, 2**63 - 1, 2**62])
async def test_no_number_of_a_client_stops_a_view(tmp_path: Path, number: int) -> None:
    """A view cannot skip an event, so what it cannot add up must not become one."""
    async with shop(tmp_path) as (client, _):
        made = await create(client, "k")
        line = f"{made.headers['Location']}/lines/{heart().id}"
        free = ORDER["lines"][0] | {"unit_price": 0, "quantity": number}
        dear = ORDER["lines"][0] | {"unit_price": number, "quantity": 1}
        answers = [
            await client.put(line, json={"quantity": number}),
            await create(client, "free", lines=[free]),
            await create(client, "dear", lines=[dear, dear | {"product": "other"}]),
        ]
        codes = [answer.json()["code"] for answer in answers]
        assert codes == ["quantity-too-large", "quantity-too-large", "total-too-large"]
        last = await create(client, "last")
        shown = await client.get("/orders", params={"at": last.json()["receipt"]})
        assert [order["total"] for order in shown.json()["orders"]] == [2_544, 2_544]
        assert (await client.get("/health/ready")).status_code == 200


async def raw(served: Server, request: bytes) -> bytes:
    """Send bytes as they are; give all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request)
    await writer.drain()
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(60):
            while piece := await reader.read(65_536):
                answer += piece
    writer.close()
    return answer


HEAD = (
    b"POST /orders HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n"
)


async def test_bodies_that_lie_about_their_size_are_cut_off(tmp_path: Path) -> None:
    body = json.dumps(ORDER).encode()
    async with shop(tmp_path) as (client, served):
        chunks = (b"8000\r\n" + b" " * 32_768 + b"\r\n") * 4
        answer = await raw(served, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        # A server that closes on what it has not read may take its answer back with it.
        assert answer == b"" or answer.startswith(b"HTTP/1.1 413")
        huge = HEAD + b"Content-Length: 99999999999\r\n\r\n" + body
        assert (await raw(served, huge)).startswith(b"HTTP/1.1 413")
        short = HEAD + b"Connection: close\r\nContent-Length: 10\r\n\r\n" + body
        assert (await raw(served, short)).startswith(b"HTTP/1.1 4")

        assert (await client.get("/statistics")).json()["position"] == 0


async def test_slow_bodies_hold_up_nobody_and_are_given_up(tmp_path: Path) -> None:
    (tmp_path / "hasty.py").write_text(
        "from domain.web.app import create_app; app = create_app(body_seconds=1.5)"
    )
    async with (
        server("hasty:app", tmp_path) as served,
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
    ):
        slow = [
            asyncio.create_task(
                raw(served, HEAD + b"Connection: close\r\nContent-Length: 100\r\n\r\n{")
            )
            for _ in range(50)
        ]
        for n in range(20):
            assert (await create(client, f"k{n}")).status_code == 201
        assert not any(task.done() for task in slow)
        answers = await asyncio.gather(*slow)

        assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)


async def test_a_client_that_leaves_half_does_nothing(tmp_path: Path) -> None:
    body = json.dumps(ORDER).encode()
    length = f"Content-Length: {len(body)}\r\n\r\n".encode()
    async with shop(tmp_path) as (client, served):
        for cut in (10, len(body)):
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(HEAD + length + body[:cut])
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        # The whole request was run or not; the same key finds out, and creates once.
        found = await create(client, "k")
        assert found.status_code == 201
        assert (await client.get("/statistics")).json()["position"] == 1
    assert "Exception in ASGI application" not in served.log


async def test_stopping_answers_what_was_accepted(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, served):
        tasks = [asyncio.create_task(create(client, f"k{n}")) for n in range(50)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        served.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        status = await served.end()

    created = [a for a in answers if isinstance(a, httpx.Response) and a.status_code == 201]
    assert len(created) >= len(done)
    for answer in created:
        assert await versions(tmp_path, answer.json()["order_id"]) == 1
    assert status in (0, -signal.SIGTERM)
    assert "Traceback" not in served.log


async def test_a_second_worker_is_refused_by_name(tmp_path: Path) -> None:
    async with shop(tmp_path):
        with pytest.raises(AssertionError, match="one engine at a time may"):
            async with shop(tmp_path):
                pass


async def test_health_tells_a_live_process_from_a_ready_one(tmp_path: Path) -> None:
    async with shop(tmp_path) as (client, _):
        assert (await client.get("/health/live")).status_code == 204
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["engine"]) == (200, "running")
        views = {"orders", "catalogue", "sales", "customers", "fulfilment"}
        assert set(ready.json()["views"]) == views


async def test_a_principal_keeps_their_keys_to_themselves() -> None:
    """In process: two customers use one key for different orders."""
    app = create_app(principal_of=lambda request: request.headers.get("x-user"))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            ids = set()
            for user in ("ann", "bob"):
                headers = {"Idempotency-Key": "1", "X-User": user}
                answer = await client.post("/orders", json=ORDER, headers=headers)
                assert answer.status_code == 201
                ids.add(answer.json()["order_id"])
            assert len(ids) == 2


async def test_too_much_at_once_is_429_and_nothing_is_lost() -> None:
    one = Limits(commands_accepted=1, mailbox_commands=1)
    app = create_app(open_engine=lambda store: open_shop(store, one))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            answers = await asyncio.gather(*(create(client, f"k{n}") for n in range(20)))
            refused = [answer for answer in answers if answer.status_code == 429]
            assert refused
            assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
            assert {answer.status_code for answer in answers} == {201, 429}
            position = app.state.engine.statistics().position
            assert position == len(answers) - len(refused)
