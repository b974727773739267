"""Which commands of a consumer wait for each other."""

from __future__ import annotations

from typing import Any

from engine import Command, Id
from engine.relays.lanes import ids_of, lanes_of


class Pay(Command):
    source: Id
    target: Id
    cents: int


class Share(Command):
    group: Id
    members: list[Id]
    guest: Id | None
    note: str = "nobody"


def test_the_ids_of_a_command_are_those_of_all_its_aggregates() -> None:
    assert ids_of(Pay("a", "b", 5)) == {"a", "b"}
    assert ids_of(Share("g", ["a", "b"], None)) == {"g", "a", "b"}
    assert ids_of(Share("g", [], "c")) == {"g", "c"}


def test_what_a_message_made_of_odd_values_names_nobody() -> None:
    odd: tuple[Any, ...] = ([["a"], "b"], {"c": 1}, 5)
    assert ids_of(Pay(*odd)) == {"b"}
    assert ids_of("no command") == frozenset()


def test_commands_for_different_aggregates_wait_for_nobody() -> None:
    named = [frozenset(ids) for ids in ("a", "b", "", "", "a")]
    assert lanes_of(named) == [[0, 4], [1], [2], [3]]


def test_a_command_for_two_aggregates_is_between_what_came_before_and_after_it_for_each() -> None:
    named = [frozenset(ids) for ids in ("a", "b", "c", "ab", "b", "a", "c", "cd", "d")]
    assert lanes_of(named) == [[0, 1, 3, 4, 5], [2, 6, 7, 8]]


def test_long_chains_are_one_lane() -> None:
    named = [frozenset((f"{n}", f"{n + 1}")) for n in range(5_000)]
    assert lanes_of(named) == [list(range(5_000))]
