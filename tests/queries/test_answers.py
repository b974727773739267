"""Answers: found by the query's type, and waited for where they must show a position."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import pytest

from engine.errors import DefinitionError, ProjectionLag, UsageError
from engine.model.messages import Query, Receipt
from engine.queries.answers import Answers
from engine.queries.declared import answers
from engine.queries.views import Views
from tests.support.shelf import Book, Bought, Counts, Dropped, Lent, Library, Log, Wired


class GetBook(Query[Book | None]):
    id: str


class CountBooks(Query[int]):
    pass


class Unanswered(Query[int]):
    pass


class Endless(Query[int]):
    pass


@answers
async def get_book(query: GetBook, views: Views) -> Book | None:
    return await views.get(Library.books, query.id)


@answers(projections=[Counts])
async def count_books(query: CountBooks, views: Views) -> int:
    row = await views.get(Counts.totals, "all")
    return row.books if row else 0


@answers
async def endless(query: Endless, views: Views) -> int:
    await asyncio.Event().wait()
    return 0


def answers_of(wired: Wired, *functions: Callable[..., Any]) -> Answers:
    return Answers(functions, wired.views, wired.projectors, wired.limits, perf_counter)


async def test_a_query_is_answered_by_the_function_for_its_type() -> None:
    async with Wired(Log(), projections=[Library, Counts]) as wired:
        asked = answers_of(wired, get_book, count_books)
        wired.publish(Bought("b", 5))
        await wired.caught_up()

        assert await asked.ask(GetBook("b")) == Book("b", 5)
        assert await asked.ask(GetBook("z")) is None
        assert await asked.ask(CountBooks()) == 1
        with pytest.raises(UsageError, match="no answer for Unanswered"):
            await asked.ask(Unanswered())


@pytest.mark.parametrize(
    "at", [2, Receipt("shelf:1", 2, 2), Receipt("shelf:1", 2, 2).token], ids=type
)
async def test_a_query_at_a_receipt_sees_its_effect(at: Receipt | str | int) -> None:
    async with Wired(Log(), projections=[Library, Counts]) as wired:
        asked = answers_of(wired, get_book)
        stored = wired.log.write(Bought("b"), Lent("b", "ann"))
        asking = asyncio.create_task(asked.ask(GetBook("b"), at=at))
        await asyncio.sleep(0)
        assert not asking.done()
        wired.bus.publish(stored)

        book = await asking
        assert book is not None
        assert book.holder == "ann"


async def test_a_stopped_projection_fails_the_query_at_once_and_is_named() -> None:
    async with Wired(Log(), projections=[Library, Counts]) as wired:
        asked = answers_of(wired, get_book, count_books)
        wired.publish(Bought("b"), Dropped("b"), Bought("c"))
        assert await wired.projectors["counts"].wait_for(3, None)
        with pytest.raises(ProjectionLag) as caught:
            await asked.ask(GetBook("b"), at=3, timeout=60)

        assert caught.value.behind == {"library": 1}
        assert str(caught.value) == (
            "position 3 is not yet in the views: library is 2 behind, at 1 (stopped). "
            "Logging, and the command `projections list`, say why it stopped"
        )
        # Who waits for the other projection only is not kept from its answer.
        assert await asked.ask(CountBooks(), at=3) == 2


async def test_time_runs_out_and_everyone_who_lags_is_named() -> None:
    async with Wired(Log(), projections=[Library, Counts]) as wired:
        asked = answers_of(wired, get_book)
        wired.publish(Bought("b"))
        await wired.caught_up()
        with pytest.raises(ProjectionLag, match="library is 4 behind, at 1 .live., counts is 4"):
            await asked.ask(GetBook("b"), at=5, timeout=0)


async def test_a_timeout_bounds_the_answer_too() -> None:
    async with Wired(Log()) as wired:
        with pytest.raises(TimeoutError, match=r"answer to Endless had 0 s \(timeout=\)"):
            await answers_of(wired, endless).ask(Endless(), timeout=0)


async def test_a_token_that_is_none_is_refused() -> None:
    async with Wired(Log()) as wired:
        with pytest.raises(UsageError, match="not a receipt's token"):
            await answers_of(wired, get_book).ask(GetBook("b"), at="x")


async def test_a_query_without_at_needs_no_projector() -> None:
    async with Wired(Log()) as wired:
        wired.publish(Dropped("b"))
        await wired.ended()

        assert await answers_of(wired, get_book).ask(GetBook("b")) is None


# -- definitions ----------------------------------------------------------------------------------


async def no_views(query: GetBook) -> Book | None: ...
async def wrong_views(query: GetBook, views: dict[str, int]) -> Book | None: ...
async def no_query(query: int, views: Views) -> int:
    return 0


async def any_query(query: Query[int], views: Views) -> int:
    return 0


async def no_return(query: GetBook, views: Views): ...  # type: ignore[no-untyped-def]
async def wrong_return(query: GetBook, views: Views) -> int:
    return 0


async def too_wide(query: CountBooks, views: Views) -> int | None: ...
def not_async(query: GetBook, views: Views) -> Book | None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_views, "must take one query and the views"),
        (wrong_views, "must take one query and the views"),
        (no_query, "must take one query and the views"),
        (any_query, "must take one query and the views"),
        (no_return, r"annotate it `-> .*Book \| None`"),
        (wrong_return, r"annotated to return int, and the answer to GetBook is .*Book \| None"),
        (too_wide, r"annotated to return int \| None, and the answer to CountBooks is int"),
        (not_async, "write `async def`"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_answer_is_refused(function: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        answers(function)


def test_a_narrower_answer_and_local_classes_are_fine() -> None:
    class Local(Query[Sequence[Book] | None]):
        pass

    @answers
    async def narrow(query: Local, views: Views) -> list[Book]:
        return []

    @answers(projections=[])
    async def exact(query: Local, views: Views) -> Sequence[Book] | None:
        return []


async def test_answers_that_do_not_fit_together_are_refused() -> None:
    @answers
    async def again(query: GetBook, views: Views) -> Book | None:
        return None

    async def unmarked(query: GetBook, views: Views) -> Book | None:
        return None

    wired = Wired(Log())
    with pytest.raises(DefinitionError, match=r"GetBook is answered by .*again and by get_book"):
        answers_of(wired, get_book, again)
    with pytest.raises(DefinitionError, match="mark it with @answers"):
        answers_of(wired, unmarked)
    with pytest.raises(DefinitionError, match="waits for projection 'counts'"):
        answers_of(wired, count_books)
