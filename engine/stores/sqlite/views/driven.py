"""Handlers that are async, run in the thread that writes views: nothing there is waited for.

Rules: what a handler awaits of its session is done when it is asked for, so that a coroutine runs
from its beginning to its end in one step. One that waits for anything else is refused: its
transaction would wait as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from ....errors import UsageError
from ....model.rows import Scalar
from ....model.sql_projection import Sql
from .sql_tables import Statements

__all__ = ["Driven", "driven"]

T = TypeVar("T")


def driven(waits: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; raise UsageError where it waits."""
    try:
        waits.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    waits.close()
    raise UsageError(
        "a handler of a projection in SQL waits for something else than its `sql`: its transaction "
        "would wait as well. Do it elsewhere, and let an event say what came of it"
    )


class Driven:
    """The statements of a transaction, for handlers of both kinds."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    @property
    def plain(self) -> Sql:
        """The same for a handler that is not async."""
        return self._statements

    async def run(self, statement: str, values: Sequence[Scalar] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with its `?` values; give its rows, if it gives any."""
        return self._statements.run(statement, values)

    async def attempt(self, call: Callable[[], Awaitable[None] | None]) -> Exception | None:
        """Run a call; give what it raised, with all that it had changed taken back."""

        def whole() -> None:
            waits = call()
            if waits is not None:
                driven(cast("Coroutine[Any, Any, None]", waits))

        return self._statements.attempt(whole)
