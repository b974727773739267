"""The system's own Chromium, headless, driven by Playwright, and its pages as a test sees them.

Rules: no browser is downloaded; where there is none, the tests say how to install it. Nothing here
waits for a time to pass: a condition is asked of the page until it holds. Whatever a page complains
of, an exception, a refused script, is kept for the test to see. A test may do no more than
the page: its content security policy stands.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from playwright import async_api as playwright

SECONDS = 60
"""Within which anything must have happened."""

INSTALL = "apt-get update && apt-get install -y --no-install-recommends chromium"


def find_chromium() -> str | None:
    """Give the path of a Chromium, if this machine has one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One Chromium process."""

    def __init__(self, browser: playwright.Browser) -> None:
        self._browser = browser

    @asynccontextmanager
    async def page(
        self, url: str, *, width: int = 1_200, height: int = 800
    ) -> AsyncGenerator[Page]:
        """Open a page of this size that shares nothing with another, and close it."""
        made = await self._browser.new_page(viewport={"width": width, "height": height})
        made.set_default_timeout(SECONDS * 1e3)
        page = Page(made)
        try:
            await page.open(url)
            yield page
        finally:
            await page.close()


class Page:
    """One page, as a test sees it."""

    def __init__(self, page: playwright.Page) -> None:
        self.complaints: list[str] = []
        """Exceptions, refusals and errors, as the console has them."""
        self.loads = 0
        """How often it was loaded."""
        self.requests: list[str] = []
        self._page = page
        self._tools: Any = None  # Playwright types its answers as nothing that is known
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)
        page.on("load", self._loaded)
        page.on("request", lambda request: self.requests.append(request.url))

    def _hear(self, message: playwright.ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _loaded(self, _: playwright.Page) -> None:
        self.loads += 1

    async def open(self, url: str) -> None:
        """Go to a page; its stream of events may go on for ever."""
        await self._page.goto(url, wait_until="commit")

    async def close(self) -> None:
        """Leave it."""
        await self._page.close()

    async def ask(self, expression: str) -> Any:
        """Give the value of a JavaScript expression."""
        if self._tools is None:
            self._tools = await self._page.context.new_cdp_session(self._page)
        found: dict[str, Any] = await self._tools.send(
            "Runtime.evaluate",
            {
                "expression": expression,
                "returnByValue": True,
                "allowUnsafeEvalBlockedByCSP": False,  # as Playwright's own `evaluate` allows it
            },
        )
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression holds."""
        try:
            await self._page.wait_for_function(f"() => Boolean({expression})")
        except playwright.TimeoutError:
            text = await self.ask("document.body.innerText")
            raise AssertionError(f"{expression} never held: {text}\n{self.complaints}") from None

    async def text(self, selector: str) -> str:
        """Give the text of an element, as it is shown."""
        return await self._page.locator(selector).inner_text()

    async def rows(self, selector: str) -> list[list[str]]:
        """Give the texts of a table's cells."""
        rows: list[list[str]] = await self._page.locator(f"{selector} tr").evaluate_all(
            "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.innerText))"
        )
        return rows

    async def type(self, selector: str, words: str) -> None:
        """Give a field these words, as somebody types them."""
        await self._page.fill(selector, words)

    async def press(self, key: str) -> None:
        """Press a key, and let it go."""
        await self._page.keyboard.press(key)

    async def resize(self, width: int, height: int) -> None:
        """Give the page this size."""
        await self._page.set_viewport_size({"width": width, "height": height})

    async def prefer(self, scheme: Literal["light", "dark"]) -> None:
        """Be of somebody who prefers light or dark pages."""
        await self._page.emulate_media(color_scheme=scheme)

    async def screenshot(self, path: Path) -> None:
        """Write what is seen into a PNG file."""
        await self._page.screenshot(path=path)


@asynccontextmanager
async def chromium(path: str) -> AsyncGenerator[Browser]:
    """Run a Chromium; to start it takes seconds, so that tests share one."""
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=path,
            chromium_sandbox=False,  # it cannot have one as root
            timeout=SECONDS * 1e3,
        )
        try:
            yield Browser(browser)
        finally:
            await browser.close()
