"""An error as text for a log: where it came from, and nothing of what was in it.

Rules: files, lines and source text are shown, and the types of all errors along the chain. Messages
are shown of the engine's own errors only, which carry no payload: what the host's code says may
quote an event, a command or a customer.
"""

from __future__ import annotations

import traceback

from .errors import EngineError

__all__ = ["told"]


def told(error: BaseException) -> str:
    """Give the traceback of an error and of its causes."""
    parts: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        said = f": {link}" if isinstance(link, EngineError) else ""
        frames = "".join(traceback.format_list(traceback.extract_tb(link.__traceback__)))
        parts.append(f"{frames}{type(link).__qualname__}{said}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\ncaused by:\n".join(parts)
