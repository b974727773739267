"""The fences of views in the modelled server: whether the right stands by which views are written.

Rules: the conditions are read from the statement's own text, so that a slip in them shows as what
it does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from .expressions import compiled

__all__ = ["FENCE", "condition", "stands_of"]

_ALONE: Final = (
    r" AND NOT EXISTS \(SELECT 1 FROM \{s\}\.members WHERE NOT decides AND lease_until > "
    r"clock_timestamp\(\)\)"
)
FENCE: Final = (
    rf"(?:SELECT 1 FROM \{{s\}}\.sessions WHERE (?P<session>.+?)(?P<alone>{_ALONE})?"
    r"|SELECT 1 FROM \{s\}\.membership AS v, \{s\}\.members AS m WHERE (?P<duty>.+?))"
)


def condition(text: str) -> Callable[[Any, Any], Any]:
    """Give a condition, which takes values and the columns of a row."""
    text = re.sub(r"(\w+) IS NOT DISTINCT FROM \$10", "builder_is_same", text)
    return compiled(re.sub(r"\$(\d+)(?:::\w+)?", r"p\1", text))


def stands_of(found: re.Match[str]) -> Callable[[Any, Any], bool]:
    """Give whether the right stands by which views are written."""
    session, duty = (
        condition(found[name]) if found[name] else None for name in ("session", "duty")
    )

    def stands(call: Any, given: Any) -> bool:
        members = [msgspec.structs.asdict(one) for one in call.tables.members.values()]
        if duty is not None:
            view = {"view": call.tables.view}
            return any(duty(given, {**one, **view}) is True for one in members)
        if session is None:
            return True
        now = call.clock()
        if found["alone"] and any(not m["decides"] and m["lease_until"] > now for m in members):
            return False
        sessions = [msgspec.structs.asdict(one) for one in call.tables.sessions.values()]
        return any(session(given, row) is True for row in sessions)

    return stands
