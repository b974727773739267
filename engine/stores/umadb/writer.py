"""Appends to a log in UmaDB: takes the log, sends batches, and finds out what became of them.

Rules: one call at a time, which the store sees to. What an append did is known before it is told,
by its answer, or by the id of its first event in the log. What is sent again is sent as it was,
with the same ids, condition and number, so that it is in the log once. Whoever else has written to
the database ends this writer, which then appends nothing more. A batch that is larger than a
message goes in several appends, each of whole requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ...errors import StoreFailed, StoreRefused
from ...model.stored import StoredEvent
from ...runtime.ports import Ports
from ..contract.claims import ClaimChange, ClaimKey
from ..contract.log import (
    Appended,
    Batch,
    Committed,
    Head,
    Plan,
    claim_keys,
    conditions_of,
    plan,
)
from ..contract.timers import DropTimer, FiredTimer, SetTimer
from ..leased.holder import MARGIN, POLLS, Away, Holder, locked
from ..leased.known import Declared
from ..leased.places import Places
from .address import Address
from .calls import Calls, NotTaken, umadb
from .form import AHEAD, FORM, HEADER, Beside, from_uma, to_uma
from .reading import came, holder_of, known_of, last_of
from .session import REGISTER, SESSIONS_MAX, Mark, read_mark

if TYPE_CHECKING:
    from umadb import Client

__all__ = ["Writer", "begin_writer"]

MESSAGE_BYTES: Final = 3_500_000
"""Of events in one append: a server takes messages of 4 MiB."""
_EVENT_BYTES: Final = 500
"""About what an event has beside its payload and its metadata, tags included."""
TAGS_BYTES: Final = 3_700
"""Of all tags of one event, which stand in one page of the server's file."""
_PAUSE_FIRST: Final = 0.02
_PAUSE_LONGEST: Final = 0.5
_LEAVE_SECONDS: Final = 2.0
_OF_TIMERS: Final = (SetTimer, DropTimer, FiredTimer)


async def begin_writer(
    calls: Calls, address: Address, ports: Ports, places: Places, logger: logging.Logger
) -> Writer:
    """Take the log, or make it; raise StoreLocked, StoreRefused, StoreFailed, Damaged."""
    log_id = await calls.asked(_header)
    mark, begun = await _taken(calls, address, ports)
    writer = Writer(calls, address, ports, places, mark, logger)
    writer.began(begun)
    try:
        await writer.begin(log_id)
    except BaseException:
        await writer.leave()
        raise
    return writer


def _header(client: Client) -> str | None:
    """Give the id of the log that a database has; None for an empty one."""
    for found in client.read(limit=1):
        log_id = found.event.metadata.get("log_id")
        if found.event.event_type != HEADER or not log_id:
            raise StoreRefused(
                "this UmaDB server has events of another program: a log needs a database of its "
                "own. Nothing was changed"
            )
        if found.event.metadata.get("form") != FORM:
            raise StoreRefused(
                "this log in UmaDB has a form that this release does not know: start a newer one. "
                "Nothing was changed"
            )
        return log_id
    return None


def _number(client: Client) -> int | None:
    return client.get_tracking_info(REGISTER)


async def _taken(calls: Calls, address: Address, ports: Ports) -> tuple[Mark, float]:
    """Begin a session as soon as the one before it has ended; give when it was asked for."""
    now = ports.clock.monotonic
    seen = read_mark(await calls.asked(_number))
    since = now()
    while not seen.is_given_back and now() < since + seen.lease_seconds * MARGIN:
        await asyncio.sleep(seen.lease_seconds / POLLS)
        mark = read_mark(await calls.asked(_number))
        if mark != seen and not mark.is_given_back:
            raise locked(address.name)
        seen = mark
    if seen.session >= SESSIONS_MAX:
        raise StoreRefused(
            f"{address.name} was opened {SESSIONS_MAX:,} times, which is as often as it can be: "
            f"begin a new log, and import this one"
        )
    mark = Mark(seen.session + 1, address.lease_seconds)
    begun = now()
    try:
        await calls.once(_setting(mark), address.patience_seconds)
    except NotTaken:
        raise locked(address.name) from None
    except Away as away:
        if read_mark(await calls.asked(_number)) != mark:
            raise calls.out_of_reach(away) from None
    return mark, begun


def _setting(mark: Mark) -> Callable[[Client], int]:
    module = umadb()
    return lambda client: client.append([], None, module.TrackingInfo(REGISTER, mark.number))


