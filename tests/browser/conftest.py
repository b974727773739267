"""The one browser of these tests: to start it takes longer than most of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest_asyncio

from tests.browser.chromium import INSTALL, Browser, chromium, find_chromium


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncGenerator[Browser]:
    """Run a Chromium."""
    path = find_chromium()
    assert path is not None, f"there is no Chromium: {INSTALL}"
    async with chromium(path) as running:
        yield running
