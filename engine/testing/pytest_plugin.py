"""The fixture `make_engine` for pytest with pytest-asyncio.

Write `pytest_plugins = ["foldline.testing.pytest_plugin"]` in your topmost conftest.py. It is not
loaded by itself, so that the engine never changes a test run that did not ask for it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest_asyncio

from ..engine import Engine
from ..model.aggregate import Aggregate
from .memory_engine import memory_engine

__all__ = ["MakeEngine", "make_engine"]


class MakeEngine(Protocol):
    """What the fixture gives."""

    async def __call__(self, *aggregates: type[Aggregate], **options: Any) -> Engine:
        """Start an engine in memory; `options` are those of `memory_engine`."""
        ...


@pytest_asyncio.fixture
async def make_engine() -> AsyncGenerator[MakeEngine, None]:
    """Give a function that starts engines; they are stopped after the test, the last one first.

    An engine that failed by itself fails the test, with EngineFailed.
    """
    async with AsyncExitStack() as engines:

        async def make(*aggregates: type[Aggregate], **options: Any) -> Engine:
            return await engines.enter_async_context(memory_engine(aggregates, **options))

        yield make
