"""Texts that UTF-8 can hold, and so SQL: in Python's own, half of a character may stand.

Rules: nothing is changed silently; who needs a text for a person gets the halves as numbers.
"""

from __future__ import annotations

__all__ = ["as_text", "is_text"]


def is_text(value: str) -> bool:
    """Tell whether UTF-8, and so SQL, can hold a text: not where half of a character is in it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(value: str) -> str:
    """Give a text that SQL can hold: halves of characters stand there as their numbers."""
    return value if is_text(value) else value.encode("utf-8", "backslashreplace").decode()
