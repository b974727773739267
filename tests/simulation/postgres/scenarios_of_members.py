"""Scripts of the members of a log, and of several owners, by the rules of `scenarios`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from engine.stores.postgres.log import members, reading, spread, spread_writer

from .scenarios import BEGIN, END, ONE_TYPE, RENEW, Place, Scenario, ask, batch, opened

__all__ = ["SCENARIOS_OF_MEMBERS"]

JOIN, SEEN, VIEW, GONE = (str(vars(members)[n]) for n in ("_JOIN", "_RENEW", "_VIEW", "_LEAVE"))
JOIN_TO_DECIDE, DECIDERS = (str(vars(spread)[n]) for n in ("_JOIN", "_VIEW"))
APPEND_BY_ONE, TAKE_LINE = (str(vars(spread_writer)[n]) for n in ("_APPEND", "_TAKE_LINE"))
_JOINED = 3
"""Columns of who joins, of which the last one says who has the log alone."""


async def members_come_and_go_under_a_number(place: Place) -> Sequence[Any]:
    connection, _ = await opened(place)

    async def view() -> Any:
        rows = await ask(place, connection, VIEW, 0.0)
        return [(*row[:-1], row[-1] is not None and row[-1] > 0) for row in rows]

    none = await ask(place, connection, VIEW, 0.0)
    said = [[row[:-1] for row in none]]
    said.append(await ask(place, connection, JOIN, "a", 60.0))
    said.append(await ask(place, connection, JOIN, "b", 0.0))
    said.append(await view())
    said.append(await ask(place, connection, SEEN, 1, 2, 60.0))
    said.append(await ask(place, connection, SEEN, 1, 1, 60.0))
    said.append(await ask(place, connection, SEEN, 9, 1, 60.0))
    said.append(await view())
    said.append(await ask(place, connection, GONE, 1, False))
    await asyncio.sleep(0.01)
    said.append(await ask(place, connection, GONE, 2, False))
    said.append(await ask(place, connection, GONE, 2, True))
    said.append(await view())
    said.append(await ask(place, connection, GONE, 1, True))
    said.append(await ask(place, connection, JOIN, "c", 60.0))
    return said


async def several_append_under_the_view_that_they_decided_by(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)

    def by(member: int, line: int, view: int, *events: Any, **rest: Any) -> Any:
        claims = rest.pop("claims", ([], [], [], [], []))
        own = rest.pop("own", (0, 0))
        return (member, line, view, *batch(0, (0, 0), *events, **rest)[3:], *claims, *own)

    async def append(*values: Any) -> Any:
        return await ask(place, connection, APPEND_BY_ONE, *values)

    said = [await ask(place, connection, JOIN_TO_DECIDE, "a", 60.0)]  # one has it alone
    await ask(place, connection, END, session)
    said.append(await ask(place, connection, JOIN_TO_DECIDE, "a", 60.0))
    said.append(await ask(place, connection, JOIN, "looks on", 60.0))
    said.append(await ask(place, connection, JOIN_TO_DECIDE, "b", 60.0))
    said.append([row[:-1] for row in await ask(place, connection, DECIDERS, 0.0)])
    said.append([row[1] for row in await ask(place, connection, BEGIN, "alone", 60.0, False)])
    one = by(1, 0, 3, ("a:1", 1, 11), types=ONE_TYPE)
    said.append(await append(*one))  # nobody leads yet
    said.append(await append(*one))
    said.append(await append(*by(3, 0, 3, ("b:1", 1, 21), ("b:1", 2, 22), recorded=900)))
    said.append(await append(*by(3, 0, 2, ("b:1", 3, 23))))
    said.append(await append(*by(2, 0, 3, ("b:1", 3, 23))))
    said.append(await ask(place, connection, TAKE_LINE, 3))
    said.append(await append(*by(3, 0, 3, ("b:1", 3, 23))))
    claims = (["email"], ["ann"], [""], ["b:1"], [1])
    said.append(await append(*by(3, 1, 3, ("b:1", 3, 23), claims=claims)))
    said.append(await append(*by(1, 0, 3, ("a:1", 2, 12), claims=claims)))
    stale = {"a:1": 5}
    said.append(await append(*by(1, 0, 3, ("a:1", 6, 12), ("c:1", 1, 31), expected=stale)))
    said.append([row[1] for row in await ask(place, connection, BEGIN, "leads", 60.0, True)])
    said.append(await append(*by(1, 0, 3, ("a:1", 2, 12))))
    said.append(await ask(place, connection, GONE, 1, True))
    said.append(await append(*by(1, 0, 4, ("a:1", 3, 13))))
    said.append(await append(*by(3, 1, 4, ("a:1", 3, 13))))
    said.append(await ask(place, connection, reading.HEAD))
    return said


async def who_starts_keeps_no_renewal_waiting(place: Place) -> Sequence[Any]:
    connection, session = await opened(place)
    starting = await place.connect()

    async def beside(*start: Any) -> Any:
        async with starting.transaction():
            rows = await ask(place, starting, *start)
            renewed = [await ask(place, connection, RENEW, session, 60.0)]
            renewed += [await ask(place, connection, SEEN, 1, 0, 60.0)]
        return [(row[0] is None, row[2 if len(row) == _JOINED else 1]) for row in rows], renewed

    said = [await beside(BEGIN, "alone", 60.0, False), await beside(JOIN_TO_DECIDE, "a", 60.0)]
    await ask(place, connection, END, session)
    said.append(await ask(place, connection, JOIN_TO_DECIDE, "a", 60.0))
    ((session, *_),) = await ask(place, connection, BEGIN, "leads", 60.0, True)
    said.append(await beside(JOIN_TO_DECIDE, "b", 60.0))
    said.append(await beside(BEGIN, "alone", 60.0, False))
    said.append(await beside(BEGIN, "leads too", 60.0, True))
    return said


SCENARIOS_OF_MEMBERS: Sequence[Scenario] = (
    members_come_and_go_under_a_number,
    several_append_under_the_view_that_they_decided_by,
    who_starts_keeps_no_renewal_waiting,
)
