"""The event loop of a portal that starts its engine: which one it is, and how it ends.

Rules: it is uvloop's where that is installed. When it is stopped, what still runs in it is
cancelled, and it is closed. It knows nothing of engines, and of what runs in it.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec

from ..errors import UsageError
from ..runtime.native import is_patched

__all__ = ["new_loop", "serve"]


def new_loop() -> asyncio.AbstractEventLoop:
    """Make one; raises UsageError where none can run."""
    # uvloop knows nothing of Python's own sockets and selectors, which gevent replaces too.
    if find_spec("uvloop") is None:
        if is_patched():
            raise UsageError(
                "gevent has replaced Python's selectors, and asyncio's own loop cannot run on its: "
                "install uvloop, and open the portal again"
            )
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run it in this thread until it is stopped, and close it."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
