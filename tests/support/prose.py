"""Markdown as sentences: what a reader reads of a page, without code, tables and names.

Rules: a paragraph, a list item and a heading end a sentence. Code in a line counts as one word, and
so does a list of code (`a`, `b` and `c`). A semicolon or a colon ends no sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["Page", "read", "words"]

_FENCE: Final = re.compile(r"^\s*(```+|~~~+)")
_HEADING: Final = re.compile(r"^#+\s+(.*?)(?:\s+\{#.*\})?$")
_ITEM: Final = re.compile(r"^\s*(?:[-*+]|\d+\.|: )\s+")
_SKIPPED: Final = re.compile(r"^\s*(?:\||<|!!!|\?\?\?|===|:::|\[[^]]+\]:|---+$)")
_SENTENCE: Final = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[A-Z0-9`\"(])")
_NAMES: Final = re.compile(r"`(?:(?:,? (?:and|or) |, |/)`)+")


class Page(NamedTuple):
    """The prose of a page."""

    headings: list[str]
    sentences: list[str]


def read(text: str) -> Page:
    """Give headings and sentences of a page in Markdown."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    headings: list[str] = []
    sentences: list[str] = []
    for block in _blocks(text, headings):
        sentences += [found for found in _SENTENCE.split(_plain(block)) if found.strip()]
    return Page(headings, sentences)


def words(sentence: str) -> int:
    """Count the words of a sentence; a piece of code is one."""
    return sum(any(c.isalnum() or c == "`" for c in word) for word in sentence.split())


def _blocks(text: str, headings: list[str]) -> Iterator[str]:
    """Give paragraphs and list items; put headings into the list."""
    lines: list[str] = []
    fence = ""
    for line in [*text.splitlines(), ""]:
        mark = _FENCE.match(line)
        if fence:
            fence = "" if mark and mark[1].startswith(fence) else fence
            continue
        heading = _HEADING.match(line)
        ends = mark or heading or _SKIPPED.match(line) or not line.strip()
        if (ends or _ITEM.match(line)) and lines:
            yield " ".join(lines)
            lines = []
        if mark:
            fence = mark[1]
        elif heading:
            headings.append(_plain(heading[1]))
        elif not ends:
            lines.append(_ITEM.sub("", line).strip())


def _plain(text: str) -> str:
    """Take away what Markdown adds, and make each piece of code, or list of code, one word."""
    text = re.sub(r"(`+).+?\1", "`", text)
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^]]*)\](?:\([^)]*\)|\[[^]]*\])", r"\1", text)
    return _NAMES.sub("`", re.sub(r"[*]{1,3}|<[^>]*>|\{[^}]*\}", "", text)).strip()
