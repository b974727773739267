"""`python -m tests.browser.screenshots docs/images`: the pictures of the live page.

Rules: they are of a real replay in a real browser, each at one moment of it: the board by day, what
a kill left by night, and an order with its versions on a phone. They are small enough to be kept
beside the documents.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.browser.chromium import INSTALL, Browser, Page, chromium, find_chromium
from tests.domain.replaying import Replayed, replaying

__all__ = ["PICTURES", "shoot"]

PICTURES = ("shop-light.png", "shop-dark.png", "shop-phone.png")
REPLAY_SECONDS = 30
ENOUGH_ORDERS = 650
ORDER = "536381"
"""It has a line that was changed."""


async def shoot(
    browser: Browser, served: Replayed, folder: Path, orders: int = ENOUGH_ORDERS
) -> None:
    """Make the pictures while the replay goes on, from so many orders on."""
    async with browser.page(served.url, width=1_280, height=1_140) as page:
        await page.prefer("light")
        await _until_full(page, orders)
        await page.screenshot(folder / "shop-light.png")
        await page.prefer("dark")
        await page.ask("document.querySelector('#kill').click()")
        await page.until("document.querySelector('#proof-title').textContent.includes('✓')")
        await page.until("document.querySelector('#connection').dataset.state === 'live'")
        await page.until("!document.querySelector('#replay').hidden")
        await page.screenshot(folder / "shop-dark.png")
    async with browser.page(f"{served.url}/#order-{ORDER}", width=390, height=844) as page:
        await page.prefer("light")
        await page.until("document.querySelectorAll('#history li').length > 2")
        await page.ask("document.querySelector('#history li:nth-child(2) button').click()")
        await page.until("document.querySelector('#changes').textContent.includes('→')")
        await page.screenshot(folder / "shop-phone.png")


async def _until_full(page: Page, enough: int) -> None:
    orders = "Number(document.querySelector('#orders-count').textContent.replace(',', ''))"
    # Some of the sample's orders are gifts, which would look like a mistake; but all things end.
    free = "document.querySelector('main').textContent.includes('£0.00')"
    over = "document.querySelector('#replay-time').textContent.includes('over')"
    await page.until(f"{orders} >= {enough} && (!{free} || {over})")


async def main(folder: Path) -> None:
    """Make the pictures."""
    path = find_chromium()
    if path is None:
        sys.exit(f"there is no Chromium: {INSTALL}")
    folder.mkdir(parents=True, exist_ok=True)
    async with chromium(path) as browser, replaying(REPLAY_SECONDS) as served:
        await shoot(browser, served, folder)
    for name in PICTURES:
        print(f"{folder / name}: {(folder / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
