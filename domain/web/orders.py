"""Orders over HTTP: made, changed, shown and watched live; and products, found.

Rules: a request becomes one command or one query, and its answer one status code; nothing is
decided here. Whatever changes something takes an `Idempotency-Key`, and an `If-Match` of the
version that the client looked at.
"""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from engine import Command, Receipt, id_from_key
from engine.integrations.asgi import (
    BadRequest,
    asks_for_current,
    check_match,
    etag,
    expected_version,
    idempotency_key,
    not_modified,
    receipt_headers,
)
from engine.integrations.event_stream import EventStream, event_stream, last_event

from ..model.orders import AdjustOrderItemQuantity, CancelOrder, Order, ShipOrder
from ..model.payment import CheckOut, PayOrder
from ..model.stock import ReceiveStock
from ..model.vouchers import IssueVoucher, RedeemVoucher
from ..views.dashboard import GetDashboard
from ..views.queries import GetOrderById, GetPendingOrders, SearchCatalogue
from .bodies import (
    Cancellation,
    CheckedOut,
    Delivered,
    Done,
    NewOrder,
    NewQuantity,
    OrderPage,
    Payment,
    Products,
    UsedVoucher,
    VoucherMade,
    VoucherOffer,
)
from .requests import (
    HANDLING_SECONDS,
    PAGE_ROWS_MAX,
    Principal,
    answered,
    engine_of,
    number_asked,
    request_id,
    sent,
)

__all__ = ["OrderRoutes"]

Reply = TypeVar("Reply")


