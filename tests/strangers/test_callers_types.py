"""Callers whose values are changed later, though the declared types do not say that they can be.

What a command holds decides whether it is copied, and what it means whether two of them are equal.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from engine import Aggregate, Command, Engine, Event, Id, Query, Views, answers, applies, handles
from engine.model import fingerprint
from engine.model.copying import own_copy
from engine.model.fingerprint import fingerprint_of, is_of


class Grade(enum.Enum):
    FINE = "fine"


class Spot(msgspec.Struct, frozen=True):
    """A value that cannot change, by what it declares."""

    places: tuple[int, ...]
    label: str = ""


@dataclass(frozen=True)
class Note:
    lines: tuple[str, ...]


class Measure(Command):
    """None of its fields but the last declares what can be changed."""

    site: Id
    places: tuple[int, ...] = ()
    label: str = ""
    kinds: frozenset[str] = frozenset()
    spot: Spot | None = None
    raw: bytes = b""
    note: Note | None = None
    anything: Any = None


class Measured(Event, name="measured"):
    seen: str


class Site(Aggregate, kind="site"):
    seen: list[str] = []

    @handles
    def measure(self, command: Measure) -> Measured:
        kinds = sorted(command.kinds)
        rest = (command.spot, command.raw, command.anything)
        return Measured(repr((command.places, command.label, kinds, *rest)))

    @applies
    def measured(self, event: Measured) -> None:
        self.seen.append(event.seen)


def given_otherwise(field: str) -> tuple[Measure, Callable[[], Any]]:
    """Give a command with a value of another type than declared, and what changes the value."""
    places: Any = [1, 2]
    kinds: Any = {"a"}
    raw: Any = bytearray(b"ab")
    view: Any = memoryview(bytearray(b"ab"))
    commands: dict[str, tuple[Measure, Callable[[], Any]]] = {
        "list-for-a-tuple": (Measure("s", places), lambda: places.append(3)),
        "list-in-a-tuple": (Measure("s", anything=(places,)), lambda: places.append(3)),
        "list-for-anything": (Measure("s", anything=places), lambda: places.append(3)),
        "set-for-a-frozenset": (Measure("s", kinds=kinds), lambda: kinds.add("b")),
        "list-in-a-frozen-struct": (Measure("s", spot=Spot(places)), lambda: places.append(3)),
        "buffer-for-bytes": (Measure("s", raw=raw), lambda: raw.extend(b"c")),
        "view-for-bytes": (Measure("s", raw=view), lambda: view.__setitem__(0, 99)),
    }
    return commands[field]


FIELDS = (
    "list-for-a-tuple",
    "list-in-a-tuple",
    "list-for-anything",
    "set-for-a-frozenset",
    "list-in-a-frozen-struct",
    "buffer-for-bytes",
    "view-for-bytes",
)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("field", FIELDS)
async def test_a_value_of_another_type_is_run_as_it_was_when_it_was_sent(
    field: str, *, keyed: bool
) -> None:
    command, change = given_otherwise(field)
    same, _ = given_otherwise(field)
    async with Engine([Site]) as engine:
        first = asyncio.create_task(engine.execute(command, key="k" if keyed else None))
        await asyncio.sleep(0)
        change()
        await first
        changed = (await engine.state(Site, "s")).seen
        await engine.execute(same)

        assert (await engine.state(Site, "s")).seen == changed * 2


class Count(Query[int]):
    places: tuple[int, ...]


@answers
async def count(query: Count, views: Views) -> int:
    await asyncio.sleep(0)
    return len(query.places)


async def test_a_query_with_a_list_for_a_tuple_is_answered_as_it_was_asked() -> None:
    places: Any = [1, 2]
    async with Engine([Site], answers=[count]) as engine:
        asked = asyncio.create_task(engine.query(Count(places)))
        await asyncio.sleep(0)
        places.append(3)

        assert await asked == 2


@pytest.mark.parametrize(
    "command",
    [
        Measure("s"),
        Measure("s", (1, 2), "x", raw=b"x"),
        Measure("s", spot=Spot((1,))),
        Measure("s", label=Grade.FINE),  # type: ignore[arg-type]
        Measure("s", (date.max, Decimal(1), None, 1.5)),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_change_is_not_copied(command: Measure) -> None:
    assert own_copy(command) is command


# -- equal commands of classes with options of their own ---------------------------------------


class Listed(Command, array_like=True):
    site: Id
    height: float
    label: str = ""


class Whole(Command, omit_defaults=False):
    site: Id
    height: float
    label: str = ""


class Tagged(Command, tag="t", array_like=True, rename="camel"):
    site: Id
    height: float
    more_labels: list[str] = []


@pytest.mark.parametrize("cls", [Listed, Whole, Tagged])
def test_equal_commands_have_one_fingerprint_however_their_class_is_encoded(cls: Any) -> None:
    one, other = cls("s", 1), cls("s", 1.0)
    assert one == other
    assert fingerprint_of(one) == fingerprint_of(other)
    assert fingerprint_of(one) != fingerprint_of(cls("s", 2))


@pytest.mark.parametrize("cls", [Listed, Whole, Tagged])
def test_a_fingerprint_that_a_former_release_stored_for_such_a_class_is_known(cls: Any) -> None:
    """They took the encoded command as it was."""
    one = cls("s", 1)
    encoded = msgspec.json.Encoder(order="deterministic").encode(one)
    assert is_of(former_fingerprint(cls.command_name, encoded), one)


def former_fingerprint(name: str, content: bytes) -> int:
    digest = blake2b(name.encode() + b"\0" + content, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Odd(Command):
    site: Id
    what: Any


class Broken(enum.Enum):
    ONE = 1

    @property
    def value(self) -> int:
        raise LookupError("the table of names is gone")


class Leaving(enum.Enum):
    ONE = 1

    @property
    def value(self) -> int:
        raise SystemExit("the table of names is gone")


@pytest.mark.parametrize("value", [Broken.ONE, Leaving.ONE])
def test_what_a_value_raises_as_it_is_compared_makes_it_another_command(value: object) -> None:
    """It must not end the engine, which asks in a turn of its own."""
    assert not is_of(1, Odd("s", value))


class Long(Command):
    site: Id
    text: str
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    e: int = 0
    f: int = 0


def test_a_long_command_under_anothers_key_costs_no_more_than_a_short_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[int] = []
    real = fingerprint._digest  # pyright: ignore[reportPrivateUsage]

    def digest(form: Any, content: bytes) -> int:
        hashed.append(len(content))
        return real(form, content)

    monkeypatch.setattr(fingerprint, "_digest", digest)
    assert not is_of(1, Long("s", "x"))
    assert len(hashed) > 2**6  # as many as fields at their defaults make
    hashed.clear()
    assert not is_of(1, Long("s", "x" * 1_000_000))
    assert sum(hashed) < 8_000_000
