"""Whose log it is: one item that each transaction changes, on the condition that its engine has it.

Rules: the item has the end of the log, and the id of the engine that has it. A renewal raises its
count. Who opens a log looks whether the item stands still for the lease of its holder, by its own
clock alone, and then puts its own id there, on the condition that nothing of it has changed. From
then on every transaction of the former engine is refused. A lease of 0 is one that was given back.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgspec

from ...errors import StoreRefused
from ...runtime.ports import Ports
from ..leased.holder import MARGIN, POLLS, Away, locked
from .calls import Calls, Item, Missing, NotTaken, Pauses
from .form import FORM, SEQUENCER, number_of, text_of

__all__ = ["Sequencer", "begin_log", "read_sequencer", "take_log"]

_ATTRIBUTES: Final = [{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")]
_KEYS: Final = [
    {"AttributeName": "pk", "KeyType": "HASH"},
    {"AttributeName": "sk", "KeyType": "RANGE"},
]
_NOTHING_CHANGED: Final = "Nothing was changed"


class Sequencer(msgspec.Struct, frozen=True):
    """What the item says."""

    log_id: str
    position: int
    checksum: int
    recorded: int
    last: str
    """The id of the transaction that brought the last events."""
    owner: str
    lease: int
    """Seconds; 0 where nobody has the log."""
    count: int

    @property
    def state(self) -> tuple[str, int, int]:
        """What moves while its engine lives."""
        return self.owner, self.position, self.count


async def read_sequencer(calls: Calls) -> Sequencer | None:
    """Read the item; None where there is no log. Raises StoreRefused for another form."""
    item = await calls.get(SEQUENCER)
    return None if item is None else _sequencer_of(calls, item)


def _sequencer_of(calls: Calls, item: Item) -> Sequencer:
    name = calls.address.name
    try:
        form = text_of(item, "form")
        if form == FORM:
            return Sequencer(
                log_id=text_of(item, "log_id"),
                position=number_of(item, "position"),
                checksum=number_of(item, "checksum"),
                recorded=number_of(item, "recorded"),
                last=text_of(item, "last"),
                owner=text_of(item, "owner"),
                lease=number_of(item, "lease"),
                count=number_of(item, "count"),
            )
    except (KeyError, ValueError):
        raise StoreRefused(
            f"{name}: the item of the log cannot be read: another program wrote to this table. "
            f"Restore it. {_NOTHING_CHANGED}"
        ) from None
    raise StoreRefused(
        f"{name} has a log of form {form[:20]!a}, which this release does not know: start a newer "
        f"one. {_NOTHING_CHANGED}"
    )


async def begin_log(calls: Calls, ports: Ports) -> Sequencer:
    """Look at the table, and make the log where there is none; give its item."""
    await _check_table(calls)
    found = await read_sequencer(calls)
    if found is None:
        others = (await calls.asked("scan", Limit=1, ConsistentRead=True))["Items"]
        if others and await read_sequencer(calls) is None:  # which another engine may have made now
            raise StoreRefused(
                f"{calls.address.name}: this table has items of another program, and a log needs a "
                f"table of its own. {_NOTHING_CHANGED}"
            )
        await _make(calls, ports)
        found = await _again(calls)
    return found


async def _check_table(calls: Calls) -> None:
    name = calls.address.name
    table = await _described(calls)
    if table is None:
        if not calls.address.creates:
            raise calls.no_table()
        with suppress(NotTaken):  # it is being made
            await calls.asked(
                "create_table",
                AttributeDefinitions=_ATTRIBUTES,
                KeySchema=_KEYS,
                BillingMode="PAY_PER_REQUEST",
                DeletionProtectionEnabled=True,
            )
    pauses = Pauses(calls.address.patience_seconds)
    while table is None or table["TableStatus"] == "CREATING":
        table = await _described(calls)
        if not await pauses.took():
            raise StoreRefused(f"{name}: the table is still being made. Try again")
    types = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    names = [(each["AttributeName"], each["KeyType"]) for each in table["KeySchema"]]
    is_text = all(types[name] == "S" for name, _ in names)
    if names != [("pk", "HASH"), ("sk", "RANGE")] or not is_text:
        raise StoreRefused(
            f"{name}: a log needs a table with the partition key pk and the sort key sk, both of "
            f"type S. {_NOTHING_CHANGED}"
        )
    if table.get("Replicas"):
        raise StoreRefused(
            f"{name}: this is a global table, where an engine in another region would not be seen. "
            f"A log needs a table of one region. {_NOTHING_CHANGED}"
        )


async def _described(calls: Calls) -> Any:
    """Give what the service says of the table; None where there is none."""
    answer = await calls.asked("describe_table", may_miss=True)
    return None if answer is None else answer["Table"]


async def _make(calls: Calls, ports: Ports) -> None:
    numbers = dict.fromkeys(("position", "checksum", "recorded", "lease", "count"), 0)
    texts = {"log_id": ports.ids.new_id(), "form": FORM, "last": "", "owner": ""}
    item: dict[str, Any] = {**SEQUENCER}
    item |= {name: {"N": str(number)} for name, number in numbers.items()}
    item |= {name: {"S": text} for name, text in texts.items()}
    try:
        await calls.asked("put_item", Item=item, ConditionExpression="attribute_not_exists(pk)")
    except NotTaken:
        return  # another one has made it, or an answer was lost: who has it is asked next


async def take_log(
    calls: Calls, ports: Ports, seen: Sequencer, owner: str
) -> tuple[Sequencer, float]:
    """Have the log as soon as its former holder has gone; give when that was asked for.

    Raises StoreLocked where that one lives.
    """
    now, address = ports.clock.monotonic, calls.address
    since = now()
    while seen.lease and now() < since + seen.lease * MARGIN:
        await asyncio.sleep(seen.lease / POLLS)
        again = await _again(calls)
        if again.lease and again.state != seen.state:
            raise locked(address.name)
        seen = again
    begun = now()
    try:
        await calls.once(
            "update_item",
            Key=SEQUENCER,
            UpdateExpression="SET #owner = :new, #lease = :lease, #count = :zero",
            ConditionExpression="#owner = :owner AND #position = :position AND #count = :count",
            ExpressionAttributeNames={
                f"#{name}": name for name in ("owner", "lease", "count", "position")
            },
            ExpressionAttributeValues={
                ":new": {"S": owner},
                ":lease": {"N": str(address.lease_seconds)},
                ":zero": {"N": "0"},
                ":owner": {"S": seen.owner},
                ":position": {"N": str(seen.position)},
                ":count": {"N": str(seen.count)},
            },
        )
    except NotTaken:
        raise locked(address.name) from None
    except Missing:
        raise calls.no_table() from None
    except Away as away:
        if (await _again(calls)).owner != owner:
            raise calls.out_of_reach(away) from None
    return await _again(calls), begun


async def _again(calls: Calls) -> Sequencer:
    found = await read_sequencer(calls)
    if found is None:
        raise StoreRefused(f"{calls.address.name}: the item of the log was taken away. Try again")
    return found
