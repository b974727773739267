"""A headless Chromium and its pages, driven over its DevTools protocol through a pair of pipes.

Rules: no library stands between a test and the browser, and no port is opened: Chromium reads
commands from its descriptor 3 and writes answers and events to its descriptor 4, JSON with a zero
byte behind each. Nothing here waits for a time to pass: a condition is asked of the page until it
holds. Whatever a page complains of, an exception, a refused script, is kept for the test to see.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SECONDS = 60
"""Within which anything must have happened."""
MESSAGE_BYTES_MAX = 64 * 1024 * 1024

INSTALL = "apt-get update && apt-get install -y --no-install-recommends chromium"

OPTIONS = (
    "--headless",
    "--no-sandbox",  # it cannot have one as root
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    """Give the path of a Chromium, if this machine has one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


class Browser:
    """One Chromium process."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        answers: tuple[asyncio.ReadTransport, asyncio.StreamReader],
        commands: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._transport, self._answers = answers
        self._commands = commands
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}
        self._reading = asyncio.create_task(self._read())

    async def send(self, method: str, session: str = "", **parameters: Any) -> Any:
        """Send a command; give its result."""
        self._numbers += 1
        message = {"id": self._numbers, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._numbers] = answer
        self._commands.write(json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(SECONDS):
            return await answer

    @asynccontextmanager
    async def page(
        self, url: str, *, width: int = 1_200, height: int = 800
    ) -> AsyncGenerator[Page]:
        """Open a page of this size, and close it."""
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.send("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"])
        self._pages[page.session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.send(f"{domain}.enable")
        await page.resize(width, height)
        await page.send("Page.navigate", url=url)
        try:
            yield page
        finally:
            del self._pages[page.session]
            await self.send("Target.closeTarget", targetId=target)

    async def close(self) -> None:
        """End it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self._commands.close()
        self._reading.cancel()
        await asyncio.wait([self._reading])
        self._transport.close()

    async def _read(self) -> None:
        try:
            while True:
                message = json.loads((await self._answers.readuntil(b"\0"))[:-1])
                self._take(message)
        except asyncio.IncompleteReadError:
            for answer in self._waiting.values():
                answer.set_exception(ConnectionError("Chromium has ended"))

    def _take(self, message: Any) -> None:
        if "id" not in message:
            page = self._pages.get(message.get("sessionId", ""))
            if page is not None:
                page.hear(message["method"], message["params"])
            return
        answer = self._waiting.pop(message["id"])
        if answer.done():
            return
        if "error" in message:
            answer.set_exception(RuntimeError(str(message["error"])))
        else:
            answer.set_result(message["result"])


class Page:
    """One page, as a test sees it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.session = session
        self.complaints: list[str] = []
        """Exceptions, refusals and errors, as the console has them."""
        self.loads = 0
        """How often it was loaded."""
        self.requests: list[str] = []
        self._browser = browser

    async def send(self, method: str, **parameters: Any) -> Any:
        """Send a command to this page."""
        return await self._browser.send(method, self.session, **parameters)

    def hear(self, method: str, what: Any) -> None:
        """Take an event of the browser's."""
        match method:
            case "Runtime.exceptionThrown":
                details = what["exceptionDetails"]
                thrown = details.get("exception", {}).get("description", "")
                self.complaints.append(f"{details['text']} {thrown}")
            case "Log.entryAdded" if what["entry"]["level"] == "error":
                self.complaints.append(what["entry"]["text"])
            case "Page.loadEventFired":
                self.loads += 1
            case "Network.requestWillBeSent":
                self.requests.append(what["request"]["url"])
            case _:
                pass

    async def ask(self, expression: str) -> Any:
        """Give the value of a JavaScript expression."""
        found = await self.send(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            allowUnsafeEvalBlockedByCSP=False,  # a test may do no more than the page
        )
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression holds."""
        try:
            async with asyncio.timeout(SECONDS):
                while not await self.ask(f"Boolean({expression})"):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            text = await self.ask("document.body.innerText")
            raise AssertionError(f"{expression} never held: {text}\n{self.complaints}") from None

    async def text(self, selector: str) -> str:
        """Give the text of an element, as it is shown."""
        return str(await self.ask(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def rows(self, selector: str) -> list[list[str]]:
        """Give the texts of a table's cells."""
        rows: list[list[str]] = await self.ask(
            f"[...document.querySelectorAll({json.dumps(selector + ' tr')})]"
            ".map((row) => [...row.cells].map((cell) => cell.innerText))"
        )
        return rows

    async def resize(self, width: int, height: int) -> None:
        """Give the page this size."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def prefer(self, scheme: str) -> None:
        """Be of somebody who prefers light or dark pages."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, path: Path) -> None:
        """Write what is seen into a PNG file."""
        shot = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def chromium(path: str, folder: Path) -> AsyncGenerator[Browser]:
    """Run a Chromium whose profile is in a folder."""
    loop = asyncio.get_running_loop()
    their_commands, our_commands = os.pipe()
    our_answers, their_answers = os.pipe()
    # A shell puts them where Chromium looks: only there are descriptors numbered by the caller.
    script = f'exec "$@" 3</dev/fd/{their_commands} 4>/dev/fd/{their_answers}'
    process = await asyncio.create_subprocess_exec(
        *["sh", "-c", script, "sh", path, *OPTIONS, f"--user-data-dir={folder}"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=(their_commands, their_answers),
    )
    os.close(their_commands)
    os.close(their_answers)
    answers = asyncio.StreamReader(limit=MESSAGE_BYTES_MAX)
    reading = asyncio.StreamReaderProtocol(answers)
    source, _ = await loop.connect_read_pipe(lambda: reading, os.fdopen(our_answers, "rb"))
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(our_commands, "wb")
    )
    commands = asyncio.StreamWriter(transport, protocol, None, loop)
    browser = Browser(process, (source, answers), commands)
    try:
        yield browser
    finally:
        with contextlib.suppress(ProcessLookupError):
            await browser.close()
