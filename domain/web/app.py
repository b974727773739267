"""The shop over HTTP, as one ASGI application.

Rules: pages of other sites get no answer. An answer to a change carries a receipt; `?at=` with it
reads what was written. One process has the shop's file open: run one worker, and a proxy before it.
What each endpoint takes and gives stands in one table, which the OpenAPI document is made of too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, nullcontext

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine import Engine
from engine.integrations.asgi import EngineMiddleware, OriginMiddleware
from engine.integrations.server import stopping_with

from ..shop import open_shop
from ..views.dashboard import Dashboard
from ..views.orders import OrderSummary
from .bodies import (
    Cancellation,
    CheckedOut,
    Delivered,
    Differences,
    Done,
    Health,
    NewOrder,
    NewQuantity,
    OrderAt,
    OrderHistory,
    OrderPage,
    Payment,
    Products,
    UsedVoucher,
    VoucherMade,
    VoucherOffer,
)
from .demo import Demo, DemoState, no_demo
from .health import alive, ready, statistics
from .openapi import Endpoint, Parameter, document, route_of
from .orders import OrderRoutes
from .page import page_routes
from .past import PastRoutes
from .requests import Principal, answered, nobody

__all__ = ["create_app", "endpoints"]

STATUSES = {"order-unknown": 404, "item-not-in-order": 404, "time-impossible": 422}
"""Refusals that HTTP has a status of its own for."""

AT = Parameter("at", "A receipt: the answer has what that change wrote.")
LIMIT = Parameter("limit", "Rows of a page, 1 to 200.", type="integer")
KEY = Parameter("Idempotency-Key", "Names the change: sent again, it is not done again.", "header")
KEY_REQUIRED = Parameter(KEY.name, KEY.about, "header", required=True)
MATCH = Parameter("If-Match", 'The version that was looked at, as "3" in quotes.', "header")
UNCHANGED = Parameter("If-None-Match", "The version that is known: 304 if it is still.", "header")
CHANGES = (400, 403, 404, 409, 412, 422, 503)


def create_app(
    store: str = "memory:",
    *,
    principal_of: Principal = nobody,
    open_engine: Callable[[str], Engine] = open_shop,
    body_seconds: float = 10.0,
    hosts: Collection[str] = (),
    demo: Demo | None = None,
) -> Starlette:
    """Give the shop as an ASGI application; its engine starts and drains with the lifespan.

    `hosts` are the names that it goes by, besides this machine's own. `demo` is what is played.
    """
    playing = nullcontext if demo is None else demo.playing

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with (
            open_engine(store) as engine,
            stopping_with(engine),  # a supervisor starts both again
            playing(engine),
        ):
            app.state.engine = engine
            yield

    table = endpoints(principal_of, demo)
    return Starlette(
        lifespan=lifespan,
        middleware=[
            Middleware(OriginMiddleware, hosts=hosts),
            Middleware(EngineMiddleware, body_seconds=body_seconds, statuses=STATUSES),
        ],
        routes=[
            *page_routes(),
            *(route_of(endpoint) for endpoint in table),
            _described(table),
            *([] if demo is None else [Route("/demo/kill", demo.kill, methods=["POST"])]),
        ],
    )


def endpoints(principal_of: Principal = nobody, demo: Demo | None = None) -> Sequence[Endpoint]:
    """Give all that the shop answers, but for its pages."""
    return [
        *_changes(OrderRoutes(principal_of)),
        *_checkout(OrderRoutes(principal_of)),
        *_reads(OrderRoutes(principal_of)),
        *_past(PastRoutes(principal_of)),
        *_health(),
        Endpoint(
            method="GET",
            path="/demo",
            handler=no_demo if demo is None else demo.show,
            group="health",
            answer=DemoState,
        ),
    ]


def _changes(routes: OrderRoutes) -> Sequence[Endpoint]:
    order, changes = "/orders/{order_id}", (KEY, MATCH)
    return [
        Endpoint(
            method="POST",
            path="/orders",
            handler=routes.create,
            group="orders",
            body=NewOrder,
            answer=Done,
            status=201,
            parameters=(KEY_REQUIRED,),
            refusals=CHANGES,
        ),
        Endpoint(
            method="PUT",
            path=f"{order}/lines/{{line_id}}",
            handler=routes.adjust,
            group="orders",
            body=NewQuantity,
            answer=Done,
            parameters=changes,
            refusals=CHANGES,
        ),
        Endpoint(
            method="POST",
            path=f"{order}/shipment",
            handler=routes.ship,
            group="orders",
            answer=Done,
            parameters=changes,
            refusals=CHANGES,
        ),
        Endpoint(
            method="POST",
            path=f"{order}/cancellation",
            handler=routes.cancel,
            group="orders",
            body=Cancellation,
            body_required=False,
            answer=Done,
            parameters=changes,
            refusals=CHANGES,
        ),
    ]


def _checkout(routes: OrderRoutes) -> Sequence[Endpoint]:
    order, changes = "/orders/{order_id}", (KEY, MATCH)
    return [
        Endpoint(
            method="POST",
            path=f"{order}/checkout",
            handler=routes.check_out,
            group="checkout",
            answer=CheckedOut,
            parameters=changes,
            refusals=CHANGES,
        ),
        Endpoint(
            method="POST",
            path=f"{order}/payment",
            handler=routes.pay,
            group="checkout",
            body=Payment,
            answer=Done,
            parameters=changes,
            refusals=CHANGES,
        ),
        Endpoint(
            method="POST",
            path="/stock/{product}/deliveries",
            handler=routes.deliver,
            group="checkout",
            body=NewQuantity,
            answer=Delivered,
            parameters=(KEY_REQUIRED,),
            refusals=(400, 403, 409, 422, 503),
        ),
        Endpoint(
            method="POST",
            path="/vouchers/{voucher}",
            handler=routes.issue,
            group="checkout",
            body=VoucherOffer,
            answer=VoucherMade,
            parameters=(KEY_REQUIRED,),
            refusals=(400, 403, 409, 422, 503),
        ),
        Endpoint(
            method="POST",
            path=f"{order}/voucher",
            handler=routes.redeem,
            group="checkout",
            body=UsedVoucher,
            answer=Done,
            parameters=(KEY_REQUIRED,),
            refusals=(400, 403, 409, 422, 503),
        ),
    ]


def _reads(routes: OrderRoutes) -> Sequence[Endpoint]:
    return [
        Endpoint(
            method="GET",
            path="/orders",
            handler=routes.pending,
            group="orders",
            answer=OrderPage,
            parameters=(Parameter("after", "The last order of the page before."), LIMIT, AT),
            refusals=(422, 503),
        ),
        Endpoint(
            method="GET",
            path="/orders/{order_id}",
            handler=routes.show,
            group="orders",
            answer=OrderSummary,
            parameters=(AT, UNCHANGED),
            refusals=(404, 412, 422, 503),
        ),
        Endpoint(
            method="GET",
            path="/catalogue",
            handler=routes.catalogue,
            group="catalogue",
            answer=Products,
            parameters=(Parameter("q", "Words, the last of them perhaps begun."), LIMIT, AT),
            refusals=(422, 503),
        ),
        Endpoint(
            method="GET",
            path="/live/overview",
            handler=routes.overview,
            group="live",
            answer=Dashboard,
            media_type="text/event-stream",
            refusals=(422, 503),
        ),
    ]


def _past(routes: PastRoutes) -> Sequence[Endpoint]:
    order = "/orders/{order_id}"
    versions = (
        Parameter("before", "A version, 0 for none.", type="integer"),
        Parameter("after", "Another version.", type="integer"),
    )
    return [
        Endpoint(
            method="GET",
            path=f"{order}/history",
            handler=routes.history,
            group="past",
            answer=OrderHistory,
            parameters=(Parameter("after", "The last version known.", type="integer"), LIMIT),
            refusals=(403, 404, 422),
        ),
        Endpoint(
            method="GET",
            path=f"{order}/versions/{{version}}",
            handler=routes.version,
            group="past",
            answer=OrderAt,
            refusals=(403, 404, 422),
        ),
        Endpoint(
            method="GET",
            path=f"{order}/difference",
            handler=routes.difference,
            group="past",
            answer=Differences,
            parameters=versions,
            refusals=(403, 404, 422),
        ),
    ]


def _health() -> Sequence[Endpoint]:
    return [
        Endpoint(method="GET", path="/health", handler=ready, group="health", answer=Health),
        Endpoint(method="GET", path="/health/ready", handler=ready, group="health", answer=Health),
        Endpoint(method="GET", path="/health/live", handler=alive, group="health", status=204),
        Endpoint(method="GET", path="/statistics", handler=statistics, group="health"),
    ]


def _described(table: Sequence[Endpoint]) -> Route:
    """Give the route of the OpenAPI document."""
    described = document(table, "The shop", "1")

    async def send(_: Request) -> Response:
        return answered(200, described)

    return Route("/openapi.json", send)


# For `uvicorn domain.web.app:app`; nothing is opened until it starts.
app = create_app(
    os.environ.get("SHOP_STORE", "sqlite:shop.db"),
    hosts=os.environ.get("SHOP_HOSTS", "").replace(",", " ").split(),
)
