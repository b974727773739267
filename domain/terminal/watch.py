"""The shop live on a terminal: what waits to be shipped and what sells best, while others write.

Rules: what is shown comes from one query, asked again whenever something was committed: by a
process that takes no part in the writing, or by the one that imports. It is drawn some times a
second at most, so that it costs an import beside it little, and a slow terminal nothing. Where
there is no terminal, a line is written for what has changed. What is the matter with the shop,
rather than in it, is said as well.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from engine import Engine, LiveQuery, Onlooker, OnlookerQuery

from ..model.money import pounds
from ..shop import look_on
from ..views.catalogue import Product
from ..views.queries import GetOverview, Overview, PendingOrder
from .screen import Screen, fit

__all__ = ["lay_out_live", "line_of", "shown", "watch_shop"]

FRAME_SECONDS: Final = 0.2
"""The shortest time between two frames."""
LINE_SECONDS: Final = 1.0
"""The shortest time between two lines, where there is no terminal."""
STATUS_SECONDS: Final = 0.5
"""The longest time for which a status may be shown that is true no more."""
ROWS_MAX: Final = 30
"""Rows of a table, on the highest terminal."""
NARROW, WIDE = 44, 64
"""Columns below which a table has fewer of its own."""

Status = Callable[[Overview | None], Awaitable[str]]


async def watch_shop(store: str) -> None:
    """Show the shop of a store until the task is cancelled, or whoever reads it has gone."""
    task = asyncio.current_task()
    assert task is not None
    # Asked to end is asked to end, by whichever signal.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with Screen() as screen:
        async with look_on(store) as onlooker:
            status = _Beside(onlooker, store).status
            await show(onlooker.watch(GetOverview(ROWS_MAX, ROWS_MAX)), screen, store, status)


@asynccontextmanager
async def shown(engine: Engine, title: str, doing: Callable[[], str]) -> AsyncGenerator[None]:
    """Show the shop of a running engine, and what this process is doing, while the block runs."""

    async def status(_: Overview | None) -> str:
        return doing()

    with Screen() as screen:
        answers = engine.watch(GetOverview(ROWS_MAX, ROWS_MAX))
        showing = asyncio.ensure_future(show(answers, screen, title, status))
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.wait([showing])
    if not showing.cancelled():
        # Nobody could watch it. That did not end what was watched, and is told now.
        showing.result()


async def show(
    answers: LiveQuery[Overview] | OnlookerQuery[Overview],
    screen: Screen,
    title: str,
    status: Status,
) -> None:
    """Show answers as they come, to the last one."""
    overview: Overview | None = None
    view = _Drawn(screen, title) if screen.is_terminal else _Told(screen)
    coming: asyncio.Future[Overview] | None = None
    try:
        while True:
            view.show(overview, await status(overview))
            await asyncio.sleep(view.seconds)
            # Asked for after the rest and not before, so that it is the newest one.
            coming = coming or asyncio.ensure_future(anext(answers))
            await asyncio.wait([coming], timeout=STATUS_SECONDS)
            if coming.done():
                try:
                    overview, coming = coming.result(), None
                except StopAsyncIteration:
                    return
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait([coming])
        await answers.aclose()


class _Drawn:
    """A terminal."""

    seconds = FRAME_SECONDS

    def __init__(self, screen: Screen, title: str) -> None:
        self._screen = screen
        self._title = title

    def show(self, overview: Overview | None, status: str) -> None:
        size = self._screen.size()
        self._screen.draw(lay_out_live(self._title, overview, status, size))


class _Told:
    """A file or a pipe: answers go there, and what is the matter to the error stream."""

    seconds = LINE_SECONDS

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._told = ("", "")

    def show(self, overview: Overview | None, status: str) -> None:
        self._screen.check_read()
        line = "" if overview is None else line_of(overview)
        before = self._told
        self._told = (status, line)
        if status != before[0]:
            print(status, file=sys.stderr, flush=True)
        if line != before[1]:
            self._screen.say(line)


class _Beside:
    """How things stand between this process and the one that writes."""

    def __init__(self, onlooker: Onlooker, store: str) -> None:
        self._onlooker = onlooker
        self._store = store

    async def status(self, overview: Overview | None) -> str:
        """Say it in a line."""
        writer = self._onlooker.writer()
        if overview is None and not await self._onlooker.positions():
            if writer is None:
                return f"waiting: nobody has written {self._store} yet"
            return f"waiting: process {writer} has no views yet of {self._store}"
        if writer is None:
            return "nobody writes: this is how the shop was left"
        return f"process {writer} has the shop open"


# -- what is shown --------------------------------------------------------------------------


def line_of(overview: Overview) -> str:
    """Give an overview as one line."""
    parts = [f"{overview.pending:,} pending"]
    if overview.newest:
        order = overview.newest[0]
        parts.append(f"newest {order.order_id} {order.country} {pounds(order.total)}")
    if overview.best_sellers:
        product = overview.best_sellers[0]
        name = f"{product.product} {product.description}".rstrip()
        parts.append(f"best seller {name} {pounds(product.revenue)}")
    return " | ".join(parts)


def lay_out_live(
    title: str, overview: Overview | None, status: str, size: os.terminal_size
) -> Sequence[str]:
    """Give the lines of a screen of this size."""
    lines = [f"Shop  {title}", f"  {status}"]
    if overview is not None:
        pending, products = _shares(overview, size.lines - 8)
        lines += ["", *_pending(overview.pending, overview.newest[:pending], size.columns)]
        lines += ["", *_best(overview.best_sellers[:products], size.columns)]
    lines = lines[: size.lines - 1]
    lines += [""] * (size.lines - 1 - len(lines))
    return [*lines, "  Ctrl-C ends it"]


def _shares(overview: Overview, rows: int) -> tuple[int, int]:
    """Divide the rows between the tables; what one does not need the other has."""
    orders, products = len(overview.newest), len(overview.best_sellers)
    half = max(0, rows) // 2
    first = min(orders, max(half, rows - products))
    return max(0, first), max(0, min(products, rows - first))


def _pending(count: int, orders: Sequence[PendingOrder], width: int) -> Iterator[str]:
    total = f"{count:,} {'order waits' if count == 1 else 'orders wait'} to be shipped"
    if width < NARROW or not orders:
        yield total
        name = max(4, width - 14)
        yield from (f"  {fit(o.order_id, name)}{pounds(o.total):>12}" for o in orders)
        return
    country = width - 30 - (18 if width >= WIDE else 0)
    yield (
        fit(total, country + 18) + (f"{'invoiced':<18}" if width >= WIDE else "") + f"{'total':>12}"
    )
    for order in orders:
        when = order.invoiced_at.replace("T", " ")[:16] if width >= WIDE else ""
        yield (
            f"  {fit(order.order_id, 15)} {fit(order.country, country)}"
            f"{when:<{18 if when else 0}}{pounds(order.total):>12}"
        )


def _best(products: Sequence[Product], width: int) -> Iterator[str]:
    sold = 10 if width >= NARROW else 0
    name = max(4, width - 16 - sold)
    yield fit("Best sellers", name + 2) + f"{'sold' if sold else '':>{sold}}{'revenue':>14}"
    for product in products:
        code = f"{fit(product.product, 9)} " if width >= WIDE else ""
        shown = fit(code + (product.description or product.product), name)
        pieces = f"{product.units_sold:>{sold},}" if sold else ""
        yield f"  {shown}{pieces}{pounds(product.revenue):>14}"
