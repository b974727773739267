"""The engines of many tenants in one process: so many are open at once, and those are in use.

Rules:
- Two callers who want one tenant share one engine, and it is opened once. Who leaves while it opens
  does not keep it from the others.
- An engine in use is never closed for lack of room, nor for being idle. One whose sinks or reactors
  have something to do makes room behind those at rest, and one that erases a person as the last.
  Neither is idle. Whoever asks for one that closes waits for that, and gets a new one: no two
  engines of a tenant have its store at a time.
- No more than `open_max` are open, those that close included. If all are in use, Overloaded is
  raised at once.
- What happens to one tenant (damage, failure, a store that hangs) is told to who asks for it, and
  keeps nobody from the others: if one closes for long, another one makes room.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from os import PathLike
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec

from ..engine import Engine
from ..errors import Closed, InvalidInput, Overloaded, UsageError
from ..model.given import as_instance, as_seconds, as_whole
from ..runtime.futures import retrieve
from ..runtime.loops import running_loop
from ..runtime.ports import Ports, Worker
from ..runtime.safely import described, safe_logger
from ..runtime.uncancelled import uncancelled
from ..stores.contract.outside import TellsNextTimer
from ..stores.urls import open_backend
from .names import check_name, stores_of
from .opening import started
from .tenant import Tenant
from .waking import Waking

__all__ = ["Tenants", "TenantsStatistics"]

T = TypeVar("T")

_OPENINGS_AT_ONCE: Final = 8
_OPENING_SECONDS: Final = 5.0
"""After which an engine that still opens is no longer counted among these."""
SLOW_CLOSE_SECONDS = 5.0
"""How long an engine that closes is waited for, before another one makes room."""
_WAKE_SECONDS: Final = 60.0
"""How long a tenant is used at most since its timers are due; its engine fires them anyway."""
_FIRING_SECONDS: Final = 0.02
_ELSEWHERE_SECONDS: Final = 0.5
_SETTLING_SECONDS: Final = 2.0
"""How long what follows from its timers keeps it from making way for the next one."""
_COLLECTED_AFTER: Final = 100
"""Engines that were closed, of which the memory is then freed."""


class TenantsStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of `Tenants`. Counts are since the start."""

    open: int
    """Tenants whose engines are open or opening."""
    in_use: int
    """Of these: somebody uses them."""
    closing: int
    """Engines that are closing."""
    opened: int
    """Times that an engine was opened."""
    closed: int
    """Times that one was closed."""
    refused: int
    """Times that one could not be opened."""
    overloaded: int
    """Times that a caller was turned away, as all that may be open were in use."""
    woken: int
    """Times that a tenant was opened, or kept open, since one of its timers was due."""


