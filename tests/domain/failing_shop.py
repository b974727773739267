"""The shop over HTTP, with an engine that fails when its first events are durable."""

from __future__ import annotations

from domain.model.orders import Order
from domain.model.rates import Rates
from domain.web.app import create_app
from engine import Engine, Ports
from tests.support.shelf import Crash


def fail(name: str) -> None:
    if name == "journal.durable":
        raise Crash


def open_engine(store: str) -> Engine:
    return Engine([Order], resources={Rates: Rates()}, ports=Ports(failpoint=fail), store=store)


app = create_app(open_engine=open_engine)
