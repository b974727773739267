"""`engine.projections` of a member: what the owner of the log does, asked for from here.

Rules: it looks like that of an engine, and each call is the owner's own, its gate included. It
stays the same object where the owner changes. Where no process owns the log, Closed is raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

from ..projections.operations import Projections, Status
from ..projections.retry import Retried
from ..stores.contract.views import Build, Parked, ProjectionDecision
from .forwarding import Forwarding

__all__ = ["MemberProjections"]

T = TypeVar("T")


class MemberProjections(Projections):
    """The projections of the owner; see `Projections`."""

    def __init__(self, forwarding: Forwarding, count: int) -> None:
        self._forwarding = forwarding
        self._count = count
        self.own: Projections | None = None
        """Those of this process's engine, while it owns the log."""

    async def _call(self, method: str, as_type: type[T], /, **values: object) -> T:
        if self.own is None:
            return await self._forwarding.call(method, as_type, **values)
        call = cast("Callable[..., Awaitable[T]]", getattr(self.own, method))
        return await call(**values)

    def __len__(self) -> int:
        """Give how many there are."""
        return self._count

    async def list(self, *, principal: str | None = None) -> Sequence[Status]:
        """Give how all of them stand."""
        return await self._call("list", list[Status], principal=principal)

    async def status(self, name: str, *, principal: str | None = None) -> Status:
        """Give how one stands."""
        return await self._call("status", Status, name=name, principal=principal)

    async def pause(self, name: str, *, reason: str = "", principal: str | None = None) -> None:
        """See `Projections.pause`."""
        await self._do("pause", name, reason, principal)

    async def resume(self, name: str, *, reason: str = "", principal: str | None = None) -> None:
        """See `Projections.resume`."""
        await self._do("resume", name, reason, principal)

    async def reset(self, name: str, *, reason: str = "", principal: str | None = None) -> None:
        """See `Projections.reset`."""
        await self._do("reset", name, reason, principal)

    async def rebuild(self, name: str, *, reason: str = "", principal: str | None = None) -> None:
        """See `Projections.rebuild`."""
        await self._do("rebuild", name, reason, principal)

    async def _do(self, method: str, name: str, reason: str, principal: str | None) -> None:
        await self._call(method, type(None), name=name, reason=reason, principal=principal)

    async def cancel(self, name: str, *, reason: str = "", principal: str | None = None) -> Build:
        """See `Projections.cancel`."""
        return await self._call("cancel", Build, name=name, reason=reason, principal=principal)

    async def drop(
        self, name: str, *, reason: str = "", principal: str | None = None
    ) -> Sequence[Build]:
        """See `Projections.drop`."""
        return await self._call(
            "drop", tuple[Build, ...], name=name, reason=reason, principal=principal
        )

    async def parked(
        self,
        name: str,
        *,
        key: str | None = None,
        after: int = 0,
        limit: int = 100,
        principal: str | None = None,
    ) -> Sequence[Parked]:
        """See `Projections.parked`."""
        return await self._call(
            "parked",
            tuple[Parked, ...],
            name=name,
            key=key,
            after=after,
            limit=limit,
            principal=principal,
        )

    async def retry(
        self,
        name: str,
        *,
        key: str | None = None,
        reason: str = "",
        principal: str | None = None,
    ) -> Retried:
        """See `Projections.retry`."""
        # An owner of an earlier release takes no reason.
        more = {"reason": reason} if reason else {}
        return await self._call("retry", Retried, name=name, key=key, principal=principal, **more)

    async def skip(
        self, name: str, position: int, *, reason: str, principal: str | None = None
    ) -> None:
        """See `Projections.skip`."""
        await self._call(
            "skip", type(None), name=name, position=position, reason=reason, principal=principal
        )

    async def decisions(
        self, name: str, *, principal: str | None = None
    ) -> Sequence[ProjectionDecision]:
        """See `Projections.decisions`."""
        return await self._call(
            "decisions", tuple[ProjectionDecision, ...], name=name, principal=principal
        )
