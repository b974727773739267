"""Texts that SQL can hold: in Python's own, a NUL and half of a character may stand.

Rules: nothing is changed silently; who needs a text for a person gets the halves as numbers.
"""

from __future__ import annotations

__all__ = ["as_text", "is_text", "unfit"]


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


def unfit(value: str) -> str | None:
    """Say what a text has that not every database can hold; None where it has nothing such."""
    if "\0" in value:
        return "a NUL"
    # Where it is the domain's own text it is most often of the first 128 characters.
    return None if value.isascii() or is_text(value) else "half a character"
