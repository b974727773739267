"""The start of a tenant's engine, which waits for its server as a command of an open one does.

Rules: an engine that could not start is of no use any more, and each try makes another one. What
does not pass by itself is raised at once, and so is all of the host's code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ..engine import Engine
from ..errors import DefinitionError, StoreFailed
from ..model.given import shown
from ..runtime.safely import as_error

__all__ = ["started"]

_AGAIN_SECONDS: Final = 0.2


async def started(
    make_engine: Callable[[str], Engine],
    url: str,
    patience_seconds: float,
    has_time: Callable[[], bool],
) -> Engine:
    """Give an engine that was made and has started.

    Tries again for so long where its store is away for a moment, while `has_time` says so.
    """
    now = asyncio.get_running_loop().time
    end = now() + patience_seconds
    while True:
        try:
            return await _made(make_engine, url).__aenter__()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            passes = isinstance(error, StoreFailed) and error.passes
            if not passes or now() >= end or not has_time():
                # Of the host's code, whatever it is: an exit would end the event loop of all.
                raised = as_error(error)
                raise raised from raised.__cause__
        await asyncio.sleep(_AGAIN_SECONDS)


def _made(make_engine: Callable[[str], Engine], url: str) -> Engine:
    made: Any = make_engine(url)
    if not isinstance(made, Engine) or not made.is_new:
        raise DefinitionError(f"make_engine gives a new Engine each time, not {shown(made)}")
    return made
