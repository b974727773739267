"""What a host does with personal data at run time: erases a person, and lists who was erased.

Rules: the key is destroyed before anything else, by whoever is asked, the owner of the log or not.
An erasure that was begun is finished, also after a restart, and by another process. `authorize` is
asked first, with the action "erase" and the subject.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec

from ..authorization import Gate
from ..errors import EngineError, InvalidInput, UsageError
from ..host.entrance import Entrance
from ..limits import SUBJECT_LENGTH_MAX
from ..model.given import as_seconds, as_text
from ..model.personal import is_subject
from ..stores.contract.keys import Erasure
from .erasing import Eraser
from .vault import Vault

__all__ = ["PersonalData"]

_LOOK_SECONDS: Final = 0.05
_Told: TypeAlias = tuple[Sequence[str], Sequence[str]]
"""What holds erasures up, and which sinks were not asked."""
_TOLD_SECONDS: Final = 2.0
"""For another process to say how an erasure stands."""
REASON_LENGTH_MAX: Final = 500


class PersonalData:
    """The people of whom the events of one log have personal data."""

    def __init__(
        self, vault: Vault | None, eraser: Eraser | None, entrance: Entrance, gate: Gate | None
    ) -> None:
        self._vault = vault
        self._eraser = eraser
        self.entrance = entrance
        """Says whether the engine can be used."""
        self.erasing: Callable[[], Awaitable[_Told]] = self._erasing
        """Asks the process that finishes erasures how they stand."""
        self.is_erasing: Callable[[], bool] = self._is_erasing
        """Asks whether an erasure is under way in the engine of this process."""
        self._gate = gate

    async def erase(
        self,
        subject: str,
        *,
        reason: str = "",
        principal: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - what was begun goes on
    ) -> Erasure:
        """Erase a person: destroy the key of the data, and everything that was made of it.

        - `subject`: as the events name the person: the field that `subject=` of their class names,
          or the aggregate's stream, as in `guest:g-1`.
        - `reason`, `principal`: why, and who asks; both are kept, up to 500 characters each.
        - `timeout`: seconds to wait until views and memory have nothing of it; unlimited unless
          given. Then the erasure is given as it stands, with what it `waits_for`, and continues.

        If the key is destroyed, nobody reads the data in the log any more, nor in a copy of it.
        Then aggregates with personal data leave memory, and their snapshots become unreadable. Each
        projection of such events is rebuilt, and read models elsewhere write the rows of this
        person again. What was written about this person until then is erased too, as a second
        erasure: a handler may have read it before. A subject without data is no error: `keys` of
        the erasure is 0. Relays, and sinks that have no `erase`, keep what they were given. Sinks
        that the views know and this engine does not declare are named in `not_asked`.

        Raises InvalidInput, Forbidden, and Closed. Raises UsageError if no event of this engine has
        personal fields, and StoreFailed if the keys cannot be written. To ask again is safe.
        """
        vault = self._checked(subject, reason, principal)
        seconds = None if timeout is None else as_seconds("timeout", timeout)
        if self._gate is not None:
            await self._gate.check(principal, "erase", subject)
        try:
            begun = await vault.erase(subject, reason, principal)
        finally:
            # Whoever gives the call up: the key may be destroyed.
            if self._eraser is not None:
                self._eraser.ask()
        return await self._finished(vault, begun, seconds)

    def _checked(self, subject: str, reason: str, principal: str | None) -> Vault:
        self.entrance.check()
        if self._vault is None:
            raise UsageError(
                "no event of this engine has personal fields, so nobody can be erased: mark them "
                "as `Personal[...]`. Nothing was done"
            )
        if not is_subject(subject):
            raise InvalidInput(
                f"a subject is a text of 1 to {SUBJECT_LENGTH_MAX} printable characters: nobody "
                f"was erased"
            )
        for what, text in (("reason", reason), ("principal", principal or "")):
            if len(as_text(what, text)) > REASON_LENGTH_MAX:
                raise InvalidInput(f"{what}= has more than {REASON_LENGTH_MAX} characters")
        return self._vault

    async def _finished(self, vault: Vault, begun: Erasure, seconds: float | None) -> Erasure:
        try:
            async with asyncio.timeout(seconds):
                while True:
                    kept = await vault.store.erasures(begun.subject)
                    found = next((e for e in kept if e.number == begun.number), begun)
                    if found.finished is not None:
                        break
                    self.entrance.check()
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            waits_for, _ = await self._told()
            return msgspec.structs.replace(begun, waits_for=tuple(waits_for))
        _, not_asked = await self._told()
        return msgspec.structs.replace(found, not_asked=tuple(not_asked))

    async def _told(self) -> _Told:
        """Give how erasures stand, as far as that is told in time."""
        with suppress(EngineError, TimeoutError):
            async with asyncio.timeout(_TOLD_SECONDS):
                return await self.erasing()
        return ((), ())

    def _is_erasing(self) -> bool:
        return self._eraser is not None and self._eraser.is_under_way

    async def _erasing(self) -> _Told:
        eraser = self._eraser
        return ((), ()) if eraser is None else (eraser.waits_for, eraser.not_asked)

    async def erasures(self, *, principal: str | None = None) -> Sequence[Erasure]:
        """Give who was erased, when, why and by whom, the oldest first: the audit.

        Raises Forbidden, UsageError and Closed as `erase` does.
        """
        self.entrance.check()
        if self._vault is None:
            return ()
        if self._gate is not None:
            await self._gate.check(principal, "erase", "*")
        return [e for e in await self._vault.store.erasures() if is_subject(e.subject)]
