"""Defaults that stored events rely on: fields that were left out, and fields that were added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from engine import Aggregate, Command, Engine, Event, Id, StoreRefused, applies, handles
from engine.errors import DefinitionError
from engine.model.codec import EventRegistry, schema_hash
from engine.model.schema import Sample, check_samples, check_types
from engine.model.shape import event_type
from engine.model.stored import EventData, EventType
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.sqlite.log.store import SqliteStore


def first() -> type[Event]:
    class Stayed(Event, name="stayed"):
        room: str

    return Stayed


def with_nights(default: Any = 1) -> type[Event]:
    class Stayed(Event, name="stayed", added=["nights"]):
        room: str
        nights: int = default

    return Stayed


def findings(stored: EventType, cls: type[Event]) -> list[str]:
    bare = EventType(stored.name, stored.version, stored.schema_hash)
    return [finding.rule for finding in check_types(EventRegistry([cls]), [bare])]


def test_a_field_that_is_added_goes_on_from_what_was_stored_without_it() -> None:
    assert findings(event_type(first()), with_nights()) == []
    assert findings(event_type(with_nights()), with_nights()) == []

    class Undeclared(Event, name="stayed"):
        room: str
        nights: int = 1

    assert findings(event_type(first()), Undeclared) == ["changed"]


def test_an_older_release_is_refused_where_a_newer_one_has_added() -> None:
    assert findings(event_type(with_nights()), first()) == ["changed"]


def test_fields_are_added_in_the_order_of_the_releases() -> None:
    class One(Event, name="stayed"):
        room: str

    class Two(Event, name="stayed", added=["nights"]):
        room: str
        nights: int = 1

    class Three(Event, name="stayed", added=["nights", "channel"]):
        room: str
        nights: int = 1
        channel: str = "desk"

    class Wrong(Event, name="stayed", added=["channel", "nights"]):
        room: str
        nights: int = 1
        channel: str = "desk"

    for release in (One, Two, Three):
        assert findings(event_type(release), Three) == []
    assert findings(event_type(Two), Wrong) == ["changed"]


def test_a_default_that_stored_events_rely_on_stays() -> None:
    assert findings(event_type(with_nights(1)), with_nights(2)) == ["changed"]
    assert findings(event_type(with_nights(1)), with_nights(True)) == ["changed"]
    assert findings(event_type(first()), with_nights(2)) == []


def test_a_sample_of_before_is_read_with_the_default() -> None:
    kept = Sample("stayed", 1, schema_hash(first()), msgspec.Raw(b'{"room":"7"}'))

    assert check_samples(EventRegistry([with_nights()]), [kept]) == []


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ("nights", "write a list of fields"),
        (["night"], "'night' is not"),
        (["nights", "nights"], "once"),
        (["room"], r"Bad\.room was added, and has no default"),
        (["made"], r"Bad\.made was added, and has no default that stays the same"),
    ],
)
def test_what_cannot_have_been_added_is_refused(added: Any, told: str) -> None:
    with pytest.raises(DefinitionError, match=told):

        class Bad(Event, name="bad", added=added):  # pyright: ignore[reportUnusedClass]
            room: str
            nights: int = 1
            made: str = msgspec.field(default_factory=lambda: "x")


def test_only_events_have_fields_that_were_added() -> None:
    with pytest.raises(DefinitionError, match="drop added"):

        class Book(Command, added=["nights"]):  # pyright: ignore[reportUnusedClass]
            guest: Id
            nights: int = 1


# -- fields at their defaults ---------------------------------------------------------------------


def sparing(default: int) -> type[Event]:
    class Priced(Event, name="priced", omit_defaults=True):
        net: int
        rate: int = default
        tags: list[str] = []

    return Priced


class Price(Command):
    item: Id


def shop(priced: type[Event]) -> type[Aggregate]:
    class Item(Aggregate, kind="item"):
        rate: int = 0

        @handles
        def price(self, command: Price) -> Event:
            make: Any = priced
            return make(100)  # type: ignore[no-any-return]

        @applies
        def priced(self, event: priced) -> None:  # type: ignore[valid-type]
            self.rate = event.rate  # type: ignore[attr-defined]

    return Item


def test_all_fields_are_stored_also_those_at_their_defaults() -> None:
    registry = EventRegistry([sparing(19)])

    assert registry.encode(sparing(19)(1)) == b'{"net":1,"rate":19,"tags":[]}'


async def write_as_before(path: Path, kept: type[Event]) -> None:
    """Write an event as earlier releases did: without the fields that are at their defaults."""
    store = SqliteStore(str(path))
    await store.open(Ports())
    kind = EventType("priced", 1, schema_hash(kept))
    data = EventData(kind, b'{"net":100}')
    await store.append(Batch([AppendRequest([Write("item:a", 0, [data])])], 1))
    await store.close()


async def test_events_of_before_are_read_with_the_default_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    await write_as_before(path, sparing(19))

    item = shop(sparing(19))
    async with Engine([item], store=f"sqlite:{path}") as engine:
        assert (await engine.state(item, "a")).rate == 19  # type: ignore[attr-defined]
        await engine.execute(Price("b"))
    with pytest.raises(StoreRefused, match="'priced' version 1 .* a default that stored events"):
        async with Engine([shop(sparing(7))], store=f"sqlite:{path}"):
            pass
    async with Engine([item], store=f"sqlite:{path}") as engine:
        assert (await engine.state(item, "b")).rate == 19  # type: ignore[attr-defined]


def test_defaults_of_structs_inside_that_leave_them_out_are_compared() -> None:
    def release(currency: str) -> type[Event]:
        class Money(msgspec.Struct, omit_defaults=True):
            pence: int
            unit: str = currency

        namespace = {"__annotations__": {"sums": list[Money]}, "__module__": __name__}
        make: Any = type(Event)
        return make("Paid", (Event,), namespace, name="paid")  # type: ignore[no-any-return]

    assert findings(event_type(release("GBP")), release("GBP")) == []
    assert findings(event_type(release("GBP")), release("EUR")) == ["changed"]
    # What an earlier release of the engine stored said nothing of defaults.
    assert findings(EventType("paid", 1, schema_hash(release("GBP"))), release("GBP")) == []


def unset_inside(kind: str, default: Any) -> type[Event]:
    """Give an event with a field that is left out unless it is set, or in what is inside of it."""
    fields = {"__annotations__": {"rate": int | UnsetType}, "rate": default}

    class Struct(msgspec.Struct):
        rate: int | UnsetType = default

    @dataclass
    class Data:
        rate: int | UnsetType = default

    inner: Any = Struct if kind == "struct" else Data
    if kind != "event":
        fields = {"__annotations__": {"sums": list[inner]}}
    make: Any = type(Event)
    return make("Paid", (Event,), {**fields, "__module__": __name__}, name="paid")  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["event", "struct", "dataclass"])
def test_what_is_left_out_since_it_was_not_set_stays_that(kind: str) -> None:
    unset, changed = unset_inside(kind, UNSET), unset_inside(kind, 7)

    assert findings(event_type(unset), unset) == []
    assert findings(event_type(unset), changed) == ["changed"]
    # A release of the engine that did not look at it is believed.
    assert findings(EventType("paid", 1, schema_hash(unset)), unset) == []


def test_a_default_that_no_stored_event_relies_on_may_change() -> None:
    def release(default: int) -> type[Event]:
        class Plain(Event, name="plain"):
            net: int
            rate: int = default

        return Plain

    assert event_type(release(19)) == event_type(release(7))
    assert event_type(release(19)).former == ()
