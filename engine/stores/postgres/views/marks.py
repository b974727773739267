"""Turns the `?` of a statement into PostgreSQL's numbered marks, outside of texts and comments.

Rules: what stands in quotes, in dollar quotes, in a comment or in a name stays as it is. Nothing
else of a statement is changed, so an operator that has a question mark (of jsonb) cannot be used:
the functions of the same meaning can. This file is pure.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["numbered_marks"]

_PIECES: Final = re.compile(
    r"""
    (?P<kept>
        \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)     # a text with backslashes
      | '(?:[^']|'')*(?:'|\Z)                 # a text
      | "(?:[^"]|"")*(?:"|\Z)                 # a name
      | --[^\n]*                              # a comment to the end of the line
      | (?<![\w$])(?P<dollar>\$(?:[^\W\d]\w*)?\$).*?(?:(?P=dollar)|\Z)
    )
    | (?P<comment>/\*)
    | (?P<mark>\?)
    """,
    re.VERBOSE | re.DOTALL,
)
_EDGES: Final = re.compile(r"/\*|\*/")


def numbered_marks(statement: str) -> tuple[str, int]:
    """Give a statement with `$1`, `$2` … in the place of its `?`, and how many these are."""
    found: list[str] = []
    place = count = 0
    while (piece := _PIECES.search(statement, place)) is not None:
        found.append(statement[place : piece.start()])
        end = piece.end()
        if piece["mark"]:
            count += 1
            found.append(f"${count}")
        else:
            if piece["comment"]:
                end = _end_of_comment(statement, end)
            found.append(statement[piece.start() : end])
        place = end
    found.append(statement[place:])
    return "".join(found), count


def _end_of_comment(statement: str, place: int) -> int:
    """Give where a comment ends that has begun before; comments have others inside."""
    depth = 1
    while depth and (edge := _EDGES.search(statement, place)) is not None:
        depth += 1 if edge[0] == "/*" else -1
        place = edge.end()
    return len(statement) if depth else place
