"""Words inside texts that have no spaces: looked for in the texts, or by an index of trigrams."""

from __future__ import annotations

from typing import Any

import pytest

from engine import (
    DefinitionError,
    Engine,
    Onlooker,
    Projection,
    Query,
    Row,
    Table,
    Views,
    answers,
    projects,
)
from engine.stores.contract.builds import definition_hash
from tests.support.counters import Add, Added, Counter

TEXTS = {
    "ja": "東京タワーの写真",
    "zh": "我喜欢喝绿茶和咖啡",
    "th": "ฉันชอบกินข้าวผัด",
    "km": "ខ្ញុំចូលចិត្តកាហ្វេ",
    "mixed": "新しいTシャツXL 特価 lantern",
    "en": "A white lantern, and a café",
}
FOUND: list[tuple[str, list[str]]] = [
    ("タワー", ["ja"]),
    ("写真", ["ja"]),
    ("写", ["ja"]),
    ("绿茶", ["zh"]),
    ("绿茶 咖啡", ["zh"]),
    ("ข้าวผัด", ["th"]),
    ("កាហ្វេ", ["km"]),
    ("シャツxl", ["mixed"]),
    ("特価 lantern", ["mixed"]),
    ("lantern 特価", ["mixed"]),
    ("lantern", ["en", "mixed"]),
    ("cafe", ["en"]),
    ("茶绿", []),
    ("特価、", ["mixed"]),
    ("「特価」", ["mixed"]),
    ("特価*", ["mixed"]),
    ("100%写", []),
    ("_真", []),
]


class Plain(Row, key="id", search=["text", "note"]):
    id: str
    text: str
    note: str | None = None


class Inside(Row, key="id", search=["text", "note"], trigrams=True):
    id: str
    text: str
    note: str | None = None


class Texts(Projection, name="texts", version=1):
    plain: Table[Plain]
    inside: Table[Inside]

    @projects
    def added(self, event: Added) -> None:
        for key, text in TEXTS.items():
            self.plain.put(Plain(key, text))
            self.inside.put(Inside(key, "", text))


class Find(Query[list[str]]):
    text: str
    trigrams: bool


@answers
async def find(query: Find, views: Views) -> list[str]:
    rows: Any
    if query.trigrams:
        rows = await views.search(Texts.inside, query.text)
    else:
        rows = await views.search(Texts.plain, query.text)
    return sorted(row.id for row in rows)


@pytest.mark.parametrize("trigrams", [False, True])
async def test_words_are_found_inside_of_texts_without_spaces(
    tmp_path: Any, trigrams: bool
) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    looking = Onlooker(projections=[Texts], answers=[find], store=store)
    engine = Engine([Counter], projections=[Texts], answers=[find], store=store)
    async with engine, looking as onlooker:
        receipt = await engine.execute(Add("a", 1))
        for text, expected in FOUND:
            assert await engine.query(Find(text, trigrams), at=receipt) == expected, text
            assert await onlooker.query(Find(text, trigrams)) == expected, text


async def test_trigrams_find_the_middle_of_any_word() -> None:
    async with Engine([Counter], projections=[Texts], answers=[find]) as engine:
        receipt = await engine.execute(Add("a", 1))
        assert await engine.query(Find("anter", True), at=receipt) == ["en", "mixed"]
        assert await engine.query(Find("anter", False)) == []
        assert await engine.query(Find("an", True)) == ["en", "mixed"]


def test_trigrams_are_a_choice_that_makes_other_tables() -> None:
    class Before(Projection, name="same"):
        rows: Table[Plain]

        @projects
        def added(self, event: Added) -> None: ...

    with pytest.raises(DefinitionError, match="has trigrams and no field that is searched"):

        class Empty(Row, key="id", trigrams=True):
            id: str

    class Plainer(Plain):
        pass

    class Insider(Inside):
        pass

    assert not Plainer.__shape__.trigrams
    assert Insider.__shape__.trigrams
    # As it was before there was a choice: tables of former releases serve on.
    assert definition_hash(Before.__definition__) == "1410542e44a716ea"
