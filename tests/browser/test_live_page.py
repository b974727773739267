"""The live page in a real browser, served by a real uvicorn out of a real engine."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from domain.web.page import paths
from tests.browser.chromium import Browser
from tests.browser.shop import IN_A_BROWSER, contrast, create, keep_shot, ship, shop, until_live
from tests.domain.goods import ORDER

pytestmark = IN_A_BROWSER


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
        assert await page.rows("#pending") == [[order_id, "France", "1 Dec, 08:26", "£25.44"]]
        await page.until("document.querySelectorAll('#sellers tr').length === 2")
        assert await page.rows("#sellers") == [
            ["LANTERN", "6", "£20.34"],
            ["HEART", "2", "£5.10"],
        ]
        assert await page.ask("document.title") == "(1) The shop, live"

        await ship(served, where)
        await page.until(waiting(0))
        assert await page.rows("#pending") == []
        assert [row[0] for row in await page.rows("#sent")] == [order_id]
        assert len(await page.rows("#sellers")) == 2
        assert (page.loads, page.complaints) == (1, [])
        requested = {url.removeprefix(served.url) for url in page.requests}
        assert requested - {"data:,"} <= {*paths(), "/live/overview", "/demo"}


async def test_what_is_written_into_the_shop_stays_text(browser: Browser, tmp_path: Path) -> None:
    evil = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>"
    line = {"product": "<b>1</b>", "description": evil, "quantity": 1, "unit_price": 100}
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await until_live(page)
        await create(served, "k", lines=[line], buyer={"country": "<i>France</i> & Co"})
        await page.until(waiting(1))
        await page.until("document.querySelectorAll('#sellers tr').length === 1")

        assert await page.rows("#sellers") == [[evil, "1", "£1.00"]]
        assert (await page.rows("#pending"))[0][1] == "<i>France</i> & Co"
        assert await page.ask("document.title") == "(1) The shop, live"
        assert (
            await page.ask("document.querySelectorAll('tbody :is(b, i, img, script)').length") == 0
        )
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
        assert await page.text("#pending-more") == "and 4 more"
        for width, height in ((320, 640), (390, 844), (1_200, 800)):
            await page.resize(width, height)
            for scheme in ("light", "dark"):
                await page.prefer(scheme)
                assert await page.ask("document.documentElement.scrollWidth") <= width
                for selector in ("h1", "td", "th", "dd", "#connection", "#pending-more", "a"):
                    assert await contrast(page, selector) >= 4.5, (scheme, selector)
                await keep_shot(page, f"{scheme}-{width}")
