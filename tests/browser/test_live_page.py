"""The live page in a real browser, served by a real uvicorn out of a real engine."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.browser.chromium import INSTALL, Browser, Page, chromium, find_chromium
from tests.domain.goods import ORDER
from tests.integrations.serving import ROOT, Server, server

PATH = find_chromium()

pytestmark = [
    # A run that must show that everything holds must not pass over this.
    pytest.mark.skipif(
        PATH is None and os.environ.get("CI") != "true",
        reason=f"there is no Chromium: {INSTALL}",
    ),
    # In one loop, since the browser is shared.
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncGenerator[Browser]:
    assert PATH is not None, f"there is no Chromium: {INSTALL}"
    async with chromium(PATH) as running:
        yield running


def shop(folder: Path, port: int = 0) -> Any:
    """Serve the shop out of a folder."""
    options = ["--port", str(port)]
    return server(
        "domain.web.app:app", ROOT, options=options, SHOP_STORE=f"sqlite:{folder / 'shop.db'}"
    )


async def create(served: Server, key: str, **changes: Any) -> str:
    """Create an order; give where it is."""
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        sent = {**ORDER, **changes}
        done = await client.post("/orders", json=sent, headers={"Idempotency-Key": key})
        assert done.status_code == 201, done.text
        return str(done.headers["Location"])


async def ship(served: Server, where: str) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        assert (await client.post(f"{where}/shipment")).status_code == 200


async def until_live(page: Page) -> None:
    await page.until("document.querySelector('#connection')?.dataset.state === 'live'")


def waiting(count: int) -> str:
    return f"document.querySelector('#pending-count').innerText === '{count}'"


async def test_an_order_appears_and_disappears_without_a_reload(
    browser: Browser, tmp_path: Path
) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await until_live(page)
        await page.until(waiting(0))
        assert await page.text("#pending-none") == "No order waits."

        where = await create(served, "checkout-77")
        await page.until(waiting(1))
        order_id = where.rpartition("/")[2]
        assert await page.rows("#pending") == [[order_id, "France", "2010-12-01 08:26", "£25.44"]]
        await page.until("document.querySelectorAll('#sellers tr').length === 2")
        assert [row[1:] for row in await page.rows("#sellers")] == [
            ["LANTERN", "6", "£20.34"],
            ["HEART", "2", "£5.10"],
        ]
        assert await page.ask("document.title") == "(1) The shop, live"

        await ship(served, where)
        await page.until(waiting(0))
        assert await page.rows("#pending") == []
        assert len(await page.rows("#sellers")) == 2
        assert (page.loads, page.complaints) == (1, [])
        requested = {url.removeprefix(served.url) for url in page.requests}
        assert requested - {"data:,"} == {"/", "/live.css", "/live.js", "/live/overview"}


async def test_what_is_written_into_the_shop_stays_text(browser: Browser, tmp_path: Path) -> None:
    evil = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
    line = {"product": "<b>1</b>", "description": evil, "quantity": 1, "unit_price": 100}
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await until_live(page)
        await create(served, "k", lines=[line], buyer={"country": "<i>France</i> & Co"})
        await page.until(waiting(1))
        await page.until("document.querySelectorAll('#sellers tr').length === 1")

        assert await page.rows("#sellers") == [["<b>1</b>", evil, "1", "£1.00"]]
        assert (await page.rows("#pending"))[0][1] == "<i>France</i> & Co"
        assert await page.ask("document.title") == "(1) The shop, live"
        assert await page.ask("document.querySelectorAll('tbody :not(tr, td)').length") == 0
        assert (page.loads, page.complaints) == (1, [])


async def test_no_other_script_runs_on_the_page(browser: Browser, tmp_path: Path) -> None:
    """What would not be stopped by the page's own care is stopped by what its answer allows."""
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await until_live(page)
        for attempt in (
            "document.body.innerHTML = '<b>taken</b>'",
            "eval('1')",
            "Object.assign(document.createElement('script'), {text: '1'})",
        ):
            with pytest.raises(RuntimeError, match="TypeError|EvalError"):
                await page.ask(attempt)
        await page.ask(
            "document.body.append(Object.assign(document.createElement('img'),"
            " {src: 'http://127.0.0.1:9/'}))"
        )
        while not any("Content Security Policy" in told for told in page.complaints):
            await page.ask("1")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_the_page_says_that_the_connection_is_lost_and_recovers(
    browser: Browser, tmp_path: Path, how: signal.Signals
) -> None:
    async with shop(tmp_path) as served:
        await create(served, "one")
        async with browser.page(served.url) as page:
            await until_live(page)
            await page.until(waiting(1))
            await served.end(how)
            await page.until("document.querySelector('#connection').dataset.state === 'lost'")
            assert (await page.text("#connection")).startswith("Connection lost")
            assert await page.ask("document.querySelector('main').className") == "stale"
            assert len(await page.rows("#pending")) == 1
            await keep_shot(page, "lost")

            async with shop(tmp_path, served.port) as again:
                await create(again, "two")
                await until_live(page)
                await page.until(waiting(2))
                assert await page.ask("document.querySelector('main').className") == ""
                assert page.loads == 1


async def test_the_page_fits_a_phone_and_is_readable_in_light_and_dark(
    browser: Browser, tmp_path: Path
) -> None:
    long = {"product": "85123A" * 30, "description": "HEART " * 20, "quantity": 7, "unit_price": 9}
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        for n in range(12):
            await create(served, f"k-{n}", lines=[*ORDER["lines"], {**long, "quantity": n + 1}])
        await page.until(waiting(12))
        assert await page.text("#pending-more") == "and 2 more"
        for width, height in ((320, 640), (390, 844), (1_200, 800)):
            await page.resize(width, height)
            for scheme in ("light", "dark"):
                await page.prefer(scheme)
                assert await page.ask("document.documentElement.scrollWidth") <= width
                for selector in ("h1", "td", "th", "#connection", "#pending-more"):
                    assert await page.ask(CONTRAST % selector) >= 4.5, (scheme, selector)
                await keep_shot(page, f"{scheme}-{width}")


async def keep_shot(page: Page, name: str) -> None:
    """Keep what is seen, for a person to look at, where SCREENSHOTS names a folder."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        await page.screenshot(Path(folder) / f"{name}.png")


CONTRAST = """
(() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ink = light(getComputedStyle(document.querySelector('%s')).color);
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
})()
"""
"""The contrast of an element's text with the page, as WCAG counts it."""
