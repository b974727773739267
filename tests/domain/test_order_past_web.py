"""The past of an order over HTTP: its history, a version of it, and what differs between two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from domain.gate import staff_gate
from domain.shop import open_shop
from domain.web.app import create_app
from tests.domain.goods import ORDER, heart


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as made:
            yield made


async def changed(client: httpx.AsyncClient, key: str = "k") -> str:
    """Create an order, change a line of it, and ship it; give where it is."""
    made = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": key})
    where = str(made.headers["Location"])
    await client.put(f"{where}/lines/{heart().id}", json={"quantity": 5})
    await client.post(f"{where}/shipment")
    return where


async def test_the_history_names_what_happened_and_under_which_key(
    client: httpx.AsyncClient,
) -> None:
    found = (await client.get(f"{await changed(client)}/history")).json()

    assert [(event["version"], event["name"]) for event in found["events"]] == [
        (1, "order-created"),
        (2, "order-item-quantity-adjusted"),
        (3, "order-shipped"),
    ]
    assert [event["position"] for event in found["events"]] == [1, 2, 3]
    assert found["events"][1]["event"]["quantity_after"] == 5
    assert found["events"][0]["key"] == "k"
    assert found["after"] is None


async def test_a_long_history_comes_page_by_page(client: httpx.AsyncClient) -> None:
    where = await changed(client)
    pages: list[Any] = []
    after: int | None = 0
    while after is not None:
        page = (await client.get(f"{where}/history", params={"after": after, "limit": 2})).json()
        pages.append([event["version"] for event in page["events"]])
        after = page["after"]

    assert pages == [[1, 2], [3]]


async def test_an_order_is_shown_as_it_was_at_each_version(client: httpx.AsyncClient) -> None:
    where = await changed(client)
    states = [(await client.get(f"{where}/versions/{n}")).json() for n in (0, 1, 2, 3)]

    assert [state["status"] for state in states] == ["none", "created", "created", "shipped"]
    assert [state["total"] for state in states] == [0, 2_544, 3_309, 3_309]
    assert states[2]["lines"][1]["quantity"] == 5


async def test_what_differs_between_two_versions_is_told_in_either_order(
    client: httpx.AsyncClient,
) -> None:
    where = await changed(client)

    async def differ(before: int, after: int) -> Any:
        asked = {"before": before, "after": after}
        return (await client.get(f"{where}/difference", params=asked)).json()["changes"]

    assert await differ(1, 2) == [
        {"path": ["lines", heart().id, "quantity"], "before": 2, "after": 5},
        {"path": ["total"], "before": 2_544, "after": 3_309},
    ]
    assert await differ(3, 2) == [{"path": ["status"], "before": "shipped", "after": "created"}]
    assert await differ(2, 2) == []
    added = next(change for change in await differ(0, 1) if change["path"][0] == "lines")
    assert "before" not in added, "there was nothing, which is not the same as null"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/orders/none/history", 404, "order-unknown"),
        ("/orders/none/versions/1", 404, "version-unknown"),
        ("{}/versions/4", 404, "version-unknown"),
        ("{}/versions/-1", 422, "bad-version"),
        ("{}/versions/9999999999", 422, "bad-version"),
        ("{}/difference?before=0&after=4", 404, "version-unknown"),
        ("{}/difference?before=x", 422, "bad-before"),
        ("{}/history?limit=0", 422, "bad-limit"),
        ("{}/history?after=1e3", 422, "bad-after"),
    ],
)
async def test_a_past_that_is_not_there_is_told(
    client: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    answer = await client.get(path.format(await changed(client)))

    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_whom_the_gate_refuses_sees_no_past() -> None:
    app = create_app(
        principal_of=lambda request: request.headers.get("x-user"),
        open_engine=lambda store: open_shop(store, authorize=staff_gate(["ann"])),
    )
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            made = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})
            where = made.headers["Location"]
            for path in ("history", "versions/1", "difference?before=0&after=1"):
                assert (await client.get(f"{where}/{path}")).status_code == 403
                seen = await client.get(f"{where}/{path}", headers={"X-User": "ann"})
                assert seen.status_code == 200
