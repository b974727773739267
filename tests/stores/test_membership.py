"""Whose a thing is among the members of a log: pure functions, by their properties."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from engine.stores.contract.membership import (
    SLOTS,
    Present,
    View,
    owner_of,
    owners_of,
    slot_of,
)

members = st.lists(st.integers(1, 10**6), min_size=1, max_size=8, unique=True)
_LEAST, _MOST = 0.6, 1.5
"""Of an even share: what a member of a few may have of 256 slots."""


@given(members, st.integers(1, 10**6))
def test_only_what_a_new_member_gets_moves(there: list[int], new: int) -> None:
    if new in there:
        there.remove(new)
    before, after = owners_of(tuple(there)), owners_of((*there, new))

    assert all(a == new for b, a in zip(before, after, strict=False) if a != b)
    assert len(after) == SLOTS


@given(members, st.randoms())
def test_the_order_of_the_members_says_nothing(there: list[int], random: object) -> None:
    mixed = [*there]
    random.shuffle(mixed)  # type: ignore[attr-defined]

    assert owners_of(tuple(there)) == owners_of(tuple(mixed))
    assert owner_of("a name", there) == owner_of("a name", mixed)


def test_slots_are_spread_evenly() -> None:
    for first in range(1, 40, 3):
        for count in (2, 3, 4):
            found = Counter(owners_of(tuple(range(first, first + count))))
            assert len(found) == count
            share = SLOTS / count
            assert all(_LEAST * share <= n <= _MOST * share for n in found.values()), found


def test_streams_are_spread_evenly_and_for_ever_alike() -> None:
    found = Counter(slot_of(f"counter:c-{n}") for n in range(25_600))

    assert len(found) == SLOTS
    assert max(found.values()) < 2 * 100
    assert [slot_of(name) for name in ("account:a-1", "order:ö", "x:\udcff")] == [116, 41, 126]
    assert owner_of("tallies", (1, 2, 3)) == 2
    assert owners_of((1, 2, 3))[:8] == (1, 3, 1, 3, 3, 3, 1, 2)


def test_a_view_tells_who_has_not_seen_it() -> None:
    there = View(7, tuple(Present(n, "", "", seen, 1.0) for n, seen in ((1, 7), (2, 6))))

    assert there.is_seen_by_all(6)
    assert not there.is_seen_by_all(7)
    assert there.is_seen_by_all(7, but=2)
    assert View().owner("x") is None
    assert View().slots() == ()
