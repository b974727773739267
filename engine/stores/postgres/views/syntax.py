"""Reads a search in the language of SQLite's FTS5, and gives it as PostgreSQL's `tsquery`.

Rules: words and "phrases", each with a `*` behind it for the beginning of a word; AND, OR and NOT
in capitals, in that order of binding from the loosest to NOT; parentheses; what stands next to each
other is wanted together. What this language has beyond that (columns, NEAR, `+`, `^`) is refused,
as is what cannot be read. This file is pure.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ....errors import InvalidInput
from .words import phrase

__all__ = ["query_of"]

_TOKEN: Final = re.compile(
    r'\s*(?:(?P<text>"(?:[^"]|"")*")|(?P<mark>[()*])|(?P<word>[\w\u0080-\U0010ffff]+))'
)
_NOTHING: Final = "''"
DEPTH_MAX: Final = 100
"""Parentheses within each other."""


class _Token(NamedTuple):
    kind: str
    text: str


class _Reader:
    """What is left of a search."""

    def __init__(self, text: str, *, trigrams: bool) -> None:
        self._tokens = _tokens(text)
        self._trigrams = trigrams
        self._depth = 0

    def _next_is(self, *texts: str) -> bool:
        return bool(self._tokens) and self._tokens[0] in [
            _Token("mark" if text in "()*" else "word", text) for text in texts
        ]

    def whole(self) -> str | None:
        found = self._any()
        if self._tokens:
            raise _unread(f"near {self._tokens[0].text!r}")
        return found

    def _any(self) -> str | None:
        found = [self._all()]
        while self._next_is("OR"):
            self._tokens.pop(0)
            found.append(self._all())
        return _joined(" | ", found)

    def _all(self) -> str | None:
        found = [self._without()]
        while self._next_is("AND"):
            self._tokens.pop(0)
            found.append(self._without())
        if len(found) > 1 and None in found:
            return None
        return _joined(" & ", found)

    def _without(self) -> str | None:
        found = self._together()
        while self._next_is("NOT"):
            self._tokens.pop(0)
            taken = self._together()
            if found is not None and taken is not None:
                found = f"({found} & !({taken}))"
        return found

    def _together(self) -> str | None:
        found = [self._one()]
        while self._tokens and not self._next_is(")", "*", "AND", "OR", "NOT"):
            found.append(self._one())
        return _joined(" & ", found)

    def _one(self) -> str | None:
        if not self._tokens:
            raise _unread("it ends where a word is expected")
        token = self._tokens.pop(0)
        if token == _Token("mark", "("):
            self._depth += 1
            if self._depth > DEPTH_MAX:
                raise _unread(f"it has more than {DEPTH_MAX} parentheses within each other")
            found = self._any()
            if not self._next_is(")"):
                raise _unread("a parenthesis is not closed")
            self._tokens.pop(0)
            self._depth -= 1
            return None if found is None else f"({found})"
        if token.kind == "mark" or (token.kind == "word" and token.text in ("AND", "OR", "NOT")):
            raise _unread(f"near {token.text!r}")
        open_ended = self._next_is("*")
        if open_ended:
            self._tokens.pop(0)
        text = token.text
        if token.kind == "text":
            text = text[1:-1].replace('""', '"')
        return phrase(text, open_ended=open_ended, trigrams=self._trigrams)


def query_of(text: str, *, trigrams: bool) -> str | None:
    """Give a search as a `tsquery`; None where it finds nothing. Raises InvalidInput."""
    return _Reader(text, trigrams=trigrams).whole()


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    place = 0
    while text[place:].strip():
        token = _TOKEN.match(text, place)
        if token is None:
            raise _unread(f"near {text[place:].strip()[:1]!r}")
        place = token.end()
        kind = str(token.lastgroup)
        found.append(_Token(kind, token[kind]))
    return found


def _joined(mark: str, found: list[str | None]) -> str | None:
    """Join what finds something; what has no word in it says nothing beside others."""
    given = [each for each in found if each is not None]
    if not given:
        return None
    return given[0] if len(given) == 1 else "(" + mark.join(given) + ")"


def _unread(why: str) -> InvalidInput:
    return InvalidInput(f"this search cannot be read: {why}")
