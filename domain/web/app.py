"""The shop over HTTP: orders are made, changed, shown and watched live, and products are found.

Rules: a request becomes one command or one query, and its answer one status code; nothing is
decided here. Pages of other sites get no answer. Whatever changes something takes an
`Idempotency-Key`, and an `If-Match` of the version that the client looked at. An answer to a change
carries a receipt; `?at=` with it reads what was written. One process has the shop's file open: run
one worker, and a proxy before it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine import Command, Engine, Receipt, id_from_key
from engine.integrations.asgi import (
    BadRequest,
    EngineMiddleware,
    OriginMiddleware,
    asks_for_current,
    check_match,
    decode,
    etag,
    expected_version,
    idempotency_key,
    not_modified,
    receipt_headers,
)
from engine.integrations.event_stream import EventStream, event_stream, last_event
from engine.integrations.origin import names_of

from ..model.lines import Buyer, Line
from ..model.money import Money
from ..model.orders import (
    AdjustOrderItemQuantity,
    CancelOrder,
    CancelReason,
    CreateOrder,
    Order,
    ShipOrder,
)
from ..shop import open_shop
from ..views.queries import GetOrderById, GetOverview, GetPendingOrders, SearchCatalogue
from .page import page_routes

__all__ = ["create_app"]

Principal = Callable[[Request], str | None]

STOPPING_SECONDS = 10
"""Within which open connections must end when the shop stops."""
HANDLING_SECONDS = 10.0
"""Within which a command must be decided."""
PAGE_ROWS_MAX = 200
STATUSES = {"order-unknown": 404, "item-not-in-order": 404, "time-impossible": 422}
"""Refusals that HTTP has a status of its own for."""

T = TypeVar("T")
# What turns the direction of a line, ends it, or is an order to a terminal is in no name.
Text = Annotated[
    str,
    msgspec.Meta(
        max_length=200,
        pattern=r"\A[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]*\Z",
    ),
]
LocalTime = Annotated[
    str,
    msgspec.Meta(pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\Z"),
]
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


# What is stored is read leniently, so that a newer shop may add to it; what a client sends is not.
class NewBuyer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client says of who buys."""

    country: Text
    customer_id: Text | None = None


class NewLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends of one line."""

    product: Text
    description: Text
    quantity: int
    unit_price: Money


class NewOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends to order; the order gets its id from the request's key."""

    buyer: NewBuyer
    invoiced_at: LocalTime
    lines: tuple[NewLine, ...]

    def command(self, order_id: str) -> CreateOrder:
        """Give the command that creates it."""
        buyer = Buyer(self.buyer.country, self.buyer.customer_id)
        lines = [Line(i.product, i.description, i.quantity, i.unit_price) for i in self.lines]
        return CreateOrder(order_id, buyer, self.invoiced_at, tuple(lines))


class NewQuantity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends to adjust a line."""

    quantity: int


class Cancellation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends to call an order off."""

    reason: CancelReason = CancelReason.OTHER
    note: Annotated[str, msgspec.Meta(max_length=2_000)] = ""


def nobody(_: Request) -> str | None:
    """Name nobody: put your own authentication here."""
    return None


