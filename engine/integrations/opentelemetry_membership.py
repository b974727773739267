"""The instruments of a process that shares a log with others, as its part in the ownership.

Rules: as for all instruments. Nothing is told by the number of a member: each process that starts
has another one, and a series of its own would stay behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ..statistics import EngineStatistics, MembershipStatistics, SpreadStatistics
from .opentelemetry_shapes import Instrument, Read, Reading, by

__all__ = ["MEMBERSHIP"]


def _roles(numbers: EngineStatistics) -> Iterator[Reading]:
    if numbers.membership is not None:
        for role in ("owner", "member", "waiting"):
            yield int(numbers.membership.role == role), {"foldline.role": role}


def _member(read: Callable[[MembershipStatistics], int | float]) -> Read:
    return lambda n: [] if n.membership is None else [(read(n.membership), {})]


def _spread(read: Callable[[SpreadStatistics], int | float]) -> Read:
    def readings(numbers: EngineStatistics) -> Iterable[Reading]:
        found = None if numbers.membership is None else numbers.membership.spread
        return [] if found is None else [(read(found), {})]

    return readings


def _behind(spread: SpreadStatistics) -> int:
    return max((one.views_behind for one in spread.owners.values()), default=0)


def _duties(numbers: EngineStatistics) -> Iterator[Reading]:
    if numbers.membership is not None and numbers.membership.member:
        yield len(numbers.membership.duties), {}


MEMBERSHIP: Final = (
    Instrument(
        "gauge",
        "membership.role",
        "{process}",
        "1 for the part that the process has in the ownership of the log",
        _roles,
    ),
    Instrument(
        "counter",
        "membership.owners",
        "{owner}",
        "Times that the process became the owner, or connected with one",
        _member(lambda membership: membership.owners_seen),
    ),
    Instrument(
        "counter",
        "membership.terms",
        "{term}",
        "Times that the process became the owner",
        _member(lambda membership: membership.terms),
    ),
    Instrument(
        "counter",
        "membership.forwarded",
        "{command}",
        "Commands that the process has sent to an owner",
        _member(lambda membership: membership.forwarded),
    ),
    Instrument(
        "counter",
        "membership.answers",
        "{command}",
        "Commands that the process gave to an owner and that are answered; the owner's are others",
        by("answer", lambda n: {} if n.membership is None else n.membership.answers),
    ),
    Instrument(
        "counter",
        "membership.answers.duration",
        "s",
        "Seconds that these answers took, all together",
        _member(lambda membership: membership.seconds),
    ),
    Instrument(
        "gauge",
        "membership.slots",
        "{slot}",
        "Slots of the log, of 256, that the process owns",
        _spread(lambda spread: spread.slots),
    ),
    Instrument(
        "gauge",
        "membership.slots.ready",
        "{slot}",
        "Those of them for which it decides, since all owners know that they are its own",
        _spread(lambda spread: spread.slots_ready),
    ),
    Instrument(
        "gauge",
        "membership.view",
        "{view}",
        "The number of the members by which the process acts",
        _spread(lambda spread: spread.view),
    ),
    Instrument(
        "gauge",
        "membership.lease.left",
        "s",
        "What is left of the lease by which the process owns its slots",
        _spread(lambda spread: spread.lease_seconds_left),
    ),
    Instrument(
        "gauge",
        "membership.others",
        "{owner}",
        "Other owners of the log that the process knows",
        _spread(lambda spread: len(spread.owners)),
    ),
    Instrument(
        "gauge",
        "membership.others.behind",
        "{view}",
        "Views that the one of them has not heeded yet that is the furthest behind",
        _spread(_behind),
    ),
    Instrument(
        "counter",
        "membership.decided",
        "{command}",
        "Commands that the process's own engine has answered, of several owners",
        _spread(lambda spread: spread.decided),
    ),
    Instrument(
        "counter",
        "membership.moved",
        "{command}",
        "Times that a command went another way, since its aggregate had moved",
        _spread(lambda spread: spread.moved),
    ),
    Instrument(
        "gauge",
        "membership.duties",
        "{projection}",
        "Projections that the process runs, where members share them",
        _duties,
    ),
)
