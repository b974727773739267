"""Documents are plain English: short sentences, the field's words, headings to search for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.prose import read, words

ROOT: Final = Path(__file__).parents[2]
WORDS_MAX: Final = 25
HEADING_WORDS_MAX: Final = 10

PAGES: Final = {
    str(path.relative_to(ROOT)): path
    for path in [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "AGENTS.md")),
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "docs" / "llms.txt",
    ]
    if path.exists()
}

BANNED: Final = {
    # Verbs of stories: software reports, prints, logs, raises, returns and retries.
    r"tell|tells|telling|told": "report, print, log, say or show",
    r"look(s|ed|ing)? on|onlookers?": "read, watch or monitor (from another process)",
    r"sees? to|saw to|seen to": "handle, manage or make sure",
    r"hears? (of|from)|heard (of|from)": "is notified, receives or gets",
    r"hold(s|ing)? (up|nobody|anybody)|held up": "block or delay",
    r"(is|are|be) (not )?believed|believes?": "trust, use or accept",
    r"comes? up|came up": "is loaded, starts or appears",
    r"(lives?|living|lived) (through|in peace)": "run",
    r"goes? on|going on|went on": "continue",
    r"gives? up|gave up|given up": "stop, cancel or abandon",
    r"takes? (away|along)|taken (away|along)": "remove or include",
    r"makes? (it )?anew|anew": "again, or create again",
    r"has (the|its|a) say|loses its say": "decides",
    r"whoever|whomever": "a caller, a reader, anyone who",
    # People are not the subject of software.
    r"he|him|his|she|her": "they, the caller, the reader",
    r"nobody else's|somebody else's": "another process's",
    # Old or solemn words.
    r"for ever": "permanently, or forever",
    r"in vain": "without need",
    r"in earnest": "with real processes",
    r"so that .{5,80} so that": "one 'so that' a sentence",
    r"hence|thereby|therein|thereof|thereto|whereby|wherein|whereof|whence": "so, there, in which",
    r"shall|ought": "must, or will",
    r"save for|lest|albeit|notwithstanding": "except, or although",
    r"e\.g\.|i\.e\.|viz\.|cf\.": "for example, that is, compare",
    # Sales.
    r"blazing(ly)?|seamless(ly)?|robust|powerful|world-class|cutting-edge": "a figure, or nothing",
    r"leverag(e|es|ing)|utili[sz](e|es|ing)": "use",
    r"obviously|of course|easily|simply|just works": "nothing: the reader decides that",
}
"""Phrases that no page has, each with what to write instead."""

POETIC_HEADINGS: Final = {
    r"^look\b|^watch it|^run it for|^see it": "History, Monitoring, Operate, Quickstart",
    r"\bof then\b|\bwhat was\b|\bits?elf\b": "Past states, Monitoring",
    r"^beyond\b|^behind\b|^the walk\b|\bin short$": "what the section explains",
    r"[.;!]$": "no full stop",
}

WHO: Final = re.compile(r"^Who(?:se|m)?\b.*[^?]$")
"""A sentence like "Who keeps it goes on later": say "A caller that keeps it continues later"."""


def faults(text: str) -> list[str]:
    """Give what breaks a rule, each with the mend."""
    page = read(text)
    found = [
        f"{words(sentence)} words, at most {WORDS_MAX}: {sentence}"
        for sentence in page.sentences
        if words(sentence) > WORDS_MAX
    ]
    for sentence in [*page.sentences, *page.headings]:
        for phrase, instead in BANNED.items():
            if hit := re.search(rf"\b(?:{phrase})\b", sentence, re.IGNORECASE):
                found.append(f"'{hit[0]}': write {instead}: {sentence}")
        if WHO.search(sentence):
            found.append(f"'Who' as a subject: name it (the caller, a reader): {sentence}")
    for heading in page.headings:
        if words(heading) > HEADING_WORDS_MAX:
            found.append(f"a heading has at most {HEADING_WORDS_MAX} words: {heading}")
        for phrase, instead in POETIC_HEADINGS.items():
            if re.search(phrase, heading, re.IGNORECASE):
                found.append(f"nobody searches for this heading; write {instead}: {heading}")
    return found


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
