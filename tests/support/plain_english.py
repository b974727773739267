"""The rules of plain English for documents and docstrings, and what breaks them in a text.

Rules: a sentence has at most 25 words, and none of the phrases below. A heading is what people
search for. Each fault is named with what to write instead.
"""

from __future__ import annotations

import re
from typing import Final

from tests.support.prose import read, words

__all__ = ["faults"]

WORDS_MAX: Final = 25
HEADING_WORDS_MAX: Final = 10

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
