"""Words of texts as SQLite's full-text index has them, and searches over them for PostgreSQL.

Rules: both stores find the same rows for what people type, so the words are cut here and not by a
server's dictionaries, which differ by language and version: a word is a run of letters and digits,
without capitals and without accents. What a text gives is written as PostgreSQL reads it (a
`tsvector`, with the places of the words), and so is a search (a `tsquery`). This file is pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

__all__ = ["grams_of", "is_scanned", "normal", "phrase", "vector", "words_of"]

WORD_CHARACTERS_MAX: Final = 400
"""Of a word that is told from others: PostgreSQL takes 2,046 bytes."""
VECTOR_BYTES_MAX: Final = 900_000
"""Of what is written for one row: PostgreSQL takes 1 MiB."""
PLACE_MAX: Final = 16_383
"""What PostgreSQL can hold of a word's place; later ones are all there."""
PLACES_MAX: Final = 255
"""Places of one word."""
_GRAM: Final = 3

_WORDS: Final = re.compile(r"[^\W_]+")
_ACCENTS: Final = re.compile("(?<=[a-z])[\u0300-\u036f]+")
"""Those of Latin letters, as SQLite has it: others make another letter."""
_WITHOUT_SPACES: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese, Yi: their words stand next to each other."""


def normal(text: str) -> str:
    """Give a text without capitals and without accents."""
    text = text.lower()
    if text.isascii():
        return text
    bare = _ACCENTS.sub("", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", bare).replace("\u03c2", "\u03c3")


def words_of(text: str) -> list[str]:
    """Give the words of a text, in order."""
    return [word[:WORD_CHARACTERS_MAX] for word in _WORDS.findall(normal(text))]


def grams_of(text: str) -> list[str]:
    """Give each run of three characters of a text; a shorter text has none."""
    bare = normal(text).replace("\0", " ")
    return [bare[n : n + _GRAM] for n in range(len(bare) - _GRAM + 1)]


def is_scanned(word: str, *, trigrams: bool) -> bool:
    """Tell whether a typed word is in no index, and looked for inside the texts."""
    return len(word) < _GRAM if trigrams else _WITHOUT_SPACES.search(word) is not None


def vector(fields: Iterable[str | None], *, trigrams: bool) -> str:
    """Give the words of a row's fields as a `tsvector`, each with its places.

    Fields do not follow each other: no phrase goes from one to the next.
    """
    places: dict[str, list[int]] = {}
    place = size = 0
    for text in fields:
        for word in (grams_of(text) if trigrams else words_of(text)) if text else ():
            place += 1
            known = places.get(word)
            if known is None:
                size += len(word.encode()) + 8
                if size > VECTOR_BYTES_MAX:
                    break
                places[word] = known = []
            if len(known) < PLACES_MAX and not trigrams:
                size += 4
                known.append(min(place, PLACE_MAX))
        place += 1
    return " ".join(
        f"{_quoted(word)}:{','.join(map(str, _apart(at)))}" if at else _quoted(word)
        for word, at in places.items()
    )


def _apart(places: Sequence[int]) -> Iterator[int]:
    """Give places without those that are one, as all behind the last that can be held are."""
    yield from places[:1]
    yield from (b for a, b in pairwise(places) if b != a)


def phrase(word: str, *, open_ended: bool, trigrams: bool) -> str | None:
    """Give what was typed between two spaces as a `tsquery`; None where no word is in it.

    With `open_ended` its last word may be the beginning of one.
    """
    if trigrams:
        return " & ".join(_quoted(gram) for gram in dict.fromkeys(grams_of(word))) or None
    words = [_quoted(part) for part in words_of(word)]
    if not words:
        return None
    if open_ended:
        words[-1] += ":*"
    return " <-> ".join(words)


def _quoted(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
