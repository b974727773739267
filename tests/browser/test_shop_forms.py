"""What is typed into the live page: searches and new orders; and what is drawn of the figures."""

from __future__ import annotations

from pathlib import Path

from tests.browser.chromium import Browser, Page
from tests.browser.shop import IN_A_BROWSER, create, keep_shot, shop, until_live

pytestmark = IN_A_BROWSER

RED = {"product": "r", "description": "RED LANTERN", "quantity": 1, "unit_price": 250}
WHITE = {"product": "w", "description": "WHITE LANTERN", "quantity": 3, "unit_price": 100}


async def search(page: Page, words: str, found: int) -> None:
    """Type words, and wait for so many products."""
    await page.type("#search", words)
    await page.until(f"document.querySelectorAll('#found tr').length === {found}")


async def test_products_are_found_as_one_types(browser: Browser, tmp_path: Path) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await create(served, "k", lines=[RED, WHITE])
        await page.until("document.querySelectorAll('#sellers tr').length === 2")
        await search(page, "lan", 2)
        assert await page.text("#found-told") == "2 products, the best first."
        await search(page, "lantern whi", 1)
        assert (await page.rows("#found"))[0][:3] == ["WHITE LANTERN w", "£1.00", "3"]
        await search(page, 'green "OR', 0)
        await page.until("document.querySelector('#found-told').textContent.startsWith('No prod')")
        await search(page, "", 0)
        assert page.complaints == []


async def test_an_order_is_made_of_what_was_found(browser: Browser, tmp_path: Path) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await create(served, "k", lines=[RED, WHITE])
        await page.until("document.querySelectorAll('#sellers tr').length === 2")
        await search(page, "lantern", 2)
        for _ in range(2):
            await page.ask("document.querySelectorAll('#found button')[0].click()")
        await page.ask("document.querySelectorAll('#found button')[1].click()")
        await page.until("document.querySelectorAll('#basket tr').length === 2")
        await page.ask("document.querySelectorAll('#basket button')[1].click()")
        await keep_shot(page, "basket")
        await page.type("#new [name=country]", "Iceland")
        # The shop's own clock is offered, and not today.
        assert await page.ask("document.querySelector('[name=invoiced]').value.slice(0, 10)") == (
            "2010-12-01"
        )
        await page.ask("document.querySelector('#new').requestSubmit()")
        await page.until("document.querySelector('#order').open")
        await page.until("document.querySelectorAll('#history li').length === 1")
        assert "Iceland" in await page.text("#order-about")
        await page.until("document.querySelector('#pending-count').innerText === '2'")
        assert await page.ask("document.querySelectorAll('#basket tr').length") == 0
        assert page.complaints == []


async def test_an_order_of_nothing_is_refused_in_the_shops_words(
    browser: Browser, tmp_path: Path
) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await until_live(page)
        await page.ask("document.querySelector('#new').requestSubmit()")
        await page.until("document.querySelector('#new-told').textContent.includes('no lines')")
        assert await page.text("#pending-count") == "0"


async def test_the_chart_piles_countries_up_and_shows_one_alone(
    browser: Browser, tmp_path: Path
) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        bars = "document.querySelectorAll('#chart rect').length"
        await create(served, "a", buyer={"country": "France"}, lines=[RED])
        await page.until(f"{bars} === 1")
        await create(served, "b", buyer={"country": "EIRE"}, lines=[WHITE])
        next_day = "2010-12-02T09:00:00"
        await create(served, "c", buyer={"country": "EIRE"}, lines=[RED], invoiced_at=next_day)
        await page.until(f"{bars} === 3")
        assert (await page.text("#legend")).split("\n") == ["EIRE", "France"]
        titles = "[...document.querySelectorAll('#chart .day title')].map((t) => t.textContent)"
        assert (await page.ask(titles))[0] == "Wed 1 Dec, 2 orders\nEIRE £3.00\nFrance £2.50"

        coloured = "document.querySelector('#legend button:{}-child .swatch').classList[1]"
        # France was the first, and keeps its colour in the second place.
        assert await page.ask(coloured.format("last")) == "s0"
        assert await page.ask(coloured.format("first")) == "s1"

        await page.ask("document.querySelector('#legend button').click()")
        await page.until(f"{bars} === 2")
        pressed = "document.querySelector('#legend button').ariaPressed"
        assert await page.ask(pressed) == "true"
        await page.ask("document.querySelector('#legend button').click()")
        await page.until(f"{bars} === 3")
        await page.ask("document.querySelector('details').open = true")
        assert await page.rows("#days") == [
            ["Wed 1 Dec", "2", "£5.50"],
            ["Thu 2 Dec", "1", "£2.50"],
        ]
        assert page.complaints == []


async def test_the_page_of_the_api_shows_every_endpoint_and_its_schemas(
    browser: Browser, tmp_path: Path
) -> None:
    async with shop(tmp_path) as served, browser.page(f"{served.url}/docs") as page:
        await page.until("document.querySelectorAll('details .method').length > 10")
        summary = "document.querySelector('#post_orders summary').innerText"
        assert (await page.ask(summary)).split("\n")[:2] == ["POST", "/orders"]
        await page.ask("document.querySelector('#post_orders').open = true")
        assert "invoiced_at: string" in await page.text("#post_orders .schema")
        await page.ask("document.querySelector('#post_orders .schema a').click()")
        await page.until("document.querySelector('#schema-NewBuyer').open")
        await page.resize(360, 740)
        assert await page.ask("document.documentElement.scrollWidth") <= 360
        assert page.complaints == []
        requested = {url.removeprefix(served.url) for url in page.requests}
        assert {url for url in requested if not url.startswith(("/", "data:"))} == set()
