"""Who shares a log at this moment, asked of its owner by whoever may open its socket.

Rules: nothing is changed, and nobody is kept waiting: an owner that does not answer in time is said
to be silent. Whoever asks does not become a member.
"""

from __future__ import annotations

import asyncio

from ..errors import StoreFailed
from ..stores.contract.meeting import Roll
from .forms import decode_values
from .meeting import FileMeeting, LeaseMeeting
from .wire import Line, Listing, Member, Message, Told

__all__ = ["roster"]


async def roster(place: str | Roll, seconds: float) -> list[Member] | None:
    """Give the owner and its members; None where nobody of this machine listens there.

    Raises StoreFailed for an owner that does not answer within so many seconds.
    """
    meeting = FileMeeting(place) if isinstance(place, str) else LeaseMeeting(place, None)
    told: asyncio.Future[list[Member]] = asyncio.get_running_loop().create_future()

    def receive(_: Line, message: Message) -> None:
        if isinstance(message, Told) and not told.done():
            told.set_result(decode_values(message.body, list[Member]))

    def lost(_: Line) -> None:
        if not told.done():
            told.set_exception(_failed("the owner has gone before it answered: ask again"))

    line = Line(receive, lost)
    try:
        await meeting.connect(line)
    except OSError:
        return None
    line.send(Listing(1))
    try:
        async with asyncio.timeout(seconds):
            return await told
    except TimeoutError:
        raise _failed(
            f"the owner has not answered within {seconds:g} s: its event loop is blocked, or the "
            f"process stands still. Nothing was changed"
        ) from None
    finally:
        line.abort()


def _failed(why: str) -> StoreFailed:
    return StoreFailed(why, written=False)
