"""Replies that are kept with a key, whose numbers of an enum another release calls otherwise."""

from __future__ import annotations

import asyncio
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import Aggregate, Command, Decision, Engine, Event, HandlerFailed, Id, applies, handles
from engine.members.waiting import Waiting, give_receipt
from engine.members.wire import Done
from engine.model.messages import Envelope


class Marked(Event, name="marked"):
    pass


class Paid(IntEnum):
    OPEN = 1
    PAID = 2


class Held(IntEnum):
    OPEN = 1
    HELD = 2
    PAID = 3


class Settled(IntEnum):
    OPEN = 1
    PAID = 2
    SETTLED = 2


class PaidBill(msgspec.Struct):
    state: Paid


class HeldBill(msgspec.Struct):
    state: Held


class SettledBill(msgspec.Struct):
    state: Settled


def paying(reply: Any, given: Any) -> tuple[Any, Any]:
    """Give a release: an aggregate, and its command with a reply."""

    class Pay(Command[reply], name="pay"):
        till: Id

    class Till(Aggregate, kind="till"):
        @handles
        def pay(self, command: Pay) -> Decision[Marked, reply]:
            return Decision(Marked(), reply=given)

        @applies
        def marked(self, event: Marked) -> None:
            """Nothing."""

    return Till, Pay


@pytest.mark.parametrize(
    ("first", "gave", "renamed", "other"),
    [
        (Paid, Paid.PAID, Settled, Held),
        (PaidBill, PaidBill(Paid.PAID), SettledBill, HeldBill),
        (list[PaidBill], [PaidBill(Paid.PAID)], list[SettledBill], list[HeldBill]),
        (dict[Paid, int], {Paid.PAID: 1}, dict[Settled, int], dict[Held, int]),
    ],
    ids=["number", "struct", "list", "keys"],
)
async def test_a_kept_reply_is_not_read_with_another_member_of_an_enum(
    tmp_path: Path, first: Any, gave: Any, renamed: Any, other: Any
) -> None:
    store = f"sqlite:{tmp_path}/log.db"
    till, pay = paying(first, gave)
    async with Engine([till], store=store) as engine:
        assert (await engine.execute(pay("t"), key="k")).reply == gave
    for declares in (first, renamed):
        till, pay = paying(declares, gave)
        async with Engine([till], store=store) as engine:
            again = (await engine.execute(pay("t"), key="k")).reply
            assert msgspec.json.encode(again) == msgspec.json.encode(gave)
    till, pay = paying(other, gave)
    async with Engine([till], store=store) as engine:
        with pytest.raises(HandlerFailed, match="none of the declared type"):
            await engine.execute(pay("t"), key="k")


@pytest.mark.parametrize(
    ("reply", "gave"),
    [
        (dict[str, Any], {"#names": [[1, "OPEN"]], "total": 2}),
        (dict[str, Any], {"#names": 5}),
        (dict[str, int], {"#names": 5}),
        (dict[str, Paid], {"#value": Paid.OPEN, "last": Paid.PAID}),
        (dict[str, Paid], {"#value": Paid.OPEN}),
    ],
    ids=["any", "number", "no-enums", "enums", "one"],
)
async def test_a_key_of_a_clients_that_is_called_as_ours_stays_in_a_reply(
    tmp_path: Path, reply: Any, gave: Any
) -> None:
    till, pay = paying(reply, gave)
    store = f"sqlite:{tmp_path}/log.db"
    async with (
        Engine([till], store=store, join=True) as owner,
        Engine([till], store=store, join=True) as member,
    ):
        for engine in (member, owner):
            assert (await engine.execute(pay("t"), key="k")).reply == gave
    async with Engine([till], store=store) as engine:
        assert (await engine.execute(pay("t"), key="k")).reply == gave


async def test_a_reply_of_an_owner_that_tells_names_inside_is_read() -> None:
    """A release before put them there; the command was run, and its caller was told of no reply."""
    _, pay = paying(PaidBill, PaidBill(Paid.PAID))
    line = b'["done",1,"till:t",1,1,null,[]]'
    told = msgspec.json.decode(line, type=Done)
    kept = b'{"state":2,"#names":[[2,"PAID"]]}'
    answer = asyncio.get_running_loop().create_future()
    waiting = Waiting(Envelope(command=pay("t")), "pay", b"", answer, None)
    give_receipt(msgspec.structs.replace(told, reply=kept), waiting)

    assert (await answer).reply == PaidBill(Paid.PAID)
