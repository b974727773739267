"""A host on another library than asyncio: it is told so by name, and its portal works.

The library itself is not installed here. What it leaves where its code runs is: no loop of asyncio,
and the variable by which anyio is told which library runs.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
import sniffio

from engine import (
    Aggregate,
    Archive,
    Command,
    Engine,
    Event,
    Id,
    Onlooker,
    Tenants,
    UsageError,
    applies,
    handles,
)


class Ring(Command):
    bell: Id


class Rung(Event, name="rung"):
    by: str


WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


class Bell(Aggregate, kind="bell"):
    by: str = ""

    @handles
    async def ring(self, command: Ring) -> Rung:
        return Rung(WHO.get())

    @applies
    def rung(self, event: Rung) -> None:
        self.by = event.by


def made(store: str) -> Engine:
    return Engine([Bell], store=store)


def begun(entering: Coroutine[Any, Any, Any]) -> None:
    """Run the first step of it, as another library does."""
    try:
        entering.send(None)
    finally:
        entering.close()


def test_what_is_opened_without_a_loop_of_asyncio_says_what_to_do(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/bells.db"
    opened: list[Any] = [
        made(store),
        Tenants(made, folder=tmp_path / "many"),
        Onlooker(projections=[], answers=[], store=store),
        Archive([Bell], store=store),
    ]
    for each in opened:
        with pytest.raises(UsageError, match=r"event loop of asyncio.*trio.*engine\.portal\(\)"):
            begun(each.__aenter__())

    assert list(tmp_path.iterdir()) == [], "nothing was made"
    with opened[0].portal() as portal:  # it may be started still
        assert portal.execute(Ring("b-1")).version == 1


def test_a_portal_works_where_another_library_runs(tmp_path: Path) -> None:
    """A call runs in a copy of its caller's context, by which anyio took it for trio's."""

    def host() -> str:
        sniffio.current_async_library_cvar.set("trio")
        WHO.set("ann")
        engine = made(f"sqlite:{tmp_path}/bells.db")
        with engine.portal() as portal:
            portal.execute(Ring("b-1"))
            by = portal.call(lambda: engine.state(Bell, "b-1")).by
        assert sniffio.current_async_library_cvar.get() == "trio", "it stays as it was"
        return by

    assert copy_context().run(host) == "ann", "what the caller has set goes along"
