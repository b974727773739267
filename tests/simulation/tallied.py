"""Judges what was shown of the tallies, and what is there in the end.

Rules: of each lane the events are folded in order, each once, but for those that somebody decided
to skip, up to the first that is parked; whatever follows that one is parked too. Nothing is parked
but behind an event that fails. In one life nobody is shown less than before, but for a reset. Only
what was told and the log in the end count, as in `checker`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .domain import Was
from .story import Deed, SeenTally, Story
from .tallies import FLEETING, LASTING, lane_of

__all__ = ["tallied"]


def tallied(story: Story) -> Iterator[str]:
    """Give what cannot be true of the tallies."""
    if not story.swarm.tally_versions:
        return
    lanes = _lanes(story)
    skips = [deed for deed in story.deeds if deed.what == "skip" and deed.position]
    yield from _in_the_end(story, lanes, skips)
    begun = {deed.position for deed in skips if not deed.refused}
    for seen in story.seen_tallies:
        yield from _shown(story, seen, lanes, begun)
    yield from _forwards(story, begun)


def _lanes(story: Story) -> Mapping[str, Sequence[Any]]:
    """Give the logged events of each lane, in order."""
    lanes: dict[str, list[Any]] = defaultdict(list)
    for logged in story.log:
        by_lane = story.swarm.tally_lanes
        lanes[lane_of(logged.event, None) if by_lane else logged.meta.stream].append(logged)
    return lanes


def _fails(logged: Any) -> bool:
    return isinstance(logged.event, Was) and logged.event.amount in (LASTING, FLEETING)


# -- the end ------------------------------------------------------------------------------------


def _in_the_end(
    story: Story, lanes: Mapping[str, Sequence[Any]], skips: Sequence[Deed]
) -> Iterator[str]:
    version, _ = story.swarm.tallies_of(story.lives)
    decided = [d for d in story.decisions if d.kind == "skip"]
    skipped = {d.position for d in decided if d.version == version}
    asked = {deed.position for deed in skips}
    for decision in decided:
        if decision.position not in asked:
            yield f"P12: nobody asked for {decision}"
    for deed in skips:
        if deed.ended and deed.position not in {d.position for d in decided}:
            yield f"P9: {deed} was acknowledged and is forgotten"
    loose = {deed.position for deed in skips if not deed.strict or _met_a_rebuild(story, deed)}
    rows = {row.lane: row for row in story.tallies}
    parked: dict[str, list[int]] = defaultdict(list)
    for one in story.parked:
        parked[one.key].append(one.position)
    for stranger in {*rows, *parked} - lanes.keys():
        yield f"P9: there is no lane {stranger}"
    for lane, events in lanes.items():
        row = rows.get(lane)
        if row is not None and row.version != version:
            yield f"P9: {row} in the end, of version {version}"
        folded: Sequence[int] = () if row is None else row.positions
        for problem in _lane(events, folded, parked[lane], skipped, loose):
            yield f"P9: {lane}: {problem}: folded {folded}, parked {parked[lane]}"
        if story.still_ailing and parked[lane]:
            first = story.log[parked[lane][0] - 1]
            if not _fails(first):
                yield f"P9: {lane}: {first} is parked after a retry, and does not fail"
        if parked[lane] and not story.still_ailing:
            yield f"P9: {lane}: {parked[lane]} are parked, and nothing fails any more"


def _met_a_rebuild(story: Story, skip: Deed) -> bool:
    """Tell whether a build may have begun between what was looked at and what was skipped."""
    rebuilds = (d for d in story.deeds if d.what == "rebuild" and d.life == skip.life)
    return any(
        (not skip.ended or other.begun < skip.ended)
        and (not other.ended or other.ended > skip.begun)
        for other in rebuilds
    )


def _lane(
    events: Sequence[Any],
    folded: Sequence[int],
    parked: Sequence[int],
    skipped: set[int],
    loose: set[int],
) -> Iterator[str]:
    there = [logged.meta.position for logged in events]
    both = [*folded, *parked]
    if both != sorted(set(both)):
        yield "not each once and in order"
    if missing := set(there) - set(both) - skipped:
        yield f"{sorted(missing)} are missing"
    if strangers := set(both) - set(there):
        yield f"{sorted(strangers)} are of another lane"
    if kept := (set(folded) & skipped) - loose:
        yield f"{sorted(kept)} were skipped and are folded"
    if kept := set(parked) & skipped:
        yield f"{sorted(kept)} were skipped and are parked"
    if parked and not any(_fails(e) for e in events if e.meta.position <= parked[0]):
        yield "nothing fails before the first that is parked"


# -- on the way ---------------------------------------------------------------------------------


def _shown(
    story: Story, seen: SeenTally, lanes: Mapping[str, Sequence[Any]], skipped: set[int]
) -> Iterator[str]:
    events = lanes.get(seen.lane, ())
    there = [logged.meta.position for logged in events]
    last = max(seen.positions, default=0)
    expected = {position for position in there if position <= last} - skipped
    if list(seen.positions) != sorted(set(seen.positions)) or not set(seen.positions) <= set(there):
        yield f"P9: {seen} is not what the lane has: {there}"
    elif missing := expected - set(seen.positions):
        yield f"P9: {seen} lacks {sorted(missing)}"
    if seen.asked_at and seen.asked_at not in {*seen.positions, *skipped}:
        parked = any(_fails(logged) for logged in events if logged.meta.position <= seen.asked_at)
        if not parked and not _was_reset(story, seen.begun, seen.ended):
            yield f"P10: {seen} does not show what it was asked at"


def _forwards(story: Story, skipped: set[int]) -> Iterator[str]:
    """Whoever looks later in a life sees no less, but for a reset."""
    looks: dict[tuple[int, str], list[SeenTally]] = defaultdict(list)
    for seen in story.seen_tallies:
        looks[seen.life, seen.lane].append(seen)
    for seens in looks.values():
        for before in seens:
            for after in seens:
                if before.ended < after.begun and _goes_back(story, before, after, skipped):
                    yield f"P9: after {before} comes {after}"


def _goes_back(story: Story, before: SeenTally, after: SeenTally, skipped: set[int]) -> bool:
    if _was_reset(story, before.begun, after.ended):
        return False
    declared, _ = story.swarm.tallies_of(before.life)
    if before.version == declared != after.version and set(before.positions) - skipped:
        return True
    if before.version != after.version:
        return False  # the former tables were shown until a build had caught up
    return bool(set(before.positions) - skipped - set(after.positions))


def _was_reset(story: Story, begin: int, end: int) -> bool:
    resets = [d for d in story.deeds if d.what == "reset" and not d.refused]
    return any(d.begun < end and (not d.ended or d.ended > begin) for d in resets)
