"""One order on the live page: its history, its versions, what differs, and what is done to it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import httpx

from tests.browser.chromium import Browser, Page
from tests.browser.shop import IN_A_BROWSER, contrast, create, keep_shot, ship, shop, until_live
from tests.domain.goods import heart
from tests.integrations.serving import Server

pytestmark = IN_A_BROWSER
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


async def adjust(served: Server, where: str, quantity: int) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        sent = await client.put(f"{where}/lines/{heart().id}", json={"quantity": quantity})
        assert sent.status_code == 200


async def open_first(page: Page) -> None:
    """Click on the order that waits."""
    await page.until("document.querySelector('#pending button')")
    await page.ask("document.querySelector('#pending button').click()")
    await page.until("document.querySelector('#order').open")


def events(count: int) -> str:
    return f"document.querySelectorAll('#history li').length === {count}"


async def slide(page: Page, which: str, version: int) -> None:
    """Move a slider, as a person does."""
    await page.ask(
        f"(() => {{ const slider = document.querySelector('#{which}'); slider.value = {version};"
        " slider.dispatchEvent(new Event('input')); })()"
    )


async def test_a_click_shows_the_history_and_a_slider_each_version(
    browser: Browser, tmp_path: Path
) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        where = await create(served, "k")
        await adjust(served, where, 5)
        await open_first(page)
        await page.until(events(2))
        assert await page.text("#order-total") == "£33.09"
        assert await page.text("#changes") == "HEART: 2 → 5 pieces\ntotal: £25.44 → £33.09"
        assert "created" in (await page.text("#history li:first-child"))

        await slide(page, "to", 1)
        await page.until("document.querySelector('#order-total').textContent === '£25.44'")
        assert (await page.text("#to-told")).startswith("1 of 2: created")
        await page.until(
            "document.querySelector('#changes').textContent.includes('2 \\u00d7 HEART')"
        )
        assert await page.ask("document.querySelectorAll('#lines input').length") == 0

        await slide(page, "to", 2)
        await slide(page, "from", 0)
        await page.until(
            "document.querySelector('#changes').textContent.includes('5 \\u00d7 HEART')"
        )
        await keep_shot(page, "order")
        assert page.complaints == []


async def test_a_quantity_is_changed_and_the_order_is_shipped(
    browser: Browser, tmp_path: Path
) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await create(served, "k")
        await open_first(page)
        await page.until("document.querySelectorAll('#lines input').length === 2")
        await page.ask(
            "(() => { const input = document.querySelectorAll('#lines input')[1];"
            " input.value = 4; input.dispatchEvent(new Event('change')); })()"
        )
        await page.until(events(2))
        assert await page.text("#order-total") == "£30.54"
        await page.until("document.querySelector('#order-told').textContent.includes('version 2')")

        await page.ask("document.querySelector('#ship').click()")
        await page.until(events(3))
        assert await page.text("#order-status") == "shipped"
        assert await page.ask("document.querySelector('#order-act').hidden") is True
        assert await page.ask("document.querySelectorAll('#lines input').length") == 0
        await page.until("document.querySelector('#shipped-count').innerText === '1'")
        assert page.complaints == []


async def test_a_refusal_is_told_in_the_shops_words(browser: Browser, tmp_path: Path) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await create(served, "k")
        await open_first(page)
        await page.until("document.querySelectorAll('#lines input').length === 2")
        await page.ask(
            "(() => { const input = document.querySelectorAll('#lines input')[1];"
            " input.value = 0; input.dispatchEvent(new Event('change')); })()"
        )
        told = "document.querySelector('#order-told').textContent"
        await page.until(f"{told}.includes('it must be 1 or more')")
        assert await page.ask("document.querySelectorAll('#history li').length") == 1


async def test_what_others_do_to_the_open_order_appears(browser: Browser, tmp_path: Path) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        where = await create(served, "k")
        await open_first(page)
        await page.until(events(1))
        await adjust(served, where, 9)
        await page.until(events(2))
        await ship(served, where)
        await page.until(events(3))
        assert await page.text("#order-status") == "shipped"


async def test_an_address_with_an_order_opens_it(browser: Browser, tmp_path: Path) -> None:
    async with shop(tmp_path) as served:
        order_id = (await create(served, "k")).rpartition("/")[2]
        async with browser.page(f"{served.url}/#order-{order_id}") as page:
            await page.until(events(1))
            assert await page.text("#order-title") == f"Order {order_id}"
            await page.ask("document.querySelector('#order').close()")
            await page.until("location.hash === ''")
        async with browser.page(f"{served.url}/#order-none") as page:
            await page.until("document.querySelector('#order-told').textContent")
            assert await page.text("#order-told") == "there is no such order"


async def test_the_order_fits_a_phone_and_is_readable_in_the_dark(
    browser: Browser, tmp_path: Path
) -> None:
    async with shop(tmp_path) as served, browser.page(served.url, width=360, height=740) as page:
        await create(served, "k")
        await until_live(page)
        await open_first(page)
        await page.until(events(1))
        for scheme in SCHEMES:
            await page.prefer(scheme)
            fits = "document.querySelector('#order').scrollWidth"
            assert await page.ask(fits) <= 360
            for selector in ("#changes ins", "#history small", "#order-status", "#ship", "#cancel"):
                assert await contrast(page, selector) >= 4.5, (scheme, selector)
            await keep_shot(page, f"order-{scheme}-360")
