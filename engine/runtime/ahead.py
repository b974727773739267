"""What an iterator gives, made in a thread of its own one step ahead of whoever takes it.

Rules: one item is made while another is used, and no more wait. Whoever stops taking ends the
thread at its next item. What the iterator raises is raised where its next item would be taken.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from .native import NativeQueue, result_of, start_native

__all__ = ["ahead"]

T = TypeVar("T")


@contextmanager
def ahead(items: Iterator[T]) -> Generator[Iterator[T]]:
    """Give the same items; the thread has ended when the block ends."""
    asked: NativeQueue[Future[T | None] | None] = NativeQueue()

    def make() -> None:
        while (answer := asked.get()) is not None:
            try:
                found = next(items, None)
            except BaseException as error:
                answer.set_exception(error)
            else:
                answer.set_result(found)

    thread = start_native(make, "foldline-ahead")
    try:
        yield _taken(asked)
    finally:
        asked.put(None)
        thread.join()


def _taken(asked: NativeQueue[Future[T | None] | None]) -> Iterator[T]:
    coming: Future[T | None] = Future()
    asked.put(coming)
    while (item := result_of(coming)) is not None:
        coming = Future()
        asked.put(coming)
        yield item
