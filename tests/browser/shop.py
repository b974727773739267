"""The shop as the browser's tests have it: served by a real uvicorn, filled over HTTP."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.chromium import INSTALL, Page, find_chromium
from tests.domain.goods import ORDER
from tests.integrations.serving import ROOT, Server, server

__all__ = ["IN_A_BROWSER", "contrast", "create", "keep_shot", "ship", "shop", "until_live"]

IN_A_BROWSER = [
    # A run that must show that everything holds must not pass over this.
    pytest.mark.skipif(
        find_chromium() is None and os.environ.get("CI") != "true",
        reason=f"there is no Chromium: {INSTALL}",
    ),
    # In one loop, since the browser is shared.
    pytest.mark.asyncio(loop_scope="package"),
]


def shop(folder: Path, port: int = 0) -> AbstractAsyncContextManager[Server]:
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
    """Ship an order."""
    async with httpx.AsyncClient(base_url=served.url, timeout=30) as client:
        assert (await client.post(f"{where}/shipment")).status_code == 200


async def until_live(page: Page) -> None:
    """Wait for the first answer."""
    await page.until("document.querySelector('#connection')?.dataset.state === 'live'")


async def keep_shot(page: Page, name: str) -> None:
    """Keep what is seen, for a person to look at, where SCREENSHOTS names a folder."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        await page.screenshot(Path(folder) / f"{name}.png")


async def contrast(page: Page, selector: str) -> float:
    """Give the contrast of an element's text with what is behind it, as WCAG counts it."""
    found: float = await page.ask(CONTRAST % selector)
    return found


CONTRAST = """
(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const element = document.querySelector('%s');
  let behind = element;
  while (behind.parentElement && numbers(getComputedStyle(behind).backgroundColor)[3] === 0) {
    behind = behind.parentElement;
  }
  const ink = light(getComputedStyle(element).color);
  const paper = light(getComputedStyle(behind).backgroundColor);
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
})()
"""