class Writer(Holder):
    """The end of the log as this engine knows it, and what it may append."""

    def __init__(
        self,
        calls: Calls,
        address: Address,
        ports: Ports,
        places: Places,
        mark: Mark,
        logger: logging.Logger,
    ) -> None:
        super().__init__(address.name, address.lease_seconds, ports.clock.monotonic)
        self.calls = calls
        self._address = address
        self._new_id = ports.ids.new_id
        self._places = places
        self._mark = mark
        self._logger = logger

    @property
    def reconnects(self) -> int:
        """Clients that were made in place of another one."""
        return self.calls.reconnects

    # -- whose log it is ----------------------------------------------------------------------

    async def begin(self, log_id: str | None) -> None:
        """Read what the log has; make it where there is none."""
        if log_id is None:
            log_id = self._new_id()
            event = umadb().Event(HEADER, b"", [], None, {"log_id": log_id, "form": FORM})
            await self._send([event], -AHEAD, _is_header(log_id))
        self.log_id = log_id
        last = await self.calls.asked(_last)
        if last is not None:
            self.head = Head(last.position, last.checksum, last.recorded)
        self.known = await self.calls.asked(known_of)

    async def renew(self, seconds: float) -> None:
        """Let the lease begin anew, unless an append has; raise Away."""
        if self.stopped is not None or self.has_begun(seconds / 2):
            return
        mark, begun = self._mark.next(), self._now()
        self._mark = mark  # whatever becomes of it: the next number is larger
        try:
            await self.calls.once(_setting(mark), seconds)
        except NotTaken:
            self._stop(self._succeeded())
        else:
            self.began(begun)

    async def leave(self) -> None:
        """Give the log back."""
        if not self.is_succeeded:
            await self.calls.once(_setting(self._mark.given_back()), _LEAVE_SECONDS)

    # -- appending ----------------------------------------------------------------------------

    async def append(self, batch: Batch) -> Committed:
        """Append what fits, and return when it is durable."""
        if self.stopped is not None:
            raise self.stopped
        _check_extras(batch, self._address.name)
        planned = await self._planned(batch)
        declared = self.known.declared(batch, planned, self.forms)
        beside = _beside(planned, declared)
        for position, tags in beside.tags.items():
            if sum(len(tag.encode()) for tag in tags) > TAGS_BYTES:
                raise StoreFailed(
                    f"the event at position {position} would have tags of more than "
                    f"{TAGS_BYTES:,} bytes, which UmaDB does not take. Nothing was written",
                    written=False,
                )
        written = 0
        for events in _cut(planned):
            # The last id is one behind the first: each event has its own.
            own = self._new_id()
            uma = to_uma(events, beside, own)
            try:
                await self._send(uma, self.head.position, _is_event(str(uma[0].uuid)))
            except StoreFailed as failure:
                if failure.written is None:
                    raise self._stop(failure) from None
                if not written:
                    raise
                # A part of the batch is in the log, and nobody was told of it.
                raise self._stop(_half(failure)) from failure
            written += len(events)
            last = events[-1]
            self.head = Head(last.position, last.checksum, last.recorded)
            self._places.appended(events)
        self.known.learn(planned, declared)
        return Committed(planned.outcomes, planned.events)

    async def _planned(self, batch: Batch) -> Plan:
        """Plan a batch on the log as it is."""
        places = self._places
        streams = dict.fromkeys(w.stream for request in batch.requests for w in request.writes)
        versions: dict[str, int] = {}
        unknown: list[str] = []
        for stream in streams:
            place = places.get(stream)
            if place is None or not place.is_last:
                unknown.append(stream)
            else:
                versions[stream] = place.version
        keys, conditions = claim_keys(batch), conditions_of(batch)
        if not unknown and not keys and not conditions:
            return plan(batch, versions, self.head)
        with places.reading() as found:
            try:
                holders, arrived = await self.calls.asked(
                    lambda client: _looked(client, unknown, found, keys, conditions)
                )
            except StoreRefused as refused:
                raise StoreFailed(f"{refused}. Nothing was written", written=False) from None
        if any(place.position > self.head.position for place in found.values()):
            raise self._stop(await self._why_not_taken())
        versions.update((stream, place.version) for stream, place in found.items())
        return plan(batch, versions, self.head, holders, came=arrived)

    # -- sending ------------------------------------------------------------------------------

    async def _send(self, events: Sequence[Any], after: int, is_own: Callable[[Any], bool]) -> None:
        """Append events behind a position; return when they are in the log.

        Raises StoreFailed with what is known of them.
        """
        module, patience = umadb(), self._address.patience_seconds
        mark, begun = self._mark.next(), self._now()
        place = after + AHEAD
        condition = module.AppendCondition(module.Query(), place or None)
        tracking = module.TrackingInfo(REGISTER, mark.number)
        end, pause = self._now() + patience, _PAUSE_FIRST
        is_first = True
        while True:
            try:
                last = await self.calls.once(
                    lambda client: client.append(events, condition, tracking), patience
                )
                break
            except NotTaken:
                if await self._is_written(place, is_own):
                    self.found_written += 1
                    last = place + len(events)
                    break
                raise self._stop(await self._why_not_taken()) from None
            except Away as away:
                if self._now() + pause > end:
                    raise self._stop(self._unknown(away)) from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_LONGEST)
            if await self._is_written(place, is_own):
                self.found_written += 1
                last = place + len(events)
                break
            self.written_again += is_first
            is_first = False
        self._mark = mark
        if last != place + len(events):
            raise self._stop(self._went_back(written=None))
        self.began(begun)

    async def _is_written(self, place: int, is_own: Callable[[Any], bool]) -> bool:
        """Tell whether the log has what was sent; raise StoreFailed where nobody can know."""

        def look(client: Client) -> tuple[int, bool]:
            head = client.head() or 0
            return head, any(is_own(found) for found in client.read(start=place + 1, limit=1))

        try:
            head, is_written = await self.calls.asked(look)
        except StoreFailed as failure:
            raise self._stop(self._unknown(failure)) from failure
        if head < place:
            raise self._stop(self._went_back(written=False))
        return is_written

    async def _why_not_taken(self) -> StoreFailed:
        """Say who is in the way: an engine that has the log now, or another program."""
        try:
            number = await self.calls.asked(_number)
        except StoreFailed as failure:
            return self._unknown(failure)
        if read_mark(number).session != self._mark.session:
            return self._succeeded()
        return StoreFailed(
            f"{self._address.name}: another program has written to this database, and a log needs "
            f"one of its own. Nothing was written: stop that program, and restore the log",
            written=False,
            stopped=True,
        )

    def _unknown(self, why: Exception) -> StoreFailed:
        return StoreFailed(
            f"{self._address.name} gave no answer in {self._address.patience_seconds:g} s ({why}): "
            f"nobody knows whether the batch is in the log",
            written=None,
        )

    def _went_back(self, *, written: bool | None) -> StoreFailed:
        return StoreFailed(
            f"{self._address.name}: the log went back. It lacks events that were acknowledged: "
            f"restore the server's file. Nothing more is appended",
            written=written,
            stopped=True,
        )


