"""The health of one engine, gathered: its own state, its owner's numbers, the disk, the backup.

Rules: nothing here waits for long: who does not answer in time is told of, and the rest is told all
the same. A member asks the owner of the log, as its own process folds nothing; many who ask at once
are one call. It never raises because of what it finds, and works before the start and after the end
too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from ..errors import EngineError, UsageError
from ..host.supervisor import Life
from ..model.given import as_instance
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


class HealthWatch:
    """What an engine is asked for its health."""

    def __init__(
        self,
        life: Life,
        ports: Ports,
        store: object,
        log_id: Callable[[], str],
        facts: Callable[[], Awaitable[Facts]],
        role: Callable[[], str | None],
    ) -> None:
        """Take the state, the store whose disk is looked at, and what tells the owner's numbers."""
        self.life = life
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
        return cls(wiring.life, ports, store, lambda: store.log_id, facts, lambda: None)

    @property
    def is_live(self) -> bool:
        """Whether nothing but a new start would help; read out of memory."""
        return self.life.state not in ("failed", "stopped")

    async def report(self, bounds: Health) -> HealthReport:
        """Look at everything, and hold it against the bounds."""
        running = self.life.state in ("running", "stopping")
        if not running:
            found = Found(state=self.life.state, is_live=self.is_live, role=self._role())
            return judge(found, bounds)
        (facts, owner_says), (disk, answer), backup = await asyncio.gather(
            self._ask_owner(),
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
            backup=backup,
        )
        return judge(found, bounds)

    async def _ask_owner(self) -> tuple[Facts | None, str]:
        """Give what the owner tells, or why it does not."""
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
    def is_live(self) -> bool:
        """Whether the process may go on; False if only a new start helps. It waits for nothing."""
        return self._health.is_live

    async def health(self, bounds: Health | None = None) -> HealthReport:
        """Give how the engine is: live, ready, and each check with its value and its bound.

        `bounds` are the usual ones unless given. It may be called as often as a load balancer asks:
        no log is read, the event loop is not blocked, and after a second at most it has answered,
        also if a disk, a backup's folder or the owner of the log does not. No payload, no id of an
        aggregate and no text of an error is in it. Nothing that it finds is raised.
        """
        return await self._health.report(as_instance("bounds", bounds, Health))
