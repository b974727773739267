"""An error as text for a log: where it came from, and what was said, unless that is not wanted.

Rules: files, lines and source text are shown, and the types of all errors along the chain. Messages
are shown of the engine's own errors, which carry no payload; of the host's own, and of what a rule
of the domain says, where `messages` says so; and never of msgspec's, which quote what they could
not decode. Nothing here raises.
"""

from __future__ import annotations

import traceback
from typing import Any, Final, cast

import msgspec

from ..errors import EngineError, Rejected
from .safely import described

__all__ = ["traceback_text"]

_FRAMES_MAX: Final = 60
"""Frames of one error that are shown, the last ones: a recursion has a thousand."""
_MEMBERS_MAX: Final = 8
"""Errors of one group that are shown."""


def traceback_text(error: BaseException, *, messages: bool = False) -> str:
    """Give the traceback of an error and of its causes."""
    try:
        return _text(error, messages)
    except Exception:  # an error whose cause, say, is a property that raises
        return type(error).__name__


def _text(error: BaseException, messages: bool) -> str:
    parts: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        frames = traceback.extract_tb(link.__traceback__, limit=-_FRAMES_MAX)
        parts.append("".join(traceback.format_list(frames)) + _said(link, messages))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\ncaused by:\n".join(parts)


def _said(error: BaseException, messages: bool) -> str:
    if isinstance(error, Rejected) and not messages:
        return f"{type(error).__qualname__}: {error.code}"
    shown = isinstance(error, EngineError) or messages
    if not shown or isinstance(error, msgspec.MsgspecError):
        return type(error).__qualname__
    if not isinstance(error, BaseExceptionGroup):
        return described(error)
    group: Any = cast("Any", error)
    members = "".join(f"\n  + {_said(each, messages)}" for each in group.exceptions[:_MEMBERS_MAX])
    return f"{described(group)}{members}"
