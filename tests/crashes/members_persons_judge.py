"""Compares what processes read of people with who was erased by then, and who was not.

It knows nothing of the engine. What was acknowledged before an erasure was asked for is read by
nobody who begins behind its end: at once in rows, and in states behind the seconds for which a
process may still have keys. What is masked was sent before the end of an erasure that had begun.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import inf
from typing import Final

import msgspec

from .members import NOTEBOOKS, Said, engine_of, looked
from .members_joint_judge import Row
from .members_notebooks import REMINDER, RUNG
from .members_persons import PLACES

__all__ = ["KEEPS_SECONDS", "judge_all_persons", "judge_persons"]

KEEPS_SECONDS: Final = (1.0, 11.0)
"""How long a process may use the keys that it has: of a file, and of a server that is away."""

_ERASURES: Final = ("erases", "erased", "unerased")
_SECONDS: Final = 60.0


class _Erasure(msgspec.Struct):
    begun: float
    ended: float = inf
    """When it was acknowledged."""


def judge_all_persons(
    said: Sequence[Said], log: Sequence[Row], store: str, keeps_seconds: float
) -> list[str]:
    """Give what is wrong, also in what a new process reads of the log when all others have gone."""
    try:
        at_the_end = asyncio.run(_looks_at_the_end(store))
    except TimeoutError:
        return ["an erasure, or who wrote what, does not come to its end"]
    return [*judge_persons([*said, *at_the_end], log, keeps_seconds)]


def judge_persons(said: Sequence[Said], log: Sequence[Row], keeps_seconds: float) -> Iterator[str]:
    """Give what is wrong; a process may have keys for so many seconds behind an erasure."""
    erasures = _erasures(said)
    acknowledged: dict[str, tuple[list[float], list[int]]] = defaultdict(lambda: ([], []))
    for one in sorted((one for one in said if one.what == "receipt"), key=lambda one: one.at):
        times, versions = acknowledged[one.stream]
        times.append(one.at)
        versions.append(max(one.version, versions[-1] if versions else 0))
    sent = {one.key: one.at for one in said if one.what == "sent"}
    begun: dict[tuple[str, int], float] = {}
    for row in log:
        key = row.what.removesuffix(RUNG).removesuffix(REMINDER)
        begun[row.stream, row.version] = sent.get(key, 0.0)
    for one in said:
        if ":" not in one.key or one.what in _ERASURES:
            continue
        if one.what not in PLACES:
            yield f"{one.key} read {one.stream}: {one.what}"
            continue
        keeps = keeps_seconds if one.what == "state" else 0.0
        times, versions = acknowledged[one.stream]
        for erasure in erasures[one.stream]:
            gone = bisect_left(times, erasure.begun)
            if erasure.ended + keeps < one.since and gone and 0 < one.shown <= versions[gone - 1]:
                yield (
                    f"{one.key} was shown version {one.shown} of {one.stream} in its {one.what}, "
                    f"{one.since - erasure.ended:.2f} s behind the erasure of {versions[gone - 1]}"
                )
        masked = begun.get((one.stream, one.masked), inf)
        known = (e for e in erasures[one.stream] if e.begun < one.at and masked < e.ended)
        if one.masked and not any(known):
            yield f"{one.key} was shown a mask of version {one.masked} of {one.stream}"


def _erasures(said: Sequence[Said]) -> dict[str, list[_Erasure]]:
    found: dict[str, list[_Erasure]] = defaultdict(list)
    under_way: dict[str, _Erasure] = {}
    for one in said:
        if one.what == "erases":
            under_way[one.key] = _Erasure(one.at)
            found[one.stream].append(under_way[one.key])
        elif one.what == "erased":
            under_way[one.key].ended = one.at
    return found


async def _looks_at_the_end(store: str) -> list[Said]:
    """Let all erasures come to their end, and read all diaries as a new process does."""
    async with engine_of(store, "persons") as engine, asyncio.timeout(_SECONDS):
        while any(each.finished is None for each in await engine.personal.erasures()):
            await asyncio.sleep(0.1)
        position = engine.statistics().position
        while (await engine.projections.status("signers")).position < position:
            await asyncio.sleep(0.1)
        diaries = [f"n{number}" for number in range(NOTEBOOKS)]
        told = [await looked(engine, "the end:", d, place) for d in diaries for place in PLACES]
    found = [one for one in told if one is not None]
    for one in found:
        one.since = inf
    return found
