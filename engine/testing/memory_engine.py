"""A whole engine for one test: in memory, with the test's own time and ids, and gone afterwards.

Rules: it is the real engine over the memory store; nothing of it is faked but the world outside
(clock, ids, and the watch over the loop, which a debugger would set off). It needs no test
framework; `foldline.testing.pytest_plugin` makes a fixture of it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ..engine import Engine
from ..model.aggregate import Aggregate
from ..model.projection import Projection
from ..runtime.ports import Clock, Ids, Ports
from ..stores.memory import MemoryStore
from .clocks import ManualClock, SequentialIds

__all__ = ["memory_engine"]


@asynccontextmanager
async def memory_engine(
    aggregates: Sequence[type[Aggregate]],
    *,
    projections: Sequence[type[Projection]] = (),
    answers: Sequence[Callable[..., Any]] = (),
    clock: Clock | None = None,
    ids: Ids | None = None,
    store: MemoryStore | None = None,
    **options: Any,
) -> AsyncGenerator[Engine, None]:
    """Give a running engine; `options` are those of Engine, and `debug` is on unless given.

    The clock stands still at 1970 and the ids are `id-1`, `id-2` …, unless given. Give the same
    `store` to a second engine after the first to test a restart. Raises what Engine raises.
    """
    options.setdefault("debug", True)
    options.setdefault(
        "ports",
        Ports(clock=clock or ManualClock(), ids=ids or SequentialIds(), watcher=None),
    )
    engine = Engine(
        aggregates,
        projections=projections,
        answers=answers,
        store=store or MemoryStore(),
        **options,
    )
    async with engine:
        yield engine
