"""How deep JSON may be nested, and what is read where the stack of the moment is too short.

Rules: brackets inside texts are none. What every reader has to read is nested to NESTING_MAX.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

from ..limits import NESTING_MAX
from ..runtime.machine import on_fresh_stack

__all__ = ["decode_deep", "nesting"]

T = TypeVar("T")

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def nesting(payload: bytes) -> int:
    """Give how deep JSON is nested, or a number above it that is within NESTING_MAX."""
    opened = payload.count(b"[") + payload.count(b"{")
    if opened <= NESTING_MAX:
        return opened
    depth = deepest = 0
    for bracket in _STRING.sub(b"", payload).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def decode_deep(decode: Callable[[bytes], T], payload: bytes) -> T:
    """Decode; where the stack of the moment is too short, on one of its own."""
    try:
        return decode(payload)
    except RecursionError:
        return on_fresh_stack(lambda: decode(payload))
