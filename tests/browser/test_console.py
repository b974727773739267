"""The console in a real browser: its pages, the keyboard, hostile data, dark and light, a phone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.browser.chromium import Browser, Page
from tests.browser.shop import IN_A_BROWSER, contrast, keep_shot
from tests.console.served import HOSTILE
from tests.integrations.serving import ROOT, server

pytestmark = IN_A_BROWSER


async def at(page: Page, name: str, holds: str) -> None:
    """Go to a page of the console, and wait until something holds there."""
    await page.ask(f"location.hash = '#/{name}'")
    await page.until(f"document.querySelector('#page').dataset.page === '{name.split('?')[0]}'")
    await page.until(holds)


async def quiet(page: Page) -> None:
    """Hold that nothing of the log ran, and that the page complained of nothing."""
    assert page.complaints == []
    assert await page.ask("document.title.includes('·')")
    assert await page.ask("document.querySelectorAll('main img, main script').length") == 0
    assert await page.ask("document.documentElement.scrollWidth <= innerWidth + 1")


@asynccontextmanager
async def console(
    browser: Browser, folder: Path, place: str = "/ops/", *, width: int = 1_200, height: int = 1_000
) -> AsyncGenerator[Page]:
    """Open the console of an engine with parked events."""
    async with (
        server("tests.console.served:app", ROOT, NOTES=str(folder)) as served,
        browser.page(f"{served.url}{place}", width=width, height=height) as page,
    ):
        await page.until("document.querySelector('.tiles') !== null")
        yield page
        # Nothing comes from elsewhere.
        assert all(url.startswith((served.url, "data:")) for url in page.requests)


async def test_an_operator_pauses_and_resumes_a_projection(
    browser: Browser, tmp_path: Path
) -> None:
    async with console(browser, tmp_path, "/ops") as page:
        await page.prefer("light")
        assert await page.text("#who") == "ann"
        assert HOSTILE in await page.text("#title")
        await keep_shot(page, "overview-light")

        await at(page, "projections", "document.querySelector('.projection') !== null")
        await keep_shot(page, "projections-light")
        await page.ask("document.querySelector('#pause-notes').click()")
        await page.type("#ask-reason", "a look")
        await keep_shot(page, "ask-light")
        await page.ask("document.querySelector('#ask-yes').click()")
        await page.until("document.querySelector('.projection .pill').textContent === 'paused'")
        await page.ask("document.querySelector('#resume-notes').click()")
        await page.ask("document.querySelector('#ask-yes').click()")
        await page.until("document.querySelector('.projection .pill').textContent === 'live'")
        await quiet(page)


async def test_an_event_is_skipped_for_a_reason_that_the_audit_has(
    browser: Browser, tmp_path: Path
) -> None:
    async with console(browser, tmp_path) as page:
        await page.prefer("light")
        await at(page, "parked", "document.querySelectorAll('#page tbody details').length === 50")
        await page.ask("document.querySelector('#page tbody details').open = true")
        await keep_shot(page, "parked-light")
        await page.ask("document.querySelector('#page td.act button.danger').click()")
        await page.ask("document.querySelector('#ask-yes').click()")
        assert await page.ask("document.querySelector('#ask').open"), "a reason is required"
        await page.type("#ask-reason", HOSTILE)
        await page.ask("document.querySelector('#ask-yes').click()")
        await page.until("document.querySelector('#told').textContent.includes('Skip position')")
        await at(page, "audit", "document.querySelectorAll('#page tbody tr').length === 1")
        assert HOSTILE in await page.text("#page tbody tr:first-child")
        await quiet(page)


async def test_what_was_written_is_shown_as_text_by_night(browser: Browser, tmp_path: Path) -> None:
    async with console(browser, tmp_path) as page:
        await page.prefer("dark")
        await at(page, "log", "document.querySelectorAll('#log-rows tr').length === 50")
        await at(
            page,
            "log?payloads=1&stream=note%3An-1",
            "document.querySelectorAll('pre').length === 3",
        )
        await keep_shot(page, "log-dark")
        await at(page, "aggregate?stream=note%3An-1", "document.querySelector('#changes tbody tr')")
        await keep_shot(page, "aggregate-dark")
        assert await contrast(page, "#page .quiet, #page td") >= 4.5
        await quiet(page)
        for name in ("timers", "claims"):
            await at(page, name, "document.querySelectorAll('#page tbody tr').length > 3")
        await at(page, "members", "document.querySelector('#page .card p') !== null")
        await at(page, "overview", "document.querySelector('.tiles') !== null")
        await keep_shot(page, "overview-dark")
        await quiet(page)


async def test_the_keyboard_the_live_tail_and_a_phone(browser: Browser, tmp_path: Path) -> None:
    async with console(browser, tmp_path, width=390, height=844) as page:
        await page.prefer("light")
        await keep_shot(page, "overview-phone")
        await page.press("4")
        await page.until("document.querySelectorAll('#log-rows tr').length === 50")
        await keep_shot(page, "log-phone")
        await page.press("/")
        assert await page.ask("document.activeElement.id") == "log-stream"
        await page.ask("document.activeElement.blur()")
        await page.press("j")
        assert await page.ask("document.activeElement.closest('#log-rows') !== null")
        await page.press("?")
        assert await page.ask("document.querySelector('#keys').open")
        await page.press("Escape")

        await at(page, "log?live=1", "document.querySelector('.filters .danger') !== null")
        first = await page.ask("document.querySelector('#log-rows td').textContent")
        await page.ask("document.querySelector('#log-rows').firstElementChild.remove()")
        assert first != await page.ask("document.querySelector('#log-rows td').textContent")
        await at(page, "parked", "document.querySelectorAll('#page tbody details').length === 50")
        await keep_shot(page, "parked-phone")
        await at(page, "aggregate?stream=note%3An-1", "document.querySelector('#changes tbody tr')")
        await page.ask("document.querySelector('#version-to').value = '1'")
        await page.ask("document.querySelector('#version-to').dispatchEvent(new Event('input'))")
        await page.until("document.querySelector('#state').textContent.includes('text 0')")
        await keep_shot(page, "aggregate-phone")
        await quiet(page)


async def test_process_managers_under_way(browser: Browser, tmp_path: Path) -> None:
    async with (
        server("tests.console.served_sagas:app", ROOT, NOTES=str(tmp_path)) as served,
        browser.page(f"{served.url}/ops/", width=1_200, height=800) as page,
    ):
        await page.until("document.querySelector('.tiles') !== null")
        await page.prefer("light")
        await at(page, "sagas", "document.querySelectorAll('#page tbody tr').length === 3")
        assert "patience: give-up" in await page.text("#page tbody tr:last-child")
        await keep_shot(page, "sagas-light")
        await page.ask("document.querySelector('#sagas-waiting').click()")
        await page.until("document.querySelectorAll('#page tbody tr').length === 2")
        await page.ask("document.querySelector('#sagas-payloads').click()")
        await page.until("document.querySelectorAll('#page tbody pre').length === 4")
        await keep_shot(page, "sagas-payloads")
        await quiet(page)


async def test_who_is_due_is_shown_and_erased_when_it_is_said(
    browser: Browser, tmp_path: Path
) -> None:
    async with console(browser, tmp_path) as page:
        await page.prefer("light")
        await at(page, "retention", "document.querySelector('#page button.main') !== null")
        await page.ask("document.querySelector('#page button.main').click()")
        await page.until("document.querySelectorAll('#page tbody tr').length === 3")
        assert HOSTILE in await page.text("#page tbody")
        await keep_shot(page, "retention-light")
        await page.prefer("dark")
        await keep_shot(page, "retention-dark")
        await page.ask("document.querySelector('#page button.danger').click()")
        assert "2 people are erased" in await page.text("#ask-about")
        await keep_shot(page, "retention-ask-dark")
        await page.ask("document.querySelector('#ask-yes').click()")
        await page.until("document.querySelector('#told').textContent.includes('people erased: 2')")
        await at(page, "audit", "document.querySelectorAll('#page tbody tr').length >= 2")
        told = await page.text("#page tbody")
        assert "archive" in told
        assert "note closed by written" in told
        await keep_shot(page, "audit-dark")
        await quiet(page)


async def test_what_is_due_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    async with console(browser, tmp_path, width=390, height=844) as page:
        await page.prefer("light")
        await at(page, "retention?look=1", "document.querySelector('#page tbody tr') !== null")
        await keep_shot(page, "retention-phone")
        await quiet(page)
