"""The past of an order over HTTP: what happened, how it was at a version, and what changed.

Rules: everything is read from the log, and nothing of the views. A version that the order does not
have is not found. Whoever asks is let see it by the engine's gate (`history`).
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from engine import HistoryPage
from engine.integrations.asgi import BadRequest

from ..model.orders import Order
from .bodies import Differences, FieldChange, Happened, OrderAt, OrderHistory
from .requests import PAGE_ROWS_MAX, Principal, answered, engine_of, number_asked

__all__ = ["PastRoutes"]

VERSION_MAX = 999_999_999


class PastRoutes:
    """The endpoints, over one running engine."""

    def __init__(self, principal_of: Principal) -> None:
        self._principal_of = principal_of

    async def history(self, request: Request) -> Response:
        """List what happened to an order, the first first, page by page."""
        after = number_asked(request, "after", 0, 0, VERSION_MAX)
        page = await self._page(
            request, after, number_asked(request, "limit", 50, 1, PAGE_ROWS_MAX)
        )
        if not page.events and not after:
            raise BadRequest(404, "order-unknown", "there is no such order")
        events = [Happened.of(event) for event in page.events]
        more = events[-1].version if page.more else None
        return answered(200, OrderHistory(events, more))

    async def version(self, request: Request) -> Response:
        """Show an order as it was at a version."""
        version = _version(request.path_params["version"])
        await self._refuse_unknown(request, version)
        order = await engine_of(request).state(
            Order,
            request.path_params["order_id"],
            version=version,
            principal=self._principal_of(request),
        )
        return answered(200, OrderAt.of(order))

    async def difference(self, request: Request) -> Response:
        """Tell what changed in an order from one version to another."""
        before, after = (
            number_asked(request, name, 0, 0, VERSION_MAX) for name in ("before", "after")
        )
        await self._refuse_unknown(request, max(before, after))
        changes = await engine_of(request).difference(
            Order,
            request.path_params["order_id"],
            before,
            after,
            principal=self._principal_of(request),
        )
        return answered(200, Differences([FieldChange.of(change) for change in changes]))

    async def _refuse_unknown(self, request: Request, version: int) -> None:
        """Raise BadRequest unless the order has the version."""
        if not (await self._page(request, max(0, version - 1), 1)).events:
            raise BadRequest(404, "version-unknown", "the order has no such version")

    async def _page(self, request: Request, after: int, limit: int) -> HistoryPage:
        return await engine_of(request).history(
            Order,
            request.path_params["order_id"],
            after=after,
            limit=limit,
            principal=self._principal_of(request),
        )


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest(422, "bad-version", f"a version is a number from 0 to {VERSION_MAX}")
    return int(text)
