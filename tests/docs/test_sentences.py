"""Documents are plain English: short sentences, the field's words, headings to search for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.plain_english import faults
from tests.support.prose import read, words

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = {
    str(path.relative_to(ROOT)): path
    for path in [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "AGENTS.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "docs" / "llms.txt",
    ]
    if path.exists()
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_plain_english(name: str) -> None:
    found = faults(PAGES[name].read_text())

    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("name", [name for name in PAGES if name.endswith(".md")])
def test_a_page_begins_with_its_one_title(name: str) -> None:
    text = re.sub(r"^```.*?^```", "", PAGES[name].read_text(), flags=re.DOTALL | re.MULTILINE)

    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def test_the_rules_find_what_they_are_made_for() -> None:
    long = " ".join(["word"] * 26)
    text = f"# Look on\n\n{long}. It is told of.\n\n```\n{long} told\n```\n\n| told | {long} |\n"

    assert [fault.partition(":")[0] for fault in faults(text)] == [
        "26 words, at most 25",
        "'told'",
        "'Look on'",
        "nobody searches for this heading; write History, Monitoring, Operate, Quickstart",
    ]


def test_a_list_of_code_counts_as_one_word() -> None:
    (sentence,) = read("These are `one two`, `three`, `four` and `five`.").sentences

    assert words(sentence) == 3
