"""Who shares a log at this moment, asked of its owner by whoever may open its socket.

Rules: nothing is changed, and nobody is kept waiting: an owner that does not answer in time is said
to be silent. Whoever asks does not become a member.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from ..errors import StoreFailed
from ..stores.contract.backend import Outside
from ..stores.contract.meeting import Roll
from .forms import decode_values
from .meeting import FileMeeting, LeaseMeeting
from .wire import Line, Listing, Member, Message, Told

__all__ = ["roster", "who_shares"]


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


async def who_shares(outside: Outside, seconds: float) -> tuple[Sequence[Member], str]:
    """Give who shares a log; if nobody does, or that is not to be had, why.

    Raises what `roster` raises, and DefinitionError for a store whose owner nobody can meet.
    """
    place = outside.meeting()
    if isinstance(place, str):
        found = await roster(place, seconds)
        return found or (), "" if found else _nobody(outside.writer())
    return await _of_roll(place, seconds)


async def _of_roll(roll: Roll, seconds: float) -> tuple[Sequence[Member], str]:
    try:
        owner = await roll.owner()
        if owner is None or owner.seconds_left <= 0:
            return (), _nobody(None)
        if not owner.address:
            return (), f"{owner.holder} has this log open, and lets nobody join"
        found = await roster(roll, seconds)
        if found is None:
            return (), (
                f"{owner.holder} owns this log, and its lease lasts {owner.seconds_left:.1f} s: "
                f"its members are listed on its machine, for the user whose process it is"
            )
        first = msgspec.structs.replace(found[0], lease=owner.seconds_left)
        return [first, *found[1:]], ""
    finally:
        await roll.close()


def _nobody(writer: int | None) -> str:
    if writer is None:
        return "no engine has this log open"
    return f"process {writer} has this log open, and lets nobody join"
