"""The live page without a browser: what it is sent as, what it may do, and what it is made of."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from domain.web.app import create_app
from domain.web.page import PAGE

FILES = ["/", "/live.css", "/live.js"]
MARKUP = "innerHTML|outerHTML|insertAdjacentHTML|document.write|DOMParser|eval|Function|srcdoc"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as made:
        yield made


@pytest.mark.parametrize("path", FILES)
async def test_the_page_may_run_its_own_script_and_load_nothing_from_elsewhere(
    client: httpx.AsyncClient, path: str
) -> None:
    sent = await client.get(path)
    policy = dict(
        rule.split(" ", 1) for rule in sent.headers["Content-Security-Policy"].split("; ")
    )

    assert sent.status_code == 200
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == "'none'"
    assert sent.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_files_are_of_their_types_and_sent_again_only_when_they_changed(
    client: httpx.AsyncClient,
) -> None:
    types = [(await client.get(path)).headers["Content-Type"] for path in FILES]
    assert [kind.partition(";")[0] for kind in types] == [
        "text/html",
        "text/css",
        "text/javascript",
    ]
    tag = (await client.get("/live.js")).headers["ETag"]
    again = await client.get("/live.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.get("/", headers={"If-None-Match": tag})).status_code == 200


def test_the_page_has_no_script_or_style_inside_and_knows_no_other_host() -> None:
    html = (PAGE / "index.html").read_text()
    all_of_it = "".join(path.read_text() for path in PAGE.iterdir())

    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", html) == []
    assert re.findall(r"https?://|//\w+\.\w", all_of_it) == []


def test_the_script_makes_no_markup_of_anything() -> None:
    assert re.findall(MARKUP, (PAGE / "live.js").read_text()) == []


def test_what_the_script_asks_of_the_page_is_there() -> None:
    html = (PAGE / "index.html").read_text()
    script = (PAGE / "live.js").read_text()
    wanted = set(re.findall(r'(?:there|fill)\("([a-z-]+)"', script))

    assert wanted >= {"pending", "sellers", "pending-count", "connection"}
    assert wanted <= set(re.findall(r'id="([a-z-]+)"', html))
