"""How much memory an object holds: an estimate, by walking what it refers to.

Rules: what many objects share (classes, small constants) is not counted; the walk ends after a
number of objects and extrapolates from there. It changes nothing, and calls no code of the host's
but `__sizeof__`.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable
from typing import Any

import msgspec

__all__ = ["footprint"]

_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


def footprint(root: object, objects_max: int = 1_000) -> int:
    """Give the bytes of an object and of what it alone holds, counted up to so many objects."""
    seen: set[int] = set()
    waiting: list[Any] = [root]
    size = 0
    while waiting and len(seen) < objects_max:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, _SHARED):
            continue
        seen.add(id(item))
        size += sys.getsizeof(item)
        waiting.extend(_parts(item))
    # What was not reached is taken to be like what was.
    return size if not waiting else size * (len(seen) + len(waiting)) // len(seen)


def _parts(item: Any) -> Iterable[Any]:
    if isinstance(item, str | bytes | int | float | bool | None):
        return ()
    if isinstance(item, msgspec.Struct):
        # The collector does not know those that were declared with gc=False.
        return [getattr(item, name) for name in item.__struct_fields__]
    return gc.get_referents(item)
