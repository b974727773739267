"""The OpenAPI document: it has every route, and its schemas are what is sent."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from domain.web.app import create_app, endpoints
from domain.web.page import paths
from tests.domain.goods import ORDER


@pytest.fixture
async def app() -> AsyncIterator[Starlette]:
    app = create_app()
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as made:
        yield made


@pytest.fixture
async def document(client: httpx.AsyncClient) -> Any:
    return (await client.get("/openapi.json")).json()


async def test_every_route_is_in_the_document_and_no_other(app: Starlette, document: Any) -> None:
    routes = {
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route) and route.path not in {*paths(), "/openapi.json"}
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(path, m.upper()) for path, methods in document["paths"].items() for m in methods}

    assert described == routes


async def test_each_reference_leads_to_a_schema(document: Any) -> None:
    wanted = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))

    assert document["openapi"] == "3.1.0"
    assert wanted <= set(document["components"]["schemas"])
    assert {"NewOrder", "Done", "OrderSummary", "Dashboard", "Problem"} <= wanted
    names = [o["operationId"] for methods in document["paths"].values() for o in methods.values()]
    assert len(names) == len(set(names))


async def test_a_body_has_the_fields_that_are_required_of_it(document: Any) -> None:
    body = document["paths"]["/orders"]["post"]["requestBody"]
    schema = document["components"]["schemas"]["NewOrder"]

    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/NewOrder")
    assert schema["required"] == ["buyer", "invoiced_at", "lines"] == list(ORDER)
    cancellation = document["paths"]["/orders/{order_id}/cancellation"]["post"]["requestBody"]
    assert cancellation["required"] is False


async def test_what_is_sent_is_what_the_document_says(client: httpx.AsyncClient) -> None:
    made = await client.post("/orders", json=ORDER, headers={"Idempotency-Key": "k"})
    order_id, receipt = made.json()["order_id"], made.json()["receipt"]
    filled = {"order_id": order_id, "version": "1", "line_id": "x"}
    for endpoint in endpoints():
        if endpoint.method != "GET" or endpoint.media_type != "application/json":
            continue
        asked = {"at": receipt, "q": "lantern", "before": "0", "after": "0"}
        taken = {name: asked[name] for p in endpoint.parameters if (name := p.name) in asked}
        taken = taken if endpoint.path != "/orders" else {"at": receipt}
        answer = await client.get(endpoint.path.format(**filled), params=taken)
        assert answer.status_code == endpoint.status, endpoint.path
        if endpoint.answer is not None:
            read = msgspec.json.decode(answer.content, type=endpoint.answer)
            assert msgspec.json.decode(msgspec.json.encode(read)) == answer.json(), endpoint.path


async def test_a_refusal_is_what_the_document_says(
    client: httpx.AsyncClient, document: Any
) -> None:
    refused = await client.get("/orders/none")
    schema = document["components"]["schemas"]["Problem"]

    assert str(refused.status_code) in document["paths"]["/orders/{order_id}"]["get"]["responses"]
    assert set(refused.json()) == set(schema["properties"])


async def test_health_is_at_one_place_for_people_and_in_two_for_machines(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/health", "/health/ready"):
        told = await client.get(path)
        assert (told.status_code, told.json()["engine"]) == (200, "running")
