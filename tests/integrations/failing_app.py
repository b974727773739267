"""A FastAPI app whose engine fails when its first events are durable."""

from __future__ import annotations

from fastapi import FastAPI

from engine import Engine, Ports, Receipt
from engine.integrations.asgi import EngineMiddleware
from engine.integrations.fastapi import Execute, engine_lifespan
from tests.support.counters import Add, Counter
from tests.support.shelf import Crash


def fail(name: str) -> None:
    if name == "journal.durable":
        raise Crash


def make_engine() -> Engine:
    return Engine([Counter], ports=Ports(failpoint=fail))


app = FastAPI(lifespan=engine_lifespan(make_engine))
app.add_middleware(EngineMiddleware)


@app.post("/counters/{counter_id}")
async def add(counter_id: str, execute: Execute) -> Receipt:
    return await execute(Add(counter_id, 1))
