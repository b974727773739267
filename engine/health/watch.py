"""The health of one engine, gathered: its own state, its owner's numbers, the disk, the backup.

Rules: nothing here waits for long: who does not answer in time is told of, and the rest is told all
the same. Who asks from another event loop than the engine's is answered by that loop, or told that
it stands still. A process that has forked from the engine's has no engine. A member asks the owner
of the log, as its own process folds nothing; many who ask at once are one call. It never raises
because of what it finds, and works before the start and after the end too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from ..errors import EngineError, UsageError
from ..host.entrance import Entrance
from ..host.supervisor import Life
from ..model.given import as_instance
from ..runtime.futures import retrieve
from ..runtime.ports import Ports
from ..runtime.shared_call import SharedCall
from ..wiring import Wiring
from .bounds import Health
from .facts import Facts, facts_of
from .looks import Looks
from .report import Found, HealthReport, judge

__all__ = ["HealthWatch", "Healthy"]

_OWNER_SECONDS: Final = 1.0
"""How long an owner may take to tell a member how it is."""
_LOOP_SECONDS: Final = 2.0
"""How long the engine's event loop may take to answer who asks from another one."""
_AT_WORK: Final = ("running", "stopping")


class HealthWatch:
    """What an engine is asked for its health."""

    def __init__(
        self,
        life: Life,
        entrance: Entrance,
        ports: Ports,
        store: object,
        log_id: Callable[[], str],
        facts: Callable[[], Awaitable[Facts]],
        role: Callable[[], str | None],
    ) -> None:
        """Take the state, the store whose disk is looked at, and what tells the owner's numbers."""
        self.life = life
        self._entrance = entrance
        self._store = store
        self._log_id = log_id
        self._facts = SharedCall(facts)
        self._role = role
        self._looks = Looks(ports)

    @classmethod
    def of(cls, wiring: Wiring) -> HealthWatch:
        """Give that of an engine that has its log alone."""
        ports, store = wiring.settings.ports, wiring.store
        facts = partial(facts_of, wiring)
        life, entrance = wiring.life, wiring.entrance
        return cls(life, entrance, ports, store, lambda: store.log_id, facts, lambda: None)

    @property
    def is_live(self) -> bool:
        """Whether nothing but a new start would help; read out of memory."""
        return self.life.state not in ("failed", "stopped") and not self._entrance.has_forked

    async def report(self, bounds: Health) -> HealthReport:
        """Look at everything, and hold it against the bounds."""
        if self._entrance.has_forked:
            return judge(Found(state="forked", is_live=False), bounds)
        if self.life.state not in _AT_WORK:
            found = Found(state=self.life.state, is_live=self.is_live, role=self._role())
            return judge(found, bounds)
        if self._entrance.is_elsewhere():
            return await self._asked_elsewhere(bounds)
        return await self._report(bounds)

    async def _asked_elsewhere(self, bounds: Health) -> HealthReport:
        """Have the engine's own event loop report, if it answers."""
        loop, report = self._entrance.loop_of_start, self.report(bounds)
        try:
            asked = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(report, loop))
        except RuntimeError:
            report.close()
            return judge(Found(state="abandoned", is_live=False), bounds)
        asked.add_done_callback(retrieve)
        await asyncio.wait([asked], timeout=_LOOP_SECONDS)
        if asked.done() and not asked.cancelled() and asked.exception() is None:
            return asked.result()
        asked.cancel()
        return judge(Found(state="blocked", is_live=self.is_live), bounds)

    async def _report(self, bounds: Health) -> HealthReport:
        (facts, owner_says), (disk, answer, disk_says), backup = await asyncio.gather(
            self.ask_owner(),
            self._looks.disk(self._store),
            self._looks.backup(bounds.backup, self._log_id()),
        )
        found = Found(
            state=self.life.state,
            is_live=self.is_live,
            role=self._role(),
            owner_says=owner_says,
            facts=facts,
            disk=disk,
            disk_answer=answer,
            disk_says=disk_says,
            backup=backup,
        )
        return judge(found, bounds)

    async def ask_owner(self) -> tuple[Facts | None, str]:
        """Give what the owner of the log tells of itself, or why it does not."""
        try:
            async with asyncio.timeout(_OWNER_SECONDS):
                return await self._facts(), ""
        except UsageError:
            return None, ""  # an owner of an earlier release, which cannot tell
        except TimeoutError:
            return None, f"the owner of the log has not answered within {_OWNER_SECONDS:g} s"
        except EngineError as error:
            return None, f"the owner of the log did not answer: {error}"

    async def close(self) -> None:
        """End what was started."""
        await self._looks.close()


class Healthy:
    """The part of an engine that tells how it is."""

    _health: HealthWatch
    _life: Life

    @property
    def is_new(self) -> bool:
        """Whether it was not started yet."""
        return self._life.state == "new"

    @property
    def failed(self) -> BaseException | None:
        """What ended the engine, if it failed."""
        return self._life.failed

    @property
    def is_displaced(self) -> bool:
        """Whether another log is where the one was that it shares: only a new engine helps."""
        return self._life.is_displaced

    @property
    def is_live(self) -> bool:
        """Whether the process may go on; False if only a new start helps. It waits for nothing."""
        return self._health.is_live

    async def health(self, bounds: Health | None = None) -> HealthReport:
        """Give how the engine is: live, ready, and each check with its value and its bound.

        `bounds` are the usual ones unless given. It may be called as often as a load balancer asks:
        no log is read, the event loop is not blocked, and after a second at most it has answered,
        also if a disk, a backup's folder or the owner of the log does not. It may be called from
        any event loop, also from one of another thread. No payload, no id of an
        aggregate and no text of an error is in it. Nothing that it finds is raised.
        """
        return await self._health.report(as_instance("bounds", bounds, Health))
