"""Fingerprints: equal commands have one, others have others, and former ones are known again."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import itertools
from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from engine import Command, Id, KeyReused, Receipt
from engine.model.fingerprint import fingerprint_of, is_of
from tests.support.counters import Add, counters
from tests.support.held_store import HeldStore


class Size(enum.IntEnum):
    LARGE = 3


class Money(msgspec.Struct, frozen=True, omit_defaults=True):
    cents: int
    currency: str = "EUR"


@dataclasses.dataclass
class Note:
    text: str
    weight: Any = 1


class Order(Command):
    order_id: Id
    amount: Any = 500
    currency: str = "EUR"
    tags: dict[str, Any] = {}
    lines: list[Any] = []
    price: Money | None = None


class Wider(Command, name="order"):
    """As a later release has it."""

    order_id: Id
    amount: Any = 500
    currency: str = "EUR"
    tags: dict[str, Any] = {}
    lines: list[Any] = []
    price: Money | None = None
    gift: bool = False


def fresh(text: str) -> str:
    """Give an equal string that is another object, as a decoder does."""
    return "".join(list(text))


EAST = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=UTC)

EQUAL: dict[str, list[Any]] = {
    "numbers": [1, 1.0, True, Decimal(1), Decimal("1.00"), Decimal("1e0")],
    "zero": [0, 0.0, -0.0, False, Decimal("-0")],
    "large": [2**70, float(2**70), Decimal(2**70)],
    "too-large-for-a-float": [10**400, Decimal("1e400")],
    "fractions": [0.5, Decimal("0.5"), Decimal("0.500")],
    "decimals": [Decimal("0.10"), Decimal("0.1"), Decimal("1e-1")],
    "enum": [Size.LARGE, 3, 3.0],
    "moments": [NOON, NOON.astimezone(EAST)],
    "first-moment": [
        datetime.datetime.min.replace(tzinfo=EAST),
        datetime.datetime.min.replace(tzinfo=EAST),
    ],
    "times": [datetime.time(12, tzinfo=UTC), datetime.time(17, 30, tzinfo=EAST)],
    "sets": [{3, 1, 2}, frozenset((2.0, 3, 1))],
    "dicts": [{"a": 1, "b": 2}, {"b": 2.0, "a": True}],
    "keys": [{1: "x"}, {1.0: "x"}, {True: "x"}],
    "structs": [Money(5), Money(5, fresh("EUR")), Money(5.0, "EUR")],  # type: ignore[arg-type]
    "dataclasses": [Note("a"), Note("a", 1.0)],
    "bytes": [b"abc", bytearray(b"abc")],
    "lists": [[1, [2, {"x": 3}]], [True, [2.0, {"x": 3}]]],
}


@pytest.mark.parametrize("name", EQUAL)
def test_what_is_equal_has_one_fingerprint(name: str) -> None:
    values = EQUAL[name]

    assert all(one == other for one, other in itertools.pairwise(values))
    assert len({fingerprint_of(Order("o", value)) for value in values}) == 1


OTHER: list[Any] = [
    None, 0, 1, 2, -1, 0.1, Decimal("0.1"), float("nan"), float("inf"), "1", "true", "", [], [1],
    [[1]], {"a": 1}, {"a": 2}, {"b": 1}, {1: "x"}, {"1": "x"}, NOON, NOON.replace(tzinfo=None),
    NOON.date(), Money(1), Money(1, "USD"), Note("b"), b"x", 10**400, 10**400 + 1,
]  # fmt: skip


def test_what_is_not_equal_has_another_fingerprint() -> None:
    found = {fingerprint_of(Order("o", value)) for value in OTHER}

    assert len(found) == len(OTHER)


def test_a_default_is_the_same_given_and_left_out() -> None:
    short = Order("o")
    commands = [
        short,
        Order("o", int("500"), fresh("EUR"), {}, []),
        Order("o", 500.0),
        msgspec.json.decode(b'{"order_id":"o","currency":"EUR","lines":[]}', type=Order),
    ]

    assert {fingerprint_of(command) for command in commands} == {fingerprint_of(short)}
    assert fingerprint_of(Wider("o")) == fingerprint_of(short)
    assert fingerprint_of(Wider("o", gift=True)) != fingerprint_of(short)


def former(command: Command) -> int:
    """As the releases up to 0.1 made it."""
    content = msgspec.json.Encoder(order="deterministic").encode(command)
    named = command.command_name.encode() + b"\0" + content
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big") >> 1


SENT: list[Callable[[], Order]] = [
    lambda: Order("o"),
    lambda: Order("o", 700, "USD", {"b": 1, "a": [2]}, [1.5, True]),
    lambda: Order("o", int("500"), fresh("EUR")),
    lambda: Order("o", int("500")),
    lambda: Order("o", currency=fresh("EUR"), price=Money(3, fresh("EUR"))),
    lambda: Order("o", 2.0, lines=[NOON, {"x"}]),
]


@pytest.mark.parametrize("number", range(len(SENT)))
def test_a_former_fingerprint_is_known_again(number: int) -> None:
    sent = SENT[number]()

    assert is_of(former(sent), SENT[number]())
    assert is_of(fingerprint_of(sent), SENT[number]())
    assert not any(is_of(former(sent), other()) for other in SENT if other() != sent)


def test_a_former_fingerprint_is_known_however_the_defaults_were_given() -> None:
    explicit = Order("o", int("500"), fresh("EUR"))

    assert former(explicit) != former(Order("o"))
    assert is_of(former(explicit), Order("o"))
    assert is_of(former(Order("o")), explicit)
    assert is_of(former(Order("o", currency=fresh("EUR"))), Order("o"))


def test_a_command_of_plain_values_has_the_fingerprint_that_it_always_had() -> None:
    command = Order("o", 7, "USD")

    assert fingerprint_of(command) == former(command) == 8_327_162_111_789_637_412


async def test_a_key_in_a_log_of_a_former_release_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = HeldStore()
    with monkeypatch.context() as as_it_was:
        as_it_was.setattr("engine.write.reception.fingerprint_of", former)
        async with counters(store) as engine:
            first = await engine.execute(Add("a", 1, True), key="k")
            explicit = msgspec.json.decode(b'{"counter_id":"b","amount":1,"tags":{}}', type=Add)
            other = await engine.execute(explicit, key="k")
    async with counters(store) as engine:
        assert await engine.execute(Add("a", 1, True), key="k") == first
        assert await engine.execute(Add("b", 1), key="k") == other == Receipt("counter:b", 1, 2)
        with pytest.raises(KeyReused):
            await engine.execute(Add("a", 2, True), key="k")


# -- classes that look alike ----------------------------------------------------------------------


class Pause(msgspec.Struct):
    why: str = ""


class Resume(msgspec.Struct):
    why: str = ""


@dataclasses.dataclass
class Up:
    by: int = 1


@dataclasses.dataclass
class Down:
    by: int = 1


class Step(msgspec.Struct):
    move: Up | Down


class Steer(Command):
    ship: Id
    engine: Pause | Resume | None = None
    steps: list[Step] = []
    named: dict[str, Up | Down] = {}


ALIKE = [
    Steer("s", Pause()),
    Steer("s", Resume()),
    Steer("s", None, [Step(Up()), Step(Down())]),
    Steer("s", None, [Step(Down()), Step(Up())]),
    Steer("s", None, [], {"a": Up(), "b": Down()}),
    Steer("s", None, [], {"a": Down(), "b": Up()}),
]


def test_values_of_two_classes_that_look_alike_are_two_commands() -> None:
    assert len({fingerprint_of(command) for command in ALIKE}) == len(ALIKE)
    assert not any(
        is_of(fingerprint_of(one), other) for one in ALIKE for other in ALIKE if one is not other
    )


def test_values_of_classes_that_look_alike_are_known_again() -> None:
    again = Steer("s", None, [], {"b": Down(), "a": Up(1)})

    assert fingerprint_of(again) == fingerprint_of(ALIKE[4])
    assert fingerprint_of(Steer("s", Pause(""))) == fingerprint_of(ALIKE[0])
    assert all(is_of(former(command), command) for command in ALIKE)


def test_a_key_that_comes_again_for_a_class_that_looks_alike_is_another_command() -> None:
    assert fingerprint_of(Steer("s")) == former(Steer("s"))
    assert fingerprint_of(Steer("s", Pause())) != former(Steer("s", Pause()))


class Asked(msgspec.Struct):
    command_name: int = 0


class Record(Command):
    place: Id
    asked: Asked


def test_a_value_in_a_command_may_have_a_field_called_as_what_commands_have() -> None:
    one, other = Record("p", Asked(1)), Record("p", Asked(2))

    assert fingerprint_of(one) == former(one) == fingerprint_of(Record("p", Asked(1)))
    assert fingerprint_of(one) != fingerprint_of(other)


class Import(Command):
    place: Id
    documents: list[msgspec.Raw]


def test_json_that_was_encoded_before_is_known_by_what_it_says() -> None:
    """As a command with a key, and as that of a timer, which has one always."""
    one, again, other = (
        fingerprint_of(Import("p", [msgspec.Raw(text)]))
        for text in (b'{"a": 1, "b": [2]}', b'{"b":[2.0],"a":1}', b'{"a": 1, "b": [3]}')
    )

    assert one == again != other
    with pytest.raises(msgspec.DecodeError):
        fingerprint_of(Import("p", [msgspec.Raw(b'{"a": ')]))
