"""The event loop that runs here, and a context in which nobody takes it for another library's.

Rules: what opens something in an event loop asks here for asyncio's, so that a program on trio is
told so before anything is made. Nothing here starts or ends a loop.
"""

from __future__ import annotations

import asyncio
import sys
from contextvars import Context, copy_context
from typing import Any, Final

from ..errors import UsageError

__all__ = ["own_context", "running_loop"]

_TELLER: Final = "sniffio"
"""The module by which anyio is told which library runs; its own variable may name another one."""


def running_loop(what: str) -> asyncio.AbstractEventLoop:
    """Give asyncio's loop that runs here; raise UsageError, for `what`, where none does."""
    try:
        return asyncio.get_running_loop()
    except RecursionError:
        raise  # the caller's stack is used up
    except RuntimeError:
        raise UsageError(
            f"{what} is opened in an event loop of asyncio, and none runs here. Under trio, or "
            f"without any loop, open `engine.portal()`, and call it from threads. Nothing was done"
        ) from None


def own_context() -> Context:
    """Give a copy of the caller's context in which no library is said to run but what does."""
    context = copy_context()
    teller: Any = sys.modules.get(_TELLER)
    if teller is not None:
        context.run(teller.current_async_library_cvar.set, None)
    return context
