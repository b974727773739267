"""Which code of a host sees what its caller has set in a context variable, and which does not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

from engine import (
    Aggregate,
    Command,
    Delivery,
    Engine,
    Envelope,
    Event,
    Id,
    Meta,
    Middleware,
    Projection,
    Query,
    QueryCall,
    Receipt,
    Row,
    Sink,
    Table,
    Views,
    answers,
    applies,
    handles,
    projects,
)
from tests.support.waiting import until

request: ContextVar[str] = ContextVar("request", default="none")
seen: dict[str, set[str]] = {}


def saw(who: str) -> None:
    seen.setdefault(who, set()).add(request.get())


class Order(Command):
    order_id: Id


class Ordered(Event, name="ordered"):
    pass


class Sale(Aggregate, kind="sale"):
    orders: int = 0

    @handles
    async def order(self, command: Order) -> Ordered:
        saw("handler")
        return Ordered()

    @applies
    def ordered(self, event: Ordered) -> None:
        saw("applier")
        self.orders += 1


class SaleRow(Row, key="sale"):
    sale: str


class Sales(Projection, name="sales", version=1):
    rows: Table[SaleRow]

    @projects
    def ordered(self, event: Ordered, meta: Meta) -> None:
        saw("projection")
        self.rows.put(SaleRow(meta.id))


class Outside(Sink, name="outside", version=1):
    async def deliver(self, batch: Sequence[Delivery[Ordered]]) -> None:
        saw("sink")


class GetSales(Query[int]):
    by: str


@answers
async def get_sales(query: GetSales, views: Views) -> int:
    saw(query.by)
    return len(await views.find(Sales.rows))


class Around(Middleware):
    async def execute(
        self, envelope: Envelope, go_on: Callable[[Envelope], Awaitable[Receipt[Any]]]
    ) -> Receipt[Any]:
        saw("middleware")
        return await go_on(envelope)

    async def query(self, call: QueryCall, go_on: Callable[[QueryCall], Awaitable[Any]]) -> Any:
        saw("middleware")
        return await go_on(call)


def authorize(principal: str | None, action: str, message: object) -> bool:
    saw("authorize")
    return True


async def test_what_runs_for_one_caller_sees_its_context_and_what_runs_for_all_does_not() -> None:
    seen.clear()
    request.set("start")
    async with Engine(
        [Sale],
        projections=[Sales, Outside],
        answers=[get_sales],
        middleware=[Around()],
        authorize=authorize,
    ) as engine:
        request.set("one")
        receipt = await engine.execute(Order("a"))
        assert await engine.query(GetSales("query"), at=receipt) == 1
        async for _ in engine.watch(GetSales("watch"), at=receipt):
            break
        await until(lambda: "sink" in seen)

    own = {name: {"one"} for name in ("middleware", "authorize", "query")}
    shared = {name: {"start"} for name in ("handler", "applier", "projection", "sink")}
    assert seen == own | shared | {"watch": {"none"}}