class OrderRoutes:
    """The endpoints, over one running engine."""

    def __init__(self, principal_of: Principal) -> None:
        self._principal_of = principal_of

    async def create(self, request: Request) -> Response:
        """POST /orders: the same key again gets the same order, and creates nothing."""
        order = await _sent(request, NewOrder)
        key = idempotency_key(request.headers, self._principal_of(request), required=True)
        assert key is not None
        command = order.command(id_from_key(key))
        receipt = await self._execute(request, command, key, command.order_id)
        return _done(201, command.order_id, receipt, Location=f"/orders/{command.order_id}")

    async def adjust(self, request: Request) -> Response:
        """PUT /orders/{id}/lines/{line}."""
        body = await _sent(request, NewQuantity)
        order_id, line_id = request.path_params["order_id"], request.path_params["line_id"]
        return await self._change(
            request, AdjustOrderItemQuantity(order_id, line_id, body.quantity)
        )

    async def ship(self, request: Request) -> Response:
        """POST /orders/{id}/shipment."""
        return await self._change(request, ShipOrder(request.path_params["order_id"]))

    async def cancel(self, request: Request) -> Response:
        """POST /orders/{id}/cancellation."""
        body = await _sent(request, Cancellation) if await request.body() else Cancellation()
        return await self._change(
            request, CancelOrder(request.path_params["order_id"], body.reason, body.note)
        )

    async def _change(self, request: Request, command: Any) -> Response:
        key = idempotency_key(request.headers, self._principal_of(request))
        receipt = await self._execute(request, command, key, command.order_id)
        return _done(200, command.order_id, receipt)

    async def _execute(
        self, request: Request, command: Command, key: str | None, order_id: str
    ) -> Receipt:
        current = None
        if asks_for_current(request.headers):
            principal = self._principal_of(request)
            current = (await _engine(request).state(Order, order_id, principal=principal)).version
        return await _engine(request).execute(
            command,
            key=key,
            expected=expected_version(request.headers, current=current),
            deadline=HANDLING_SECONDS,
            principal=self._principal_of(request),
            correlation=_request_id(request),
        )

    async def show(self, request: Request) -> Response:
        """GET /orders/{id}?at=TOKEN."""
        order = await _engine(request).query(
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
        return _json(200, order, ETag=tag)

    async def pending(self, request: Request) -> Response:
        """GET /orders?after=ID&limit=50&at=TOKEN: what waits to be shipped."""
        limit = _limit(request, 50)
        orders = await _engine(request).query(
            GetPendingOrders(after=request.query_params.get("after"), limit=limit),
            at=request.query_params.get("at"),
            timeout=HANDLING_SECONDS,
            principal=self._principal_of(request),
        )
        more = orders[-1].order_id if len(orders) == limit else None
        return _json(200, {"orders": orders, "after": more})

    async def overview(self, request: Request) -> EventStream:
        """GET /live/overview: what waits and what sells best, and again whenever that changes."""
        live = _engine(request).watch(
            GetOverview(),
            at=last_event(request.headers),
            timeout=HANDLING_SECONDS,
            principal=self._principal_of(request),
        )
        return await event_stream(live)

    async def catalogue(self, request: Request) -> Response:
        """GET /catalogue?q=WORDS&limit=20&at=TOKEN: products by their words, the best first."""
        products = await _engine(request).query(
            SearchCatalogue(request.query_params.get("q", ""), _limit(request, 20)),
            at=request.query_params.get("at"),
            timeout=HANDLING_SECONDS,
            principal=self._principal_of(request),
        )
        return _json(200, {"products": products})


async def alive(_: Request) -> Response:
    """GET /health/live: whether the process answers."""
    return Response(status_code=204)


async def ready(request: Request) -> Response:
    """GET /health/ready: whether commands are run and every view is kept up."""
    engine = _engine(request)
    states = {name: p.state for name, p in engine.statistics().projectors.items()}
    fit = engine.failed is None and "stopped" not in states.values()
    return _json(200 if fit else 503, {"engine": engine.statistics().state, "views": states})


async def statistics(request: Request) -> Response:
    """GET /statistics: the engine's numbers; keep it from the outside world."""
    return _json(200, _engine(request).statistics())


def create_app(
    store: str = "memory:",
    *,
    principal_of: Principal = nobody,
    open_engine: Callable[[str], Engine] = open_shop,
    body_seconds: float = 10.0,
    hosts: Collection[str] = (),
) -> Starlette:
    """Give the shop as an ASGI application; its engine starts and drains with the lifespan.

    `hosts` are the names that it goes by, besides this machine's own.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with open_engine(store) as app.state.engine:
            yield

    routes = OrderRoutes(principal_of)
    return Starlette(
        lifespan=lifespan,
        middleware=[
            Middleware(OriginMiddleware, hosts=hosts),
            Middleware(EngineMiddleware, body_seconds=body_seconds, statuses=STATUSES),
        ],
        routes=[
            *page_routes(),
            Route("/live/overview", routes.overview),
            Route("/orders", routes.create, methods=["POST"]),
            Route("/orders", routes.pending, methods=["GET"]),
            Route("/orders/{order_id}", routes.show, methods=["GET"]),
            Route("/orders/{order_id}/lines/{line_id}", routes.adjust, methods=["PUT"]),
            Route("/orders/{order_id}/shipment", routes.ship, methods=["POST"]),
            Route("/orders/{order_id}/cancellation", routes.cancel, methods=["POST"]),
            Route("/catalogue", routes.catalogue, methods=["GET"]),
            Route("/health/live", alive),
            Route("/health/ready", ready),
            Route("/statistics", statistics),
        ],
    )


async def _sent(request: Request, cls: type[T]) -> T:
    return decode(await request.body(), cls, headers=request.headers, unique=True)


def _limit(request: Request, usual: int) -> int:
    """Give how many rows are asked for."""
    limit = request.query_params.get("limit", str(usual))
    if not (re.fullmatch("[0-9]{1,3}", limit) and 1 <= int(limit) <= PAGE_ROWS_MAX):
        raise BadRequest(422, "bad-limit", f"limit is a number from 1 to {PAGE_ROWS_MAX}")
    return int(limit)


def _request_id(request: Request) -> str | None:
    """Give a request's id, if it is one: it is stored with every event, so not any text will do."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else None


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _done(status: int, order_id: str, receipt: Receipt, **headers: str) -> Response:
    body = {"order_id": order_id, "version": receipt.version, "receipt": receipt.token}
    return _json(status, body, **receipt_headers(receipt), **headers)


def _json(status: int, body: Any, **headers: str) -> Response:
    sent: Mapping[str, str] = {**headers, "Content-Type": "application/json"}
    return Response(msgspec.json.encode(body), status_code=status, headers=sent)


def main(arguments: Sequence[str]) -> None:
    """Serve the shop: `python -m domain.web --store sqlite:shop.db --port 8000`."""
    parser = argparse.ArgumentParser(prog="python -m domain.web", description="Serve the shop.")
    parser.add_argument("--store", default="sqlite:shop.db", help="default: sqlite:shop.db")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=8000)
    parser.add_argument(
        "--name",
        type=_name,
        action="append",
        default=[],
        metavar="HOST",
        help="a name that the shop goes by, as shop.example, besides this machine's own; requests "
        "under other names are refused, since another site's page may have sent them. Give it "
        "again for several, or * behind a proxy that knows the names",
    )
    options = parser.parse_args(arguments)
    uvicorn.run(
        create_app(options.store, hosts=[*options.name, options.host]),
        host=options.host,
        port=options.port,
        # A page whose connection hangs would keep the shop from stopping for ever.
        timeout_graceful_shutdown=STOPPING_SECONDS,
    )


def _name(text: str) -> str:
    try:
        names_of([text])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65_536):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a port from 0 to 65535")
    return int(text)


# For `uvicorn domain.web.app:app`; nothing is opened until it starts.
app = create_app(
    os.environ.get("SHOP_STORE", "sqlite:shop.db"),
    hosts=os.environ.get("SHOP_HOSTS", "").replace(",", " ").split(),
)
