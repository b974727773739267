"""The shop live on a terminal: what waits to be shipped and what sells best, while others write.

Rules: what is shown comes from one query, asked again whenever something was committed: by a
process that takes no part in the writing, or by the one that imports. It is drawn some times a
second at most, so that it costs an import beside it little, and a slow terminal nothing. Where
there is no terminal, a line is written for what has changed. What is the matter with the shop,
rather than in it, is said as well.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from engine import Engine, LiveQuery, Onlooker, OnlookerQuery
from engine.cli.output import Output
from engine.cli.tables import Column, Table, numbers

from ..model.money import pounds
from ..shop import look_on
from ..views.catalogue import Product
from ..views.queries import GetOverview, Overview, PendingOrder

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
Draw = Callable[[Iterable[str | Table]], None]


async def watch_shop(store: str) -> None:
    """Show the shop of a store until the task is cancelled, or whoever reads it has gone."""
    task = asyncio.current_task()
    assert task is not None
    # Asked to end is asked to end, by whichever signal.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with _view(store) as view:
        async with look_on(store) as onlooker:
            status = _Beside(onlooker, store).status
            await show(onlooker.watch(GetOverview(ROWS_MAX, ROWS_MAX)), view, status)


@asynccontextmanager
async def shown(engine: Engine, title: str, doing: Callable[[], str]) -> AsyncGenerator[None]:
    """Show the shop of a running engine, and what this process is doing, while the block runs."""

    async def status(_: Overview | None) -> str:
        return doing()

    with _view(title) as view:
        answers = engine.watch(GetOverview(ROWS_MAX, ROWS_MAX))
        showing = asyncio.ensure_future(show(answers, view, status))
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
    view: _Frames | _Lines,
    status: Status,
) -> None:
    """Show answers as they come, to the last one."""
    overview: Overview | None = None
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


@contextmanager
def _view(title: str) -> Generator[_Frames | _Lines]:
    """Take the output: a terminal that can be drawn on, or whatever else it is."""
    output = Output(utf8=False)
    if (terminal := output.terminal) is None:
        yield _Lines(output)
        return
    with output.frames() as draw:
        yield _Frames(lambda: terminal.size, draw, title)


class _Frames:
    """A terminal, drawn on where something has changed."""

    seconds = FRAME_SECONDS

    def __init__(self, size: Callable[[], tuple[int, int]], draw: Draw, title: str) -> None:
        self._size = size
        self._draw = draw
        self._title = title
        self._drawn: object = None

    def show(self, overview: Overview | None, status: str) -> None:
        new = (overview, status, size := self._size())
        if new != self._drawn:
            self._drawn = new
            self._draw(lay_out_live(self._title, overview, status, *size))


class _Lines:
    """A file or a pipe: answers go there, and what is the matter to the error stream."""

    seconds = LINE_SECONDS

    def __init__(self, output: Output) -> None:
        self._output = output
        self._told = ("", "")

    def show(self, overview: Overview | None, status: str) -> None:
        self._output.rest(0)  # raises where its reader has gone
        line = "" if overview is None else line_of(overview)
        before = self._told
        self._told = (status, line)
        if status != before[0]:
            print(status, file=sys.stderr, flush=True)
        if line != before[1]:
            self._output.write(line)
            self._output.flush()


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
    title: str, overview: Overview | None, status: str, columns: int, lines: int
) -> Iterator[str | Table]:
    """Give what a terminal of this size shows; where it is too low for that, the first of it."""
    yield f"Shop  {title}"
    yield f"  {status} (Ctrl-C ends this)"
    if overview is not None:
        pending, products = _shares(overview, lines - 6)
        yield ""
        yield _pending(overview.pending, overview.newest[:pending], columns)
        yield ""
        yield _best(overview.best_sellers[:products], columns)


def _shares(overview: Overview, rows: int) -> tuple[int, int]:
    """Divide the rows between the tables; what one does not need the other has."""
    orders, products = len(overview.newest), len(overview.best_sellers)
    half = max(0, rows) // 2
    first = min(orders, max(half, rows - products))
    return max(0, first), max(0, min(products, rows - first))


def _pending(count: int, orders: Sequence[PendingOrder], width: int) -> Table:
    title = f"{count:,} {'order waits' if count == 1 else 'orders wait'} to be shipped"
    texts = {NARROW: Column("country", cut=True), WIDE: Column("invoiced", cut=True)}
    more = [column for least, column in texts.items() if width >= least]
    table = Table(Column(title, cut=True), *more, *numbers(total=0))
    for order in orders:
        cells = (order.country, order.invoiced_at.replace("T", " ")[:16])[: len(more)]
        table.add(f"  {order.order_id}", *cells, pounds(order.total))
    return table


def _best(products: Sequence[Product], width: int) -> Table:
    sold = {"sold": 0} if width >= NARROW else {}
    table = Table(Column("Best sellers", cut=True), *numbers(**sold, revenue=0))
    for product in products:
        name = product.description or product.product
        if width >= WIDE:
            name = f"{product.product:<9} {product.description}"
        cells = [f"{product.units_sold:,}"] if sold else []
        table.add(f"  {name}", *cells, pounds(product.revenue))
    return table
