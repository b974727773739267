"""Pages of other sites, as a browser sends for them: they act on nothing and read nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.web.app import create_app
from engine.integrations.asgi import OriginMiddleware
from tests.browser.chromium import chromium, find_chromium
from tests.integrations.serving import ROOT, server

Headers = Sequence[tuple[bytes, bytes]]
OUR = (b"host", b"localhost:8000")


async def answer(
    *headers: tuple[bytes, bytes],
    method: str = "GET",
    kind: str = "http",
    http_version: str = "1.1",
    **options: Any,
) -> int:
    """Send a request; give its status, 200 where the application has it, 1008 for a websocket."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "method": method, "headers": list(headers), "server": ("10.1.2.3", 80)}
    scope["http_version"] = http_version
    await OriginMiddleware(app, **options)(scope, receive, send)
    status: int = sent[0].get("status") or sent[0]["code"]
    return status


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "shop.localhost",
        "127.0.0.1:8000",
        "127.8.8.8",
        "[::1]:8000",
        "0.0.0.0:8000",
        "10.1.2.3",  # at which it came in
        "10.1.2.4",  # of the machine around a container: no name server has a say in it
        "[2001:db8::1]",
        "[2001:0DB8:0:0::1]:8000",
        "localhost.",
        "127.0.0.1.",
        "till-7",  # nobody can register a name without a dot
    ],
)
async def test_a_server_answers_under_this_machines_names(host: str) -> None:
    assert await answer((b"host", host.encode())) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.1.2.3.4",
        "10.1.2.256",
        "evil.example.",
        "xn--localhost-.example",
    ],
)
async def test_a_name_that_somebody_made_lead_here_is_answered_nothing(host: str) -> None:
    assert await answer((b"host", host.encode())) == 421
    assert await answer((b"host", host.encode()), kind="websocket") == 1008


@pytest.mark.parametrize("host", ["", "a b", "a@b", "x:y", "[::1", "a/b", "é", "localhost,evil"])
async def test_what_is_no_host_is_refused(host: str) -> None:
    assert await answer((b"host", host.encode("latin-1"))) == 400


async def test_a_request_has_one_host() -> None:
    assert await answer() == 400
    assert await answer(OUR, (b"host", b"evil.example")) == 400


async def test_names_can_be_given() -> None:
    shop = (b"host", b"shop.example")
    assert await answer(shop, hosts=["SHOP.example"]) == 200
    assert await answer((b"host", b"a.shop.example"), hosts=["shop.example"]) == 421
    assert await answer((b"host", b"any.example"), hosts=["*"]) == 200
    assert await answer((b"host", b"shop.example"), hosts=["shop.example."]) == 200


@pytest.mark.parametrize("hosts", ["shop.example", b"shop.example"])
def test_one_text_is_no_list_of_names(hosts: Any) -> None:
    for given in ({"hosts": hosts}, {"origins": hosts}):
        with pytest.raises(TypeError, match="is a list of texts"):
            OriginMiddleware(no_app, **given)


@pytest.mark.parametrize(
    "host",
    ["https://shop.example", "shop.example:8443", "shop.example/", "bücher.example", "", " "],
)
def test_what_no_request_can_be_named_is_refused_before_the_first(host: str) -> None:
    with pytest.raises(ValueError, match="is no name that a Host header can have"):
        OriginMiddleware(no_app, hosts=[host])


@pytest.mark.parametrize("origin", ["*", "shop.example", "https://shop.example/", "null", ""])
def test_what_no_page_has_as_origin_is_refused_before_the_first(origin: str) -> None:
    with pytest.raises(ValueError, match="is no origin of a page"):
        OriginMiddleware(no_app, origins=[origin])


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


async def test_a_health_check_without_a_host_is_answered_and_sends_nothing_for_a_page() -> None:
    assert await answer(method="OPTIONS", http_version="1.0") == 200
    assert await answer(http_version="1.0", kind="websocket") == 200
    elsewhere = (b"origin", b"https://evil.example")
    assert await answer(elsewhere, method="POST", http_version="1.0") == 403


async def test_a_page_behind_a_proxy_that_names_another_host_acts() -> None:
    inner, page = (b"host", b"127.0.0.1:8000"), (b"origin", b"https://shop.example")
    site = (b"sec-fetch-site", b"same-origin")
    assert await answer(inner, page, method="POST") == 403
    assert await answer(inner, page, site, method="POST") == 200  # the browser itself says so
    assert await answer(inner, page, method="POST", hosts=["shop.example"]) == 200
    for other in (b"https://shop.example:8443", b"https://a.shop.example", b"null"):
        told = await answer(inner, (b"origin", other), method="POST", hosts=["shop.example"])
        assert told == 403


async def test_who_runs_it_is_told_which_name_to_add(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = OriginMiddleware(no_app)
    for number in (*range(100), 1, 1):
        host = (b"host", b"shop-%d.example" % number)
        scope = {"type": "http", "method": "GET", "headers": [host], "http_version": "2"}
        await middleware(scope, receive, send)
    body = json.loads(sent[3]["body"])
    assert 'hosts=["shop-1.example"]' in body["detail"]
    assert b"connection" not in dict(sent[2]["headers"])  # no header of HTTP/2
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 20
    assert 'hosts=["shop-1.example"]' in told[1]


OTHERS: Sequence[Headers] = [
    [(b"origin", b"https://evil.example")],
    [(b"origin", b"http://localhost:3000")],  # another server on this machine
    [(b"origin", b"http://localhost")],
    [(b"origin", b"null")],
    [(b"origin", b"http://localhost:8000.evil.example")],
    [(b"origin", b"http://localhost:8000"), (b"origin", b"https://evil.example")],
    [(b"sec-fetch-site", b"cross-site")],
    [(b"sec-fetch-site", b"same-site")],
    [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"cross-site")],
]


