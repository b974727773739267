"""Appends to a log in DynamoDB: transactions, each on the condition that the log ends as known.

Rules: one call at a time, which the store sees to. Each transaction changes the item of the log, if
this engine has it and nothing came since. What it did is known before it is told: by its answer, or
by its id in that item. What is sent again is sent as it was, with the same token, so that it is
done once. Where the service says "too many", it is waited for. A batch that is larger than a
transaction goes in several, each of whole requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...errors import EngineError, StoreFailed, StoreRefused
from ...model.stored import StoredEvent
from ...runtime.ports import Ports
from ..contract.claims import ClaimKey
from ..contract.log import Batch, Committed, Head, Plan, claim_keys, conditions_of, plan
from ..contract.timers import DropTimer, FiredTimer, SetTimer
from ..leased.holder import Away, Holder
from ..leased.places import Places
from .calls import Busy, Calls, Cancelled, Item, Missing, NotTaken, Pauses
from .form import SEQUENCER, event_key
from .parts import Changes, changes_of, cut
from .reading import Reader
from .session import Sequencer, begin_log, read_sequencer, take_log

__all__ = ["Writer", "begin_writer"]

_REFUSED: Final = "ConditionalCheckFailed"
_PASSES: Final = ("TransactionConflict", "Throttl", "ThroughputExceeded")
_OF_TIMERS: Final = (SetTimer, DropTimer, FiredTimer)


async def begin_writer(calls: Calls, reader: Reader, ports: Ports, places: Places) -> Writer:
    """Take the log, or make it; raise StoreLocked, StoreRefused, StoreFailed, Damaged."""
    owner = ports.ids.new_id()
    seen, begun = await take_log(calls, ports, await begin_log(calls, ports), owner)
    writer = Writer(calls, reader, ports, places, seen)
    writer.began(begun)
    try:
        writer.known = await reader.begin(seen.position)
    except BaseException:
        await writer.leave()
        raise
    return writer


class Writer(Holder):
    """The end of the log as this engine knows it, and what it may append."""

    def __init__(
        self, calls: Calls, reader: Reader, ports: Ports, places: Places, seen: Sequencer
    ) -> None:
        address = calls.address
        super().__init__(address.name, address.lease_seconds, ports.clock.monotonic)
        self._calls = calls
        self._reader = reader
        self._patience = address.patience_seconds
        self._new_id = ports.ids.new_id
        self._places = places
        self._owner = seen.owner
        self._count = seen.count
        self.log_id = seen.log_id
        self.head = Head(seen.position, seen.checksum, seen.recorded)

    @property
    def reconnects(self) -> int:
        """Calls that got no answer."""
        return self._calls.failures

    # -- whose log it is ----------------------------------------------------------------------

    async def renew(self, seconds: float) -> None:
        """Let the lease begin anew, unless an append has; raise Away."""
        if self.stopped is not None or self.has_begun(seconds / 2):
            return
        begun = self._now()
        self._count += 1
        if await self._set("#count", self._count):
            self.began(begun)
        else:
            self._stop(self._succeeded())

    async def leave(self) -> None:
        """Give the log back."""
        if not self.is_succeeded:
            await self._set("#lease", 0)

    async def _set(self, name: str, number: int) -> bool:
        """Change the item of the log, if this engine has it; tell whether it has."""
        try:
            await self._calls.once(
                "update_item",
                Key=SEQUENCER,
                UpdateExpression=f"SET {name} = :number",
                ConditionExpression="#owner = :owner",
                ExpressionAttributeNames={"#owner": "owner", name: name.removeprefix("#")},
                ExpressionAttributeValues={
                    ":number": {"N": str(number)},
                    ":owner": {"S": self._owner},
                },
            )
        except NotTaken:
            return False
        except Missing:
            raise self._calls.no_table() from None
        return True

    # -- appending ----------------------------------------------------------------------------

    async def append(self, batch: Batch) -> Committed:
        """Append what fits, and return when it is durable."""
        if self.stopped is not None:
            raise self.stopped
        self._check_extras(batch)
        planned = await self._planned(batch)
        parts = cut(batch, planned, self.known, self._reader.claims, self._name)
        # A type that changed is refused before any part is written.
        self.known.declared(batch, planned, self.forms)
        for number, part in enumerate(parts):
            alone = planned if len(parts) == 1 and not planned.refused else None
            try:
                done = alone or await self._planned(part)
                assert not done.refused, "what fits with all of its batch fits with a part of it"
                declared = self.known.declared(part, done, self.forms)
                self._reader.end = done.events[-1].position
                await self._send(done, changes_of(done, declared, self._reader.claims))
            except StoreFailed as failure:
                if failure.written is None:
                    raise self._stop(failure) from None
                self._reader.end = self.head.position
                if not number:
                    raise
                # A part of the batch is in the log, and nobody was told of it.
                raise self._stop(_half(failure)) from failure
            self._places.appended(done.events)
            self.known.learn(done, declared)
            self._reader.claims |= {claim[0] for claim in done.claims}
        return Committed(planned.outcomes, planned.events)

    def _check_extras(self, batch: Batch) -> None:
        for request in batch.requests:
            if any(isinstance(extra, _OF_TIMERS) for extra in request.extras):
                raise StoreFailed(
                    f"{self._name} keeps no timers. Nothing was written: use a store in SQLite or "
                    f"PostgreSQL",
                    written=False,
                )

    async def _planned(self, batch: Batch) -> Plan:
        """Plan a batch on the log as it is."""
        streams = dict.fromkeys(w.stream for request in batch.requests for w in request.writes)
        versions: dict[str, int] = {}
        unknown: list[str] = []
        for stream in streams:
            place = self._places.get(stream)
            if place is None or not place.is_last:
                unknown.append(stream)
            else:
                versions[stream] = place.version
        holders: dict[ClaimKey, str] = {}
        try:
            if unknown:
                found = await self._reader.last_of(unknown)
                versions.update((stream, place.version) for stream, place in found.items())
            if keys := claim_keys(batch):
                holders = await self._reader.holders(keys)
            came = await self._reader.came(conditions_of(batch), self.head.position)
        except StoreRefused as refused:
            raise StoreFailed(f"{refused}. Nothing was written", written=False) from None
        return plan(batch, versions, self.head, holders, came=came)

    # -- sending ------------------------------------------------------------------------------

    async def _send(self, planned: Plan, changes: Changes) -> None:
        """Make a transaction; return when it is durable. Raises StoreFailed with what is known."""
        before, last, own = self.head, planned.events[-1], self._new_id()
        head = Head(last.position, last.checksum, last.recorded)
        items = [self._moved(before, head, own), *self._items(changes)]
        pauses, begun = Pauses(self._patience), self._now()
        is_unknown = is_again = False
        while True:
            self.written_again += is_again and is_unknown
            try:
                await self._calls.once(
                    "transact_write_items", TransactItems=items, ClientRequestToken=own
                )
                break
            except Cancelled as cancelled:
                if _REFUSED in cancelled.codes:
                    if await self._is_written(own, planned.events[0]):
                        self.found_written += 1
                        break
                    raise self._stop(await self._why_refused()) from None
                if not any(word in str(cancelled) for word in _PASSES):
                    raise self._not_taken(str(cancelled), is_unknown=is_unknown) from None
                why: Exception = cancelled
            except Busy as busy:
                why = busy
            except Away as away:
                why, is_unknown = away, True
            except (Missing, EngineError) as error:
                raise self._not_taken(_said(error), is_unknown=is_unknown) from None
            if not await pauses.took():
                raise self._gave_up(why, is_unknown=is_unknown) from None
            is_again = True
        self.head = head
        self.began(begun)

    def _moved(self, before: Head, after: Head, own: str) -> Item:
        """Give the change of the item of the log."""
        names = ("owner", "position", "checksum", "recorded", "last")
        return {
            "Update": {
                "TableName": self._calls.address.table,
                "Key": SEQUENCER,
                "UpdateExpression": "SET #position = :position, #checksum = :checksum, "
                "#recorded = :recorded, #last = :last",
                "ConditionExpression": "#owner = :owner AND #position = :before",
                "ExpressionAttributeNames": {f"#{name}": name for name in names},
                "ExpressionAttributeValues": {
                    ":owner": {"S": self._owner},
                    ":before": {"N": str(before.position)},
                    ":position": {"N": str(after.position)},
                    ":checksum": {"N": str(after.checksum)},
                    ":recorded": {"N": str(after.recorded)},
                    ":last": {"S": own},
                },
            }
        }

    def _items(self, changes: Changes) -> Sequence[Item]:
        table = {"TableName": self._calls.address.table}
        condition = {"ConditionExpression": "attribute_not_exists(pk)"}
        return [
            *({"Put": {**table, **condition, "Item": item}} for item in changes.new),
            *({"Put": {**table, "Item": item}} for item in changes.put),
            *({"Delete": {**table, "Key": key}} for key in changes.taken),
        ]

    async def _is_written(self, own: str, first: StoredEvent) -> bool:
        """Tell whether a transaction was made; raise where nobody can know.

        Another engine may have the log by now, and may have gone on behind it.
        """
        try:
            found = await read_sequencer(self._calls)
            if found is not None and found.last == own:
                return True
            item = await self._calls.get(event_key(first.stream, first.version)) or {}
        except (StoreFailed, StoreRefused) as failure:
            raise self._stop(self._unknown(failure)) from failure
        numbers = {"position": first.position, "checksum": first.checksum}
        return all(item.get(name) == {"N": str(number)} for name, number in numbers.items())

    async def _why_refused(self) -> StoreFailed:
        """Say who is in the way: an engine that has the log now, or another program."""
        try:
            found = await read_sequencer(self._calls)
        except (StoreFailed, StoreRefused) as failure:
            return self._unknown(failure)
        if found is not None and found.owner != self._owner:
            return self._succeeded()
        if found is None or found.position < self.head.position:
            return StoreFailed(
                f"{self._name}: the log went back. It lacks events that were acknowledged: restore "
                f"the table. Nothing more is appended",
                written=False,
                stopped=True,
            )
        return StoreFailed(
            f"{self._name}: another program has written to this table, and a log needs one of its "
            f"own. Nothing was written: stop that program, and restore the log",
            written=False,
            stopped=True,
        )

    def _not_taken(self, why: str, *, is_unknown: bool) -> StoreFailed:
        if is_unknown:
            return self._stop(self._unknown(why))
        return StoreFailed(
            f"{self._name} did not take a transaction ({why}). Nothing was written", written=False
        )

    def _gave_up(self, why: Exception, *, is_unknown: bool) -> StoreFailed:
        if is_unknown:
            return self._stop(self._unknown(why))
        return StoreFailed(
            f"{self._name} took no transaction for {self._patience:g} s ({why}). Nothing was "
            f"written. Give the table more capacity, or send less",
            written=False,
            passes=True,
        )

    def _unknown(self, why: object) -> StoreFailed:
        return StoreFailed(
            f"{self._name} gave no answer in {self._patience:g} s ({why}): nobody knows whether "
            f"the batch is in the log",
            written=None,
        )


def _said(error: Exception) -> str:
    return "there is no such table" if isinstance(error, Missing) else str(error)


def _half(failure: StoreFailed) -> StoreFailed:
    return StoreFailed(f"{failure}. A part of the batch was written before", written=None)
