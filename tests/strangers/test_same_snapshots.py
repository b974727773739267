"""Snapshots of states that come back equal and are not the same, or do not come back at all."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from engine import Aggregate, Command, Engine, Event, Id, applies, handles
from engine.model.sameness import first_difference


class Point(msgspec.Struct):
    x: int = 0
    others: list[Any] = []


class Fixed(msgspec.Struct, frozen=True):
    parts: list[int]


class Noted(msgspec.Struct, dict=True):
    x: int = 0


POINT = Point(1)
LIST = [1, 2]
FIXED = Fixed(LIST)


def with_note() -> Noted:
    noted = Noted(1)
    noted.cached = 5  # type: ignore[attr-defined]
    return noted


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        ([POINT, POINT], [Point(1), Point(1)], "[1]"),
        ([Point(1), Point(1)], [POINT, POINT], "[1]"),
        ({"a": LIST, "b": [LIST]}, {"a": [1, 2], "b": [[1, 2]]}, "[str][0]"),
        ((FIXED, FIXED), (Fixed([1, 2]), Fixed([1, 2])), "[1].parts"),
        ([Counter(a=1)], [{"a": 1}], "[0]"),
        (OrderedDict(a=1), {"a": 1}, "."),
        (defaultdict(list), defaultdict(set), ".default_factory"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "[str]"),
        ([1, True], [1, 1], "[1]"),
        ([1.0], [1], "[0]"),
        ([Decimal("1.0")], [1], "[0]"),
        ({1}, {True}, ".members"),
        (with_note(), Noted(1), ".cached"),
        (datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")), datetime(2026, 1, 1, tzinfo=UTC), "."),
        ([[], [[1]]], [[], [[2]]], "[1][0][0]"),
    ],
)
def test_what_is_equal_is_not_always_the_same(one: object, other: object, where: str) -> None:
    assert first_difference(one, other) == where


@pytest.mark.parametrize(
    "make",
    [
        lambda: Point(1, [Point(2), {"a": {1, 2}}, (1, (2,)), None, 1.5, b"x", Decimal("1.50")]),
        lambda: [float("nan"), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))],
        lambda: {"k": Fixed([1]), "empty": ((), frozenset(), "")},
        with_note,
    ],
)
def test_what_is_the_same_is_found_to_be_so(make: Any) -> None:
    assert first_difference(make(), make()) is None
    twice = make()
    once = make()
    assert first_difference([twice, twice], [once, once]) is None


class Enlist(Command):
    club: Id
    name: str


class Tell(Command):
    club: Id


class Enlisted(Event, name="enlisted"):
    name: str


class Told(Event, name="told"):
    visits: int


class Member(msgspec.Struct):
    name: str
    visits: int = 0


def club(every: int | None) -> type[Aggregate]:
    class Club(Aggregate, kind="club", snapshot_every=every):
        members: list[Member] = []
        newest: Member | None = None

        @handles
        def enlist(self, command: Enlist) -> Enlisted:
            return Enlisted(command.name)

        @handles
        def tell(self, command: Tell) -> Told:
            return Told(sum(member.visits for member in self.members))

        @applies
        def enlisted(self, event: Enlisted) -> None:
            if self.newest is None or self.newest.name != event.name:
                self.newest = Member(event.name)
                self.members.append(self.newest)
            self.newest.visits += 1

        @applies
        def told(self, event: Told) -> None:
            pass

    return Club


@pytest.mark.parametrize("every", [None, 1, 2, 3])
async def test_a_decision_does_not_depend_on_whether_there_are_snapshots(
    tmp_path: Path, every: int | None
) -> None:
    path = f"sqlite:{tmp_path / 'club.db'}"
    for names in (["ann", "ann", "ann"], ["ann", "ann", "bob"]):
        async with Engine([club(every)], store=path) as engine:
            for name in names:
                await engine.execute(Enlist("c", name))
    last = club(every)
    async with Engine([last], store=path) as engine:
        await engine.execute(Tell("c"))
        told = [p.event async for p in engine.history(last, "c") if isinstance(p.event, Told)]
    assert told == [Told(6)]


class Bank(Event, name="banked"):
    cents: int


class Put(Command):
    safe: Id
    cents: int


class NoDebts(BaseException):
    """A domain's own error, and no Exception."""


refused: list[type[BaseException]] = []
"""What the release that runs raises for debts."""


class Money(msgspec.Struct):
    cents: int = 0

    def __post_init__(self) -> None:
        if self.cents < 0 and refused:
            raise refused[-1]


class Safe(Aggregate, kind="safe", snapshot_every=1):
    money: Money = msgspec.field(default_factory=Money)

    @handles
    def put(self, command: Put) -> Bank:
        return Bank(command.cents)

    @applies
    def banked(self, event: Bank) -> None:
        self.money.cents += event.cents


@pytest.mark.parametrize("error", [LookupError, NoDebts, SystemExit, RecursionError])
async def test_a_snapshot_that_cannot_be_decoded_is_not_believed(
    tmp_path: Path,
    error: type[BaseException],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING)
    path = f"sqlite:{tmp_path / 'safe.db'}"
    async with Engine([Safe], store=path) as engine:
        await engine.execute(Put("old", -5))
    monkeypatch.setattr(f"{__name__}.refused", [error])
    async with Engine([Safe], store=path) as engine:
        assert (await engine.execute(Put("old", 1))).version == 2
        assert (await engine.execute(Put("new", 1))).version == 1
        assert engine.statistics().aggregates.distrusted == 1
    assert f"its state cannot be decoded ({error.__name__})" in caplog.text
