"""The live page without a browser: what it is sent as, what it may do, and what it is made of."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from domain.web.app import create_app
from domain.web.page import PAGE, TYPES, paths

FILES = sorted(paths())
SCRIPTS = sorted(path for path in PAGE.iterdir() if path.suffix == ".js")
PAGES = {"index.html": "main.js", "api.html": "api.js"}
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
    assert {"/", "/docs", "/static/main.js", "/static/base.css"} <= set(FILES)
    for path, file in paths().items():
        kind = (await client.get(path)).headers["Content-Type"]
        assert kind == f"{TYPES[file.suffix]}; charset=utf-8"
    tag = (await client.get("/static/main.js")).headers["ETag"]
    again = await client.get("/static/main.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.get("/", headers={"If-None-Match": tag})).status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_script_or_style_inside_and_knows_no_other_host(page: str) -> None:
    html = (PAGE / page).read_text()

    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", html) == []


@pytest.mark.parametrize("path", sorted(PAGE.iterdir()), ids=lambda path: path.name)
def test_no_file_of_a_page_knows_another_host(path: Path) -> None:
    assert re.findall(r"https?://|//\w+\.\w|@import|url\(", path.read_text()) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_of_anything(script: Path) -> None:
    assert re.findall(MARKUP, script.read_text()) == []


@pytest.mark.parametrize(("page", "first"), PAGES.items())
def test_what_the_scripts_ask_of_a_page_is_there(page: str, first: str) -> None:
    wanted: set[str] = set()
    for script in _imported(PAGE / first, set()):
        wanted |= set(re.findall(r'(?:there|fill|say|orders)\("([a-z-]+)"', script.read_text()))

    assert wanted
    assert wanted <= set(re.findall(r'id="([a-z-]+)"', (PAGE / page).read_text()))


def _imported(script: Path, known: set[Path]) -> set[Path]:
    """Give a module and all that it imports."""
    known.add(script)
    for name in re.findall(r'^import .*"\./([a-z]+\.js)";$', script.read_text(), re.MULTILINE):
        if PAGE / name not in known:
            _imported(PAGE / name, known)
    return known