class OrderRoutes:
    """The endpoints, over one running engine."""

    def __init__(self, principal_of: Principal) -> None:
        self._principal_of = principal_of

    async def create(self, request: Request) -> Response:
        """Create an order: the same key again gets the same order, and creates nothing."""
        order = await sent(request, NewOrder)
        key = idempotency_key(request.headers, self._principal_of(request), required=True)
        assert key is not None
        command = order.command(id_from_key(key))
        receipt = await self._execute(request, command, key, command.order_id)
        return _done(201, command.order_id, receipt, Location=f"/orders/{command.order_id}")

    async def adjust(self, request: Request) -> Response:
        """Give a line of an order another quantity."""
        body = await sent(request, NewQuantity)
        order_id, line_id = request.path_params["order_id"], request.path_params["line_id"]
        return await self._change(
            request, AdjustOrderItemQuantity(order_id, line_id, body.quantity)
        )

    async def ship(self, request: Request) -> Response:
        """Ship an order."""
        return await self._change(request, ShipOrder(request.path_params["order_id"]))

    async def cancel(self, request: Request) -> Response:
        """Call an order off."""
        body = await sent(request, Cancellation) if await request.body() else Cancellation()
        return await self._change(
            request, CancelOrder(request.path_params["order_id"], body.reason, body.note)
        )

    async def check_out(self, request: Request) -> Response:
        """Check an order out: its pieces are reserved, and the answer is its bill."""
        order_id = request.path_params["order_id"]
        key = idempotency_key(request.headers, self._principal_of(request))
        receipt = await self._execute(request, CheckOut(order_id), key, order_id)
        bill = receipt.reply
        body = CheckedOut(order_id, receipt.version, receipt.token, bill.total, bill.minutes)
        return answered(200, body, **receipt_headers(receipt))

    async def pay(self, request: Request) -> Response:
        """Pay an order whose pieces are reserved; it is shipped then."""
        body = await sent(request, Payment)
        order_id = request.path_params["order_id"]
        return await self._change(request, PayOrder(order_id, body.reference, body.amount))

    async def deliver(self, request: Request) -> Response:
        """Take pieces of a product into stock."""
        body = await sent(request, NewQuantity)
        product = request.path_params["product"]
        receipt = await self._execute_keyed(request, ReceiveStock(product, body.quantity))
        return answered(200, Delivered(product, receipt.token), **receipt_headers(receipt))

    async def issue(self, request: Request) -> Response:
        """Issue a voucher, which so many orders may use."""
        body = await sent(request, VoucherOffer)
        voucher = request.path_params["voucher"]
        command = IssueVoucher(voucher, body.percent, body.uses)
        receipt = await self._execute_keyed(request, command)
        return answered(200, VoucherMade(voucher, receipt.token), **receipt_headers(receipt))

    async def redeem(self, request: Request) -> Response:
        """Use a voucher for an order that is not checked out yet."""
        body = await sent(request, UsedVoucher)
        order_id = request.path_params["order_id"]
        receipt = await self._execute_keyed(request, RedeemVoucher(order_id, body.voucher))
        return _done(200, order_id, receipt)

    async def _change(
        self,
        request: Request,
        command: AdjustOrderItemQuantity | ShipOrder | CancelOrder | PayOrder,
    ) -> Response:
        key = idempotency_key(request.headers, self._principal_of(request))
        receipt = await self._execute(request, command, key, command.order_id)
        return _done(200, command.order_id, receipt)

    async def _execute(
        self, request: Request, command: Command[Reply], key: str | None, order_id: str
    ) -> Receipt[Reply]:
        current = None
        if asks_for_current(request.headers):
            principal = self._principal_of(request)
            current = (await engine_of(request).state(Order, order_id, principal=principal)).version
        return await engine_of(request).execute(
            command,
            key=key,
            expected=expected_version(request.headers, current=current),
            deadline=HANDLING_SECONDS,
            principal=self._principal_of(request),
            correlation=request_id(request),
        )

    async def _execute_keyed(self, request: Request, command: Command[Reply]) -> Receipt[Reply]:
        """Execute what has no version that a client looked at."""
        principal = self._principal_of(request)
        return await engine_of(request).execute(
            command,
            key=idempotency_key(request.headers, principal, required=True),
            deadline=HANDLING_SECONDS,
            principal=principal,
            correlation=request_id(request),
        )

    async def show(self, request: Request) -> Response:
        """Show an order."""
        order = await engine_of(request).query(
            GetOrderById(request.path_params["order_id"]),
            at=request.query_params.get("at"),
            timeout=HANDLING_SECONDS,
            principal=self._principal_of(request),
        )
        if order is None:
            raise BadRequest(404, "order-unknown", "there is no such order")
        tag = etag(order.version)
        check_match(request.headers, tag)
        if not_modified(request.headers, tag):
            return Response(status_code=304, headers={"ETag": tag})
        return answered(200, order, ETag=tag)

    async def pending(self, request: Request) -> Response:
        """List the orders that wait to be shipped, by id, page by page."""
        limit = number_asked(request, "limit", 50, 1, PAGE_ROWS_MAX)
        orders = await engine_of(request).query(
            GetPendingOrders(after=request.query_params.get("after"), limit=limit),
            at=request.query_params.get("at"),
            timeout=HANDLING_SECONDS,
            principal=self._principal_of(request),
        )
        more = orders[-1].order_id if len(orders) == limit else None
        return answered(200, OrderPage(orders, more))

    async def overview(self, request: Request) -> EventStream:
        """Watch the shop: its dashboard, and again whenever that changes."""
        live = engine_of(request).watch(
            GetDashboard(),
            at=last_event(request.headers),
            timeout=HANDLING_SECONDS,
            principal=self._principal_of(request),
        )
        return await event_stream(live)

    async def catalogue(self, request: Request) -> Response:
        """Find products by their words, the best first."""
        limit = number_asked(request, "limit", 20, 1, PAGE_ROWS_MAX)
        products = await engine_of(request).query(
            SearchCatalogue(request.query_params.get("q", ""), limit),
            at=request.query_params.get("at"),
            timeout=HANDLING_SECONDS,
            principal=self._principal_of(request),
        )
        return answered(200, Products(products))


def _done(status: int, order_id: str, receipt: Receipt, **headers: str) -> Response:
    body = Done(order_id, receipt.version, receipt.token)
    return answered(status, body, **receipt_headers(receipt), **headers)