def _is_event(own_id: str) -> Callable[[Any], bool]:
    return lambda found: str(found.event.uuid) == own_id


def _is_header(log_id: str) -> Callable[[Any], bool]:
    return lambda found: found.event.metadata.get("log_id") == log_id


def _last(client: Client) -> StoredEvent | None:
    for found in client.read(backwards=True, limit=1):
        if found.position > AHEAD:
            return from_uma(found)
    return None


def _looked(
    client: Client,
    streams: Sequence[str],
    found: dict[str, Any],
    keys: Sequence[ClaimKey],
    conditions: Sequence[Any],
) -> tuple[dict[ClaimKey, str], frozenset[Any]]:
    """Find the ends of streams; give who holds claims, and the conditions that do not hold."""
    last_of(client, streams, found)
    holders = {key: holder for key in keys if (holder := holder_of(client, key)) is not None}
    return holders, came(client, conditions)


def _check_extras(batch: Batch, name: str) -> None:
    for request in batch.requests:
        size = sum(_EVENT_BYTES + data.size for w in request.writes for data in w.events)
        if size > MESSAGE_BYTES:
            raise StoreFailed(
                f"{name} takes messages of 4 MiB, and a command brings about {size:,} bytes of "
                f"events. Nothing was written: let it bring less",
                written=False,
            )
        if any(isinstance(extra, _OF_TIMERS) for extra in request.extras):
            raise StoreFailed(
                f"{name} keeps no timers. Nothing was written: use a store in SQLite or PostgreSQL",
                written=False,
            )


def _beside(planned: Plan, declared: Mapping[int, Declared | None]) -> Beside:
    tags: dict[int, list[str]] = {}
    for tag, position, _, _ in planned.tags:
        tags.setdefault(position, []).append(tag)
    claims: dict[int, list[tuple[ClaimKey, ClaimChange]]] = {}
    for key, change in planned.claims.items():
        claims.setdefault(change.position, []).append((key, change))
    return Beside(tags, claims, declared)


def _cut(planned: Plan) -> Iterator[Sequence[StoredEvent]]:
    """Give the events in messages, each of whole requests."""
    begin = end = size = 0
    first = planned.events[0].position if planned.events else 0
    for outcome in planned.outcomes:
        if not isinstance(outcome, Appended):
            continue
        after = outcome.position - first + 1
        more = sum(
            _EVENT_BYTES + len(e.payload) + len(e.metadata) for e in planned.events[end:after]
        )
        if begin < end and size + more > MESSAGE_BYTES:
            yield planned.events[begin:end]
            begin, size = end, 0
        size += more
        end = after
    if begin < end:
        yield planned.events[begin:end]


def _half(failure: StoreFailed) -> StoreFailed:
    return StoreFailed(f"{failure}. A part of the batch was written before", written=None)