class Tenants:
    """An engine for each tenant: `async with Tenants(...) as tenants`.

    - `make_engine`: makes the engine of one tenant, not yet started, of the URL of its store.
    - `folder`: where each tenant has a file of its name. It is made if it is not there.
    - `database`: instead, the URL of a PostgreSQL database in which each has a schema of its own.
    - `open_max`: engines that are open at once. Each takes threads and open files. It is 200, or
      with `database` as many as the server has connections for, if these are fewer.
    - `idle_seconds`: after which an engine that nobody uses is closed; up to half as many more may
      pass.
    - `fire_timers`: whether a tenant that is closed is opened when its next timer is due, or soon
      if it had something to do still. Without it that waits until somebody asks for the tenant.
    - `ports`: what this uses of the world: its clock and its thread. Engines have their own.
    - `logger`: where it logs that an engine could not be closed.

    Raises DefinitionError for what contradicts itself. Leaving it closes all engines, which answer
    what they have accepted, and waits for that.
    """

    def __init__(
        self,
        make_engine: Callable[[str], Engine],
        *,
        folder: str | PathLike[str] | None = None,
        database: str | None = None,
        open_max: int | None = None,
        idle_seconds: float = 300.0,
        fire_timers: bool = False,
        ports: Ports | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self._make_engine = make_engine
        self._ports = as_instance("ports", ports, Ports)
        self._stores = stores_of(folder, database, self._ports)
        self._open_max = 0 if open_max is None else as_whole("open_max", open_max, 1)
        self._idle_seconds = as_seconds("idle_seconds", idle_seconds)
        self._logger = safe_logger(logger)
        self._fires = fire_timers
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()
        """Those that are open or opening, the one that was used last at the end."""
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._slots: asyncio.Semaphore
        self._openings = asyncio.Semaphore(_OPENINGS_AT_ONCE)
        self._context: contextvars.Context | None = None
        """That of who started this: an engine is nobody's request."""
        self._worker: Worker | None = None
        self._looker: Worker | None = None
        """Reads closed tenants: one that somebody has locked keeps nobody else from his own."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """That of who entered this: engines are its own."""
        self._sweeper: asyncio.Task[None] | None = None
        self._waking: Waking | None = None
        self._waker: asyncio.Task[None] | None = None
        self._is_ending = False
        self._opened = self._closed = self._refused = self._overloaded = 0

    # -- its life -----------------------------------------------------------------------------

    async def __aenter__(self) -> Tenants:
        """Make the folder, or ask the server what it allows; begin to close what is idle.

        Raises StoreFailed or StoreRefused where a server cannot be asked.
        """
        if self._context is not None:
            raise UsageError("Tenants are entered once: make new ones")
        self._loop = running_loop("a set of Tenants")
        self._context = contextvars.copy_context()
        self._worker = self._ports.workers.start("foldline tenants")
        try:
            await self._worker.run(self._stores.prepare)
            most = partial(self._stores.open_max, self._open_max, self._logger)
            self._open_max = await self._worker.run(most)
        except BaseException:
            await self._let_go()
            raise
        self._slots = asyncio.Semaphore(self._open_max)
        self._sweeper = asyncio.create_task(self._sweep(), name="foldline tenants")
        if self._fires:
            self._looker = self._ports.workers.start("foldline tenants look")
            self._waking = Waking(
                self._wake,
                self._next_timer,
                partial(self._asked, self._stores.names),
                self._ports,
                self._logger,
                self._open_max,
            )
            self._waker = asyncio.create_task(self._waking.run(), name="foldline tenants wake")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all engines, and wait for that."""
        self._is_ending = True
        await uncancelled(self._end())

    async def _end(self) -> None:
        assert self._sweeper is not None, "what was not started does not end"
        self._sweeper.cancel()
        if self._waker is not None:
            self._waker.cancel()
            await asyncio.wait([self._waker])
        for tenant in [*self._tenants.values()]:
            self._begin_closing(tenant)
        while self._closing:
            await asyncio.wait([*self._closing.values()])
        await self._let_go()

    async def _let_go(self) -> None:
        assert self._worker is not None, "it was entered"
        await self._worker.run(self._stores.close)
        await self._worker.close()
        if self._looker is not None:
            await self._looker.close()

    # -- what callers want --------------------------------------------------------------------

    @asynccontextmanager
    async def engine(self, name: str, *, create: bool = False) -> AsyncGenerator[Engine]:
        """Give a tenant's engine for as long as it is used: `async with tenants.engine("blue")`.

        - `name`: 1 to 40 small letters, digits, `-` and `_`.
        - `create`: whether a tenant that has no store yet gets one.

        It is opened if it is not open. Raises InvalidInput for what is no name, and for a tenant
        that is not there. Raises Overloaded if `open_max` engines are open and all are in use,
        Closed when these end, and what starting the engine raises. A caller that keeps an engine
        beyond the `async with` may find it closed.
        """
        tenant = await self._take(check_name(name), create=create)
        assert tenant.running is not None, "it is open"
        tenant.is_wanted = True
        try:
            yield tenant.running
        finally:
            self._give_back(tenant)

    async def names(self) -> Sequence[str]:
        """Give the names of all tenants that have a file or a schema with a log, sorted."""
        return [*await self._asked(self._stores.names)]

    def statistics(self) -> TenantsStatistics:
        """Give the numbers as they are now."""
        return TenantsStatistics(
            open=len(self._tenants),
            in_use=sum(1 for tenant in self._tenants.values() if tenant.users),
            closing=len(self._closing),
            opened=self._opened,
            closed=self._closed,
            refused=self._refused,
            overloaded=self._overloaded,
            woken=0 if self._waking is None else self._waking.woken,
        )

    def _usable(self) -> Worker:
        if self._worker is None:
            raise UsageError("enter Tenants first: `async with Tenants(...) as tenants`")
        if asyncio.get_running_loop() is not self._loop:
            raise UsageError(
                "these Tenants were entered in another event loop: of another thread, or of the "
                "process that this one was forked from. Enter new ones here. Nothing was done"
            )
        self._check_open()
        return self._worker

    def _check_open(self) -> None:
        if self._is_ending:
            raise Closed("the tenants are closed: nothing was done")

    async def _asked(self, call: Callable[[], T], thread: Worker | None = None) -> T:
        """Run a call in a thread; one whose turn comes behind the end is refused.

        Each may wait for a server that has gone, and the end waits for all.
        """

        def in_turn() -> T:
            self._check_open()
            return call()

        worker = self._usable()
        return await (thread or worker).run(in_turn)

    async def _take(self, name: str, *, create: bool) -> Tenant:
        """Give a tenant whose engine is open, noted as used once more."""
        url, is_known = self._stores.url(name), create
        while True:
            self._usable()
            tenant = self._tenants.get(name)
            if tenant is not None and tenant.is_useless:
                # Who uses it still is told so by its answers.
                self._begin_closing(tenant)
                continue
            if (closing := self._closing.get(name)) is not None:
                await asyncio.wait([closing])
                continue
            if tenant is None and not is_known:
                is_known = await self._asked(partial(self._stores.is_there, name))
                if not is_known:
                    raise InvalidInput("there is no such tenant, and none was made")
                continue
            if tenant is None:
                tenant = self._begin_opening(name, url)
            if await self._wait_for(tenant):
                return tenant

    async def _wait_for(self, tenant: Tenant) -> bool:
        """Use a tenant as soon as it is open; give False where it is closed again by then."""
        assert tenant.opening is not None, "it was begun"
        tenant.users += 1
        try:
            await asyncio.shield(tenant.opening)
        except BaseException:
            tenant.users -= 1
            raise
        if self._tenants.get(tenant.name) is tenant:
            return True
        tenant.users -= 1
        return False

    def _give_back(self, tenant: Tenant) -> None:
        tenant.users -= 1
        tenant.used = self._ports.clock.monotonic()
        if self._tenants.get(tenant.name) is tenant:
            self._tenants.move_to_end(tenant.name)

    # -- opening and closing ------------------------------------------------------------------

    def _begin_opening(self, name: str, url: str) -> Tenant:
        self._make_room()
        tenant = self._tenants[name] = Tenant(name)
        if self._waking is not None:
            self._waking.opened(name)
        tenant.opening = self._task(self._open(tenant, url))
        return tenant

    def _make_room(self) -> None:
        if len(self._tenants) < self._open_max:
            return
        idle = self._idlest()
        if idle is None:
            self._overloaded += 1
            raise Overloaded(
                f"{self._open_max} tenants are open, and all are in use: nothing was done. Send it "
                f"again later, or raise open_max, in a database as far as it has connections"
            )
        self._begin_closing(idle)

    def _idlest(self) -> Tenant | None:
        """Give who makes room: it was used least recently, and rests if one does."""
        idle = [tenant for tenant in self._tenants.values() if tenant.is_idle]
        resting = (tenant for tenant in idle if not tenant.is_at_work)
        return next(resting, None) or min(idle, key=lambda each: each.is_erasing, default=None)

    async def _take_slot(self) -> None:
        """Wait for room: an engine that closes may have it still, and may never give it back."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SLOW_CLOSE_SECONDS):
                    await self._slots.acquire()
                    return
            idle = self._idlest()
            if idle is None:
                self._overloaded += 1
                raise Overloaded(
                    f"{self._open_max} tenants may be open: all are in use, or have been closing "
                    f"for {SLOW_CLOSE_SECONDS:g} s. Nothing was done; send it again later"
                )
            self._begin_closing(idle)

    async def _open(self, tenant: Tenant, url: str) -> None:
        try:
            await self._take_slot()
        except BaseException:
            self._drop(tenant)
            raise
        try:
            engine = await self._started(url)
        except BaseException:
            self._slots.release()
            self._refused += 1
            self._drop(tenant)
            raise
        self._opened += 1
        tenant.running, tenant.used = engine, self._ports.clock.monotonic()

    def _drop(self, tenant: Tenant) -> None:
        """Forget a tenant that could not be opened."""
        if self._tenants.get(tenant.name) is tenant:
            del self._tenants[tenant.name]
            if self._waking is not None:
                self._task(self._told_closed(tenant.name))

    async def _started(self, url: str) -> Engine:
        """Give an engine that was made and has started; a store that hangs holds up its own."""
        async with self._openings:
            patience, has_time = self._stores.patience_seconds, lambda: not self._is_ending
            starting = asyncio.ensure_future(started(self._make_engine, url, patience, has_time))
            try:
                await asyncio.wait([starting], timeout=_OPENING_SECONDS)
            except asyncio.CancelledError:
                starting.cancel()
                raise
        return await starting

    def _begin_closing(self, tenant: Tenant) -> None:
        del self._tenants[tenant.name]
        task = self._closing[tenant.name] = self._task(self._close(tenant))
        task.add_done_callback(lambda _: self._closing.pop(tenant.name))

    async def _close(self, tenant: Tenant) -> None:
        assert tenant.opening is not None, "it was begun"
        await asyncio.wait([tenant.opening])
        if tenant.running is None:
            return  # it could not be opened, and its callers know
        leaves_work = tenant.is_at_work
        try:
            await tenant.running.__aexit__(None, None, None)
        except Exception as error:
            self._logger.error("the engine of tenant %s: %s", tenant.name, described(error))
        finally:
            self._closed += 1
            self._slots.release()
            await self._told_closed(tenant.name, leaves_work=leaves_work)
            if self._closed % _COLLECTED_AFTER == 0 and gc.isenabled():
                # Each is a circle of references, and old: Python would let thousands gather.
                gc.collect()

    # -- timers -------------------------------------------------------------------------------

    async def _told_closed(self, name: str, *, leaves_work: bool = False) -> None:
        if self._waking is not None and not self._is_ending:
            with suppress(Closed):
                await self._waking.closed(name, leaves_work=leaves_work)

    async def _next_timer(self, name: str) -> int | None:
        """Give when the next timer of a closed tenant is to be tried, in µs; None for never."""
        if not await self._asked(partial(self._stores.is_there, name)):
            return None

        def look() -> int | None:
            with open_backend(self._stores.url(name)).outside(self._ports).log_reader() as log:
                return log.next_timer() if isinstance(log, TellsNextTimer) else None

        return await self._asked(look, self._looker)

    async def _wake(self, name: str) -> None:
        """Open a tenant, and use it until none of its timers is due; leave one that is gone.

        What follows from them is waited for as well, for a moment: it stays open for the rest.
        """
        if not await self._asked(partial(self._stores.is_there, name)):
            return
        tenant, clock = await self._take(name, create=False), self._ports.clock
        begun, left = clock.monotonic(), 0.0
        try:
            while clock.monotonic() - begun < _WAKE_SECONDS:
                time, pause = await self._time_of(tenant)
                left = inf if time is None else (time - clock.now()) / 1e6
                is_settled = clock.monotonic() - begun > _SETTLING_SECONDS or not tenant.is_at_work
                if left > 0 and is_settled:
                    break
                await asyncio.sleep(pause)
        finally:
            self._give_back(tenant)
        is_at_rest = self._tenants.get(name) is tenant and tenant.is_idle and not tenant.is_at_work
        if is_at_rest and not tenant.is_wanted and left > self._idle_seconds:
            self._begin_closing(tenant)

    async def _time_of(self, tenant: Tenant) -> tuple[int | None, float]:
        """Give when the next timer of an open tenant is to be tried, and when to look again."""
        assert tenant.running is not None, "it is open"
        try:
            return await tenant.running.next_timer(), _FIRING_SECONDS
        except UsageError:  # another process owns the log, and fires it; this one may be the next
            return await self._next_timer(tenant.name), _ELSEWHERE_SECONDS

    def _task(self, run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._context is not None, "it was entered"
        task = asyncio.get_running_loop().create_task(run, context=self._context.copy())
        task.add_done_callback(retrieve)
        return task

    async def _sweep(self) -> None:
        """Close what is idle, until cancelled."""
        while True:
            await asyncio.sleep(self._idle_seconds / 2)
            self.close_idle()

    def close_idle(self) -> None:
        """Begin to close each engine that was not used for `idle_seconds`, and does nothing."""
        before = self._ports.clock.monotonic() - self._idle_seconds
        for tenant in [*self._tenants.values()]:
            if tenant.is_idle and tenant.used <= before and not tenant.is_at_work:
                self._begin_closing(tenant)
