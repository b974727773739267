"""How the test kit says what it expected and what it found.

Rules: `fail` alone raises what pytest shows, an AssertionError with a line for each thing. A value
that msgspec cannot encode is shown by its repr.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import msgspec

from ..model.aggregate import Aggregate

__all__ = ["called", "fail", "listed", "shown_state"]


def shown_state(state: Aggregate) -> str:
    """Give a state as text; what msgspec cannot encode stands by its repr."""
    try:
        return msgspec.json.encode(state, enc_hook=repr, order="deterministic").decode()
    except TypeError:
        # It orders no dict whose keys are not texts, as days and numbers are not.
        return repr(state)


def listed(found: Sequence[object]) -> str:
    """Give things as one line."""
    return ", ".join(map(repr, found)) or "nothing"


def called(value: object) -> str:
    """Give what a test has given in place of something else: a class by its name."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"


def fail(what: str, lines: Sequence[str]) -> NoReturn:
    """Raise AssertionError with a line that says what, and lines that show it."""
    __tracebackhide__ = True  # pytest shows the test's own line
    raise AssertionError("\n".join([what, *lines]))
