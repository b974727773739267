"""Who shares a log at this moment, asked of its owner by whoever may open its socket.

Rules: nothing is changed, and nobody is kept waiting: an owner that does not answer in time is said
to be silent. Whoever asks does not become a member. Where several own a log, the database has all
of them, and those of this machine are asked for the rest; what the others would say is not told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from ..errors import StoreFailed
from ..runtime.machine import read_process_name
from ..stores.contract.backend import Outside
from ..stores.contract.meeting import Listed, Owned, OwnerDirectory
from ..stores.contract.membership import owners_of
from .forms import decode_values
from .meeting import FileMeeting, LeaseMeeting
from .wire import Line, Listing, Member, Message, Told

__all__ = ["roster", "who_shares"]


async def roster(place: str | OwnerDirectory, seconds: float) -> list[Member] | None:
    """Give the owner and its members; None where nobody of this machine listens there.

    Raises StoreFailed for an owner that does not answer within so many seconds.
    """
    meeting = FileMeeting(place) if isinstance(place, str) else LeaseMeeting(place, None)
    return await _asked(meeting.connect, seconds)


async def _asked(
    connect: Callable[[Line], Awaitable[object]], seconds: float
) -> list[Member] | None:
    told: asyncio.Future[list[Member]] = asyncio.get_running_loop().create_future()

    def receive(_: Line, message: Message) -> None:
        if isinstance(message, Told) and not told.done():
            told.set_result(decode_values(message.body, list[Member]))

    def lost(_: Line) -> None:
        if not told.done():
            told.set_exception(_failed("the owner has gone before it answered: ask again"))

    line = Line(receive, lost)
    try:
        if await connect(line) is False:
            return None
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
    return await _of_directory(place, seconds)


async def _of_directory(directory: OwnerDirectory, seconds: float) -> tuple[Sequence[Member], str]:
    try:
        owner, listed = await directory.owner(), await directory.members()
        deciding = [one for one in listed if one.decides]
        if deciding:
            return await _several(directory, deciding, owner, seconds), ""
        if owner is None or owner.seconds_left <= 0:
            return (), _nobody(None)
        if not owner.address:
            return (), f"{owner.holder} has this log open, and lets nobody join"
        found = await roster(directory, seconds)
        if found is None:
            return (), (
                f"{owner.holder} owns this log, and its lease lasts {owner.seconds_left:.1f} s: "
                f"its members are listed on its machine, for the user whose process it is"
            )
        first = msgspec.structs.replace(found[0], lease=owner.seconds_left)
        return [first, *found[1:]], ""
    finally:
        await directory.close()


async def _several(
    directory: OwnerDirectory, listed: Sequence[Listed], leads: Owned | None, seconds: float
) -> Sequence[Member]:
    """Give the owners of a log that has several, on whatever machine they are."""
    owners = owners_of(tuple(one.member for one in listed))
    leader = None if leads is None or leads.seconds_left <= 0 else leads.holder
    # Two engines of one process are called the same: which of them leads they say themselves.
    alone = [one.holder for one in listed].count(leader or "") == 1
    meeting = LeaseMeeting(directory, None)
    told = await asyncio.gather(*(_of_one(meeting, one, seconds) for one in listed))
    found: list[Member] = []
    for one, said in zip(listed, told, strict=True):
        process, machine = read_process_name(one.holder)
        if said is None:
            role = "leader" if alone and one.holder == leader else "owner"
            said = Member(process, role, one.seconds, None, None, machine=machine)
        found.append(
            msgspec.structs.replace(
                said,
                lease=one.seconds_left,
                slots=owners.count(one.member),
                behind=one.views_behind,
                lag=None if said.position is None else max(0, one.position - said.position),
            )
        )
    return found


async def _of_one(meeting: LeaseMeeting, listed: Listed, seconds: float) -> Member | None:
    """Give what an owner of this machine says of itself; None where it says nothing."""
    try:
        found = await _asked(partial(meeting.connect_here, listed.address), seconds)
    except StoreFailed:
        return None  # the others are listed, and its lease tells whether it lives
    return found[0] if found else None


def _nobody(writer: int | None) -> str:
    if writer is None:
        return "no engine has this log open"
    return f"process {writer} has this log open, and lets nobody join"
