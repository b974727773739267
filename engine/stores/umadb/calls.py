"""Calls of a client that blocks, in threads of its own, and what their failures mean.

Rules: nothing of it blocks the event loop. A call that gets no answer in time is given up, with its
thread and its client: what it does later is nobody's any more. A call that changes nothing is made
again until the patience is over. The package's own `__init__` is not run: it takes Ctrl-C away from
its host. Nothing of a value or a key is logged.
"""

from __future__ import annotations

import asyncio
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...errors import DefinitionError, EngineError, StoreFailed, StoreRefused
from ...runtime.ports import Worker, Workers
from ..leased.holder import Away
from .address import Address

if TYPE_CHECKING:
    from umadb import Client

__all__ = ["Calls", "NotTaken", "check_installed", "umadb"]

T = TypeVar("T")

_EXTENSION: Final = "umadb.umadb"
_CLOSE_SECONDS: Final = 2.0
_PAUSE_FIRST: Final = 0.02
_PAUSE_LONGEST: Final = 0.5


class NotTaken(Exception):
    """The server refused an append because of its condition, or of its number."""


def check_installed() -> None:
    """Raise DefinitionError where the client is not installed; nothing is imported."""
    if importlib.util.find_spec("umadb") is None:
        raise DefinitionError(
            "an UmaDB store needs umadb, which is not installed: install Foldline from its clone "
            "with the extra `umadb`, as in pip install '../foldline[umadb]'"
        )


def umadb() -> ModuleType:
    """Give the client's module, without what its package does to signals."""
    loaded = sys.modules.get(_EXTENSION)
    if loaded is not None:
        return loaded
    check_installed()
    package = importlib.util.find_spec("umadb")
    assert package is not None
    places = package.submodule_search_locations
    spec = importlib.machinery.PathFinder.find_spec(_EXTENSION, places)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[_EXTENSION] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Calls:
    """A client, and the thread in which it is called; each call waits for the one before it."""

    def __init__(self, workers: Workers, address: Address, name: str) -> None:
        self._workers = workers
        self._address = address
        self._thread_name = name
        self._worker: Worker | None = None
        self._client: Client | None = None
        self.reconnects = -1
        """Clients that were made in place of another one."""
        self.wrap: Callable[[Any], Any] = lambda client: client
        """What a test puts around a client."""

    def _connected(self) -> Client:
        address = self._address
        key = None if address.key is None else address.key.revealed
        client: Client = umadb().Client(address.url, ca_path=address.ca, api_key=key)
        return client

    async def once(self, call: Callable[[Any], T], seconds: float) -> T:
        """Call once; raise Away where no answer comes in time, and NotTaken as the server says.

        A cancel is not heard before there is an answer.
        """
        worker = self._worker
        if worker is None:
            worker = self._worker = self._workers.start(self._thread_name)
        running = asyncio.ensure_future(worker.run(self._call, call))
        await asyncio.wait((running,), timeout=seconds)
        if not running.done():
            # Its thread may never come back: it is left alone, and ends with the process.
            self._worker = self._client = None
            running.cancel()
            raise Away("no answer in time")
        answer: T = running.result()
        return answer

    def _call(self, call: Callable[[Any], T]) -> T:
        try:
            if self._client is None:
                self._client = self._connected()
                self.reconnects += 1
            answer: T = call(self.wrap(self._client))
        except EngineError:
            raise
        except Exception as error:
            raise self._meant(error) from None  # others' words may quote what they were given
        return answer

    def _meant(self, error: Exception) -> Exception:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        name = self._address.name
        if "IntegrityError" in kinds:
            return NotTaken()
        if "AuthenticationError" in kinds:
            return StoreRefused(f"{name} does not take this API key: give its own, as KEY@HOST")
        if "invalid peer certificate" in str(error):
            return StoreRefused(
                f"{name}: the server does not prove who it is: give the certificate that signs it "
                f"as ca=FILE, and one to the server that names its host and signs no others"
            )
        if "CorruptionError" in kinds:
            return StoreFailed(f"{name} says that its own file is damaged", written=None)
        if isinstance(error, ValueError):
            return StoreFailed(
                f"{name} does not take what it was given: an event with its tags and its names is "
                f"larger than a page of it. Nothing was written",
                written=False,
            )
        if "transport error" in str(error):
            self._client = None  # it was never connected: TLS, or a name that is not known
        return Away("the server is out of reach, or ended the call")

    async def asked(self, call: Callable[[Any], T]) -> T:
        """Call what changes nothing, again until there is an answer; raise StoreFailed."""
        loop = asyncio.get_running_loop()
        patience = self._address.patience_seconds
        end, pause = loop.time() + patience, _PAUSE_FIRST
        while True:
            try:
                return await self.once(call, patience)
            except Away as away:
                if loop.time() + pause > end:
                    raise self.out_of_reach(away) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_LONGEST)

    def out_of_reach(self, away: Away) -> StoreFailed:
        """Say that the server is not there."""
        return StoreFailed(
            f"{self._address.name} cannot be reached: {away}. Look whether it runs, and whether it "
            f"speaks TLS as the URL says. Try again",
            written=False,
            passes=True,
        )

    async def close(self) -> None:
        """End the thread, or leave it alone where its call does not come back."""
        worker, self._worker = self._worker, None
        self._client = None
        if worker is not None:
            closing = asyncio.ensure_future(worker.close())
            await asyncio.wait((closing,), timeout=_CLOSE_SECONDS)
            closing.cancel()
