"""What people search for is found in PostgreSQL in the rows in which SQLite finds it."""

# ruff: noqa: RUF001 - characters that look alike are what this is about

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.errors import InvalidInput
from engine.stores.contract.backend import Backend
from engine.stores.contract.views import Search
from engine.stores.memory import MemoryStore
from engine.stores.own import OwnBackend
from engine.stores.postgres.views.marks import numbered_marks
from engine.stores.postgres.views.words import VECTOR_BYTES_MAX, vector
from engine.stores.urls import open_backend
from engine.testing.conformance.given_views import (
    PAGES,
    BackendCases,
    Opened,
    Page,
    keys_of,
)
from tests.support.postgres import Server

TEXTS = [
    "RED HANGING LANTERN",
    "T-LIGHT holder, 3.5 cm",
    "http://example.org/a_b?c=d user@example.org",
    "CRÈME BRÛLÉE dish",
    "naïve café ÅNGSTRÖM",
    "ΟΔΥΣΣΕΥΣ ὀδυσσεύς Σίσυφος",
    "straße STRASSE",
    "don't can’t O'Neil",
    "3d 1e5 -7 +8 x2y3",
    "日本語のテキスト lamp",
    "ภาษาไทย",
    "Привет МИР",
    "a\\b 'quoted' \"double\" & | ! ( ) :* <->",
    "İstanbul ısı",
    "one_two three-four",
    "½ ² Ⅷ",
]
ASKED = [
    *("lantern", "lant", "light", "t-light", "t light", "3.5", "3", "5 cm", "example", "org"),
    *("user@example.org", "a_b", "creme brulee", "brul", "cafe", "angstrom", "οδυσσευς", "σισυφ"),
    *("strasse", "straße", "don't", "t", "can’t", "oneil", "3d", "1e5", "7", "x2", "日本", "語"),
    *("ไทย", "привет", "мир", "quoted", "a\\b", "double", "istanbul", "one_two", "two", "four"),
    *("&", ":*", "'", "red '", "red & lantern", "²", "½"),
]
RAW = [
    *(
        "red AND lantern",
        "red OR cafe",
        "lantern NOT red",
        '"hanging lantern"',
        '"lantern hanging"',
    ),
    *("lant*", '"red han"*', "(red OR cafe) AND lantern", "red lantern OR cafe", "café NOT (red)"),
    *("RED lantern", '"t light"', '""', '"" red'),
]
NO_SYNTAX = ['"red', "(red", "red)", "AND", "red AND", "NOT", "OR red", "*", "red + cafe", "a:red"]


class Filled(BackendCases):
    """Opens a backend as the suite does."""

    def new_backend(self, folder: Path) -> Backend:
        raise NotImplementedError

    def same_backend(self, backend: Backend) -> Backend:
        return backend


async def found(opened: Opened, search: Search) -> list[int]:
    return sorted(keys_of(await opened.views.search(PAGES, search)))


@pytest.fixture
async def both(postgres: Server) -> AsyncIterator[tuple[Opened, Opened]]:
    """The same rows in both stores."""
    server = open_backend(postgres.url(postgres.new_schema()))
    one = await Filled().filled(OwnBackend(MemoryStore(), "memory:"))
    other = await Filled().filled(server)
    for opened in (one, other):
        pages = [Page(n, text, TEXTS[-n]) for n, text in enumerate(TEXTS)]
        await opened.put({"pages": pages})
    yield one, other
    await one.close()
    await other.close()


async def test_what_is_typed_finds_the_same_rows_in_both(both: tuple[Opened, Opened]) -> None:
    one, other = both
    searches = [(text, Search(tuple(text.split()), limit=99)) for text in ASKED]
    differing = {
        text: (theirs, ours)
        for text, search in searches
        for ours, theirs in [(await found(one, search), await found(other, search))]
        if ours != theirs
    }
    assert not differing


async def test_raw_searches_find_the_same_rows_in_both(both: tuple[Opened, Opened]) -> None:
    one, other = both
    for text in RAW:
        search = Search((), text, limit=99)
        assert await found(other, search) == await found(one, search), text
    for text in NO_SYNTAX:
        with pytest.raises(InvalidInput):
            await found(other, Search((), text, limit=99))


def test_no_text_is_too_long_to_be_indexed() -> None:
    words = " ".join(f"word{n}" for n in range(200_000))

    assert len(vector([words, "x" * 100_000], trigrams=False).encode()) < 2 * VECTOR_BYTES_MAX
    assert vector(["a a", None, "b"], trigrams=False) == "'a':1,2 'b':5"


@pytest.mark.parametrize(
    ("statement", "numbered"),
    [
        ("SELECT ?, '?', \"?\" WHERE a = ?", ("SELECT $1, '?', \"?\" WHERE a = $2", 2)),
        ("SELECT 1 -- ?\n, ?", ("SELECT 1 -- ?\n, $1", 1)),
        ("SELECT /* ? /* ? */ ? */ ?", ("SELECT /* ? /* ? */ ? */ $1", 1)),
        ("SELECT $$ ? $$, $a$ ? $$ ? $a$, ?", ("SELECT $$ ? $$, $a$ ? $$ ? $a$, $1", 1)),
        ("SELECT E'\\\\'?', ?", ("SELECT E'\\\\'$1', ?", 1)),
        ("SELECT E'\\'?', ?", ("SELECT E'\\'?', $1", 1)),
        ("SELECT 'it''s ?', ?", ("SELECT 'it''s ?', $1", 1)),
        ("SELECT '? unclosed", ("SELECT '? unclosed", 0)),
    ],
)
def test_marks_are_numbered_outside_of_texts_names_and_comments(
    statement: str, numbered: tuple[str, int]
) -> None:
    assert numbered_marks(statement) == numbered
