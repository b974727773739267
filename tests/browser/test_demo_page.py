"""The demo in a real browser: a replay, a kill, and the pictures that are made of it."""

from __future__ import annotations

from pathlib import Path

from tests.browser.chromium import Browser
from tests.browser.screenshots import PICTURES, shoot
from tests.browser.shop import IN_A_BROWSER, keep_shot, shop, until_live
from tests.domain.replaying import replaying

pytestmark = IN_A_BROWSER

PICTURE_BYTES_MAX = 200_000
PNG = b"\x89PNG\r\n\x1a\n"


async def test_the_page_kills_its_process_and_shows_that_nothing_was_lost(
    browser: Browser,
) -> None:
    async with replaying(20) as served, browser.page(served.url) as page:
        orders = "Number(document.querySelector('#orders-count').innerText.replace(',', ''))"
        await page.until(f"{orders} > 100")
        assert await page.ask("document.querySelector('#kill-box').hidden") is False
        before = await page.ask(orders)
        await page.ask("document.querySelector('#kill').click()")
        assert "is dead" in await page.text("#proof-title")
        await page.until("document.querySelector('#proof-title').innerText.startsWith('✓')")
        figures = (await page.text("#proof-figures")).split("\n")
        assert dict(zip(figures[::2], figures[1::2], strict=True))["lost"] == "0"
        assert figures[-2:] == ["done twice", "0"]
        await until_live(page)
        assert await page.ask(orders) >= before
        assert "after 1 kill" in await page.text("#kill-about")
        assert await page.ask("document.querySelector('#kill').disabled") is False
        await keep_shot(page, "proof")
        await page.until(f"{orders} > {before + 20}")
        assert 0 < await page.ask("document.querySelector('#replay-bar').value") <= 1
        assert page.loads == 1


async def test_a_shop_that_is_no_demo_shows_nothing_of_it(browser: Browser, tmp_path: Path) -> None:
    async with shop(tmp_path) as served, browser.page(served.url) as page:
        await until_live(page)
        assert await page.ask("document.querySelector('#demo').hidden") is True


async def test_the_pictures_of_the_documents_are_made_by_a_command(
    browser: Browser, tmp_path: Path
) -> None:
    async with replaying(10) as served:
        await shoot(browser, served, tmp_path, orders=50)
    for name in PICTURES:
        content = (tmp_path / name).read_bytes()
        assert content.startswith(PNG)
        assert 10_000 < len(content) < PICTURE_BYTES_MAX, name
