"""Full text: what a search finds, and what nobody's text may do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.errors import InvalidInput, UsageError
from engine.limits import Limits
from tests.stores.offers import (
    OFFERED,
    Item,
    Offers,
    found,
    publish,
    views_of,
    wired_offers,
)
from tests.support.shelf import Library, Log, Wired


@pytest.fixture(params=["memory", "file"])
async def wired(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Wired]:
    path = ":memory:" if request.param == "memory" else str(tmp_path / "views.db")
    limits = Limits(query_rows=10, search_characters=60)
    async with wired_offers(Log(), path, limits=limits) as wired:
        await publish(wired, *OFFERED)
        yield wired


# -- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("lantern", {1, 2, 3, -6}),
        ("Red Lantern", {1, 3}),
        ("lantern red", {1, 3}),
        ("red glass", {1}),
        ("lant", {1, 2, 3, -6}),
        ("lant red", set()),  # the last word alone may be a beginning
        ("red lant", {1, 3}),
        ("creme brulee", {4}),
        ("Brûlée", {4}),
        ("t-light", {5}),
        ("light", {5}),
        ("light-t", set()),
        ("12", {5}),
        ("  red\t\n", {1, 3, 5}),
        ("red & lamp!", {3}),
        ("nothing", set()),
    ],
)
async def test_words_are_found_in_every_searched_field(
    wired: Wired, text: str, numbers: set[int]
) -> None:
    assert set(await found(wired, text)) == numbers


async def test_rows_are_typed_and_may_have_to_have_values(wired: Wired) -> None:
    views = views_of(wired)

    assert await views.search(Offers.items, "lamp") == [Item(3, "RED LAMP", "no lantern", 100)]
    assert await found(wired, "lantern", where={"price": 339, "note": None}) == [2]
    assert await found(wired, "lantern", where={"price": 7}) == []


# -- what people type -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("red OR blue", set()),
        ("red NOT glass", set()),
        ("NOT red", set()),
        ("words:red", set()),
        ("words : lamp", set()),
        ("{words}: lamp", set()),
        ("-red", {1, 3, 5}),
        ("^red lamp", {3}),
        ("la* lamp", set()),
        ('red"', {1, 3, 5}),
        ('"red lamp"', {3}),
        ('" OR words : "red', set()),
        ("NEAR(red lamp, 9)", set()),
        ("red) OR (blue", set()),
        ("red' ; drop table offers_things --", set()),
        ("red + lamp", {3}),
        ("red\0 lamp", {3}),
        ("red \ud800 lamp", {3}),
        ("red \u202e lamp", {3}),
        ("rank", set()),
        ("a" * 60, set()),
        ("x " * 30, set()),
    ],
)
async def test_what_people_type_is_words_and_never_syntax(
    wired: Wired, text: str, numbers: set[int]
) -> None:
    assert set(await found(wired, text)) == numbers
    assert len(await wired.rows(Offers.things)) == 6


@pytest.mark.parametrize("text", ["", "  ", "&", '"', "*", "-- ::", "\0", "\ud800", "🏮", "_"])
async def test_a_text_without_a_word_is_refused(wired: Wired, text: str) -> None:
    with pytest.raises(InvalidInput, match="has a word in it"):
        await found(wired, text)


async def test_a_text_has_a_length(wired: Wired) -> None:
    with pytest.raises(InvalidInput, match="61 characters, above Limits.search_characters at 60"):
        await found(wired, "a" * 61)
    with pytest.raises(InvalidInput, match="is a string, not an int"):
        await found(wired, 12)  # type: ignore[arg-type]


async def test_the_longest_text_can_be_searched() -> None:
    async with wired_offers(Log()) as wired:
        assert await found(wired, "a " * 250) == []
        assert await found(wired, "a-b-" * 125) == []


@pytest.mark.parametrize("page", [{"limit": 11}, {"limit": -1}, {"offset": -1}])
async def test_a_page_of_a_search_is_bounded(wired: Wired, page: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="a page has 0 to 10 rows"):
        await found(wired, "red", **page)


async def test_who_asks_for_it_may_use_the_syntax(wired: Wired) -> None:
    assert set(await found(wired, "lamp OR blue", raw=True)) == {2, 3}
    assert set(await found(wired, "words: lantern", raw=True)) == {1, 2, -6}
    assert set(await found(wired, "red NOT la*", raw=True)) == {5}
    for text in ('"red', "colour: red", "red OR", "*red", "(red"):
        with pytest.raises(InvalidInput, match="this search cannot be read"):
            await found(wired, text, raw=True)


async def test_a_table_without_searched_fields_says_how_to_have_them() -> None:
    async with Wired(Log()) as wired:
        with pytest.raises(
            UsageError, match=r"library_books is not searched.*class Book\(Row, key="
        ):
            await views_of(wired).search(Library.books, "red")
