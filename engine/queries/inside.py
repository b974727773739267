"""Inside: what an answer asks of its own engine is answered from the views that it reads itself.

Rules: so all of it is one state, whoever watches is told when the inner answer changes, and nobody
waits for a turn while he has one. A task that outlives its answer is not inside of it any more.
This file asks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeAlias

from .declared import AnswerDefinition
from .views import Views

__all__ = ["answering", "views_inside"]

ViewsFor: TypeAlias = Callable[[AnswerDefinition], Views]
"""Gives what an inner answer reads."""


class _Inside:
    """An answer that is being made."""

    def __init__(self, of: object, views_for: ViewsFor, outer: _Inside | None) -> None:
        self.of = of
        self.views_for = views_for
        self.outer = outer
        self.has_ended = False


_INSIDE: Final[ContextVar[_Inside | None]] = ContextVar("foldline-inside", default=None)


@contextmanager
def answering(of: object, views_for: ViewsFor) -> Generator[None]:
    """Let an answer be made inside; `of` is the engine whose answer it is."""
    one = _Inside(of, views_for, _INSIDE.get())
    token = _INSIDE.set(one)
    try:
        yield
    finally:
        one.has_ended = True
        _INSIDE.reset(token)


def views_inside(of: object) -> ViewsFor | None:
    """Give what the answer reads that asks now; None where it is none of this engine's."""
    one = _INSIDE.get()
    while one is not None and (one.of is not of or one.has_ended):
        one = one.outer
    return None if one is None else one.views_for