@pytest.mark.parametrize("others", OTHERS)
async def test_a_page_of_another_site_does_nothing(others: Headers) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "GET", "HEAD"):
        assert await answer(OUR, *others, method=method) == 403
    assert await answer(OUR, *others, kind="websocket") == 1008


@pytest.mark.parametrize(
    "ours",
    [
        [],
        [(b"origin", b"http://LOCALHOST:8000")],
        [(b"sec-fetch-site", b"same-origin")],
        [(b"sec-fetch-site", b"none")],
        [(b"origin", b"https://other.example"), (b"sec-fetch-site", b"cross-site")],
    ],
)
async def test_our_own_pages_and_programs_do(ours: Headers) -> None:
    for method in ("POST", "GET"):
        assert await answer(OUR, *ours, method=method, origins=["https://other.example"]) == 200


async def test_a_link_from_elsewhere_may_be_followed_and_acts_on_nothing() -> None:
    link = [(b"sec-fetch-site", b"cross-site"), (b"sec-fetch-mode", b"navigate")]
    assert await answer(OUR, *link, (b"sec-fetch-dest", b"document")) == 200
    assert await answer(OUR, *link, (b"sec-fetch-dest", b"iframe")) == 403
    assert await answer(OUR, *link, (b"sec-fetch-dest", b"document"), method="POST") == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [("shop.example", "https://shop.example"), ("shop.example:443", "https://shop.example:443")],
)
async def test_a_usual_port_is_none(host: str, origin: str) -> None:
    headers = [(b"host", host.encode()), (b"origin", origin.encode())]
    assert await answer(*headers, method="POST", hosts=["shop.example"]) == 200


@pytest.mark.parametrize(
    "kind", [b"text/plain", b"Text/Plain;charset=utf-8", b"multipart/form-data; boundary=x"]
)
async def test_a_form_of_a_browser_that_says_nothing_sends_no_body(kind: bytes) -> None:
    assert await answer(OUR, (b"content-type", kind), method="POST") == 415
    assert await answer(OUR, (b"content-type", kind), method="POST", forms=True) == 200


def order(**changes: Any) -> Any:
    line = {"product": "1", "description": "LAMP", "quantity": 2, "unit_price": 250}
    made = {"buyer": {"country": "UK"}, "invoiced_at": "2011-05-04T10:00:00", "lines": [line]}
    return {**made, **changes}


@asynccontextmanager
async def shop() -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app("memory:")
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


async def test_no_route_of_the_shop_acts_or_tells_anything() -> None:
    async with shop() as client:
        key = {"Idempotency-Key": "1"}
        made = await client.post("/orders", json=order(), headers=key)
        where = made.headers["Location"]
        for path in (f"{where}/shipment", f"{where}/cancellation", f"{where}/lines/1@250"):
            for method in ("POST", "PUT"):
                sent = await client.request(
                    method, path, headers={"Origin": "https://evil.example"}
                )
                assert sent.status_code == 403
        for path in ("/", "/static/main.js", "/live/overview", "/orders", where, "/statistics"):
            told = await client.get(path, headers={"Host": "evil.example"})
            assert (told.status_code, json.loads(told.content)["code"]) == (421, "wrong-host")
        shown = (await client.get(where, params={"at": made.json()["receipt"]})).json()
        assert (shown["status"], shown["version"]) == ("created", 1)


CHROMIUM = find_chromium()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
async def test_a_real_browser_ships_nothing_for_another_page(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    (tmp_path / "elsewhere.py").write_text(
        "from starlette.applications import Starlette\n"
        "from starlette.responses import HTMLResponse\n"
        "from starlette.routing import Route\n"
        "app = Starlette(routes=[Route('/', lambda _: HTMLResponse('<title>evil</title>'))])\n"
    )
    shop_store = f"sqlite:{tmp_path / 'shop.db'}"
    async with (
        server("domain.web.app:app", ROOT, SHOP_STORE=shop_store) as served,
        server("elsewhere:app", tmp_path) as elsewhere,
        httpx.AsyncClient(base_url=served.url, timeout=30) as client,
        chromium(CHROMIUM) as browser,
        browser.page(elsewhere.url) as page,
    ):
        made = await client.post("/orders", json=order(), headers={"Idempotency-Key": "1"})
        where = f"{served.url}{made.headers['Location']}"
        await page.until("document.title === 'evil'")
        await page.ask(
            "window.answered = 0;"
            " for (const options of [{method: 'POST', mode: 'no-cors'}, {mode: 'no-cors'}])"
            f" fetch('{where}/cancellation', options).then(() => window.answered++)"
        )
        await page.ask(
            "const frame = document.createElement('iframe'); frame.name = 'there';"
            " frame.onload = () => window.answered++; document.body.append(frame);"
            " const form = document.createElement('form');"
            f" form.action = '{where}/shipment'; form.method = 'post'; form.target = 'there';"
            " document.body.append(form); form.submit()"
        )
        # Whatever the shop said, it has said it: a page is not told what.
        await page.until("window.answered >= 4")
        shown = (await client.get(where, params={"at": made.json()["receipt"]})).json()
        assert (shown["status"], shown["version"]) == ("created", 1)
