"""What differs between two states: named by place, in a stable order, with nothing left out."""

from __future__ import annotations

import copy
from enum import Enum
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import ABSENT, Change, difference


class Side(Enum):
    LEFT = "left"
    RIGHT = "right"


class Line(msgspec.Struct):
    quantity: int
    price: int = 250


class Other(msgspec.Struct):
    quantity: int


class State(msgspec.Struct):
    status: str = "none"
    lines: dict[str, Any] = {}
    notes: list[Any] = []
    tags: set[str] = set()
    side: Side = Side.LEFT
    rest: Any = None


CASES: list[tuple[str, State, State, list[tuple[tuple[Any, ...], Any, Any]]]] = [
    ("nothing", State(), State(), []),
    ("field", State("a"), State("b"), [(("status",), "a", "b")]),
    (
        "inside",
        State(lines={"x": Line(1), "y": Line(2)}),
        State(lines={"x": Line(1), "y": Line(3)}),
        [(("lines", "y", "quantity"), 2, 3)],
    ),
    ("added", State(), State(lines={"x": Line(1)}), [(("lines", "x"), ABSENT, Line(1))]),
    ("removed", State(lines={"x": Line(1)}), State(), [(("lines", "x"), Line(1), ABSENT)]),
    (
        "another-class",
        State(lines={"x": Line(1)}),
        State(lines={"x": Other(1)}),
        [(("lines", "x"), Line(1), Other(1))],
    ),
    ("grown", State(notes=["a"]), State(notes=["a", "b"]), [(("notes", 1), ABSENT, "b")]),
    ("shrunk", State(notes=["a", "b"]), State(notes=["b"]), [(("notes", 0), "a", ABSENT)]),
    (
        "inserted",
        State(notes=["a", "b", "c"]),
        State(notes=["a", "x", "y", "b", "c"]),
        [(("notes", 1), ABSENT, "x"), (("notes", 2), ABSENT, "y")],
    ),
    (
        "replaced-and-shrunk",
        State(notes=["a", "b", "c", "z"]),
        State(notes=["a", "x", "z"]),
        [(("notes", 1), "b", "x"), (("notes", 2), "c", ABSENT)],
    ),
    (
        "in-a-list",
        State(notes=[{"k": Line(1)}, 7]),
        State(notes=[{"k": Line(4)}, 7]),
        [(("notes", 0, "k", "quantity"), 1, 4)],
    ),
    (
        "sets",
        State(tags={"a", "b", "d"}),
        State(tags={"b", "c", "e"}),
        [
            (("tags", "a"), "a", ABSENT),
            (("tags", "d"), "d", ABSENT),
            (("tags", "c"), ABSENT, "c"),
            (("tags", "e"), ABSENT, "e"),
        ],
    ),
    ("enum", State(), State(side=Side.RIGHT), [(("side",), Side.LEFT, Side.RIGHT)]),
    ("one-is-not-true", State(rest=1), State(rest=True), [(("rest",), 1, True)]),
    ("text-is-one-value", State(rest="abc"), State(rest="abd"), [(("rest",), "abc", "abd")]),
    ("a-list-is-no-tuple", State(rest=[1]), State(rest=(1,)), [(("rest",), [1], (1,))]),
    ("nan-stays-nan", State(rest=float("nan")), State(rest=float("nan")), []),
    ("nothing-to-struct", State(), State(rest=Line(1)), [(("rest",), None, Line(1))]),
    (
        "order-of-fields-and-keys",
        State("a", {"z": 1, "a": 2}, side=Side.LEFT),
        State("b", {"q": 9, "a": 3, "b": 8}, side=Side.RIGHT),
        [
            (("status",), "a", "b"),
            (("lines", "z"), 1, ABSENT),
            (("lines", "a"), 2, 3),
            (("lines", "q"), ABSENT, 9),
            (("lines", "b"), ABSENT, 8),
            (("side",), Side.LEFT, Side.RIGHT),
        ],
    ),
]


@pytest.mark.parametrize(
    ("before", "after", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_changes_name_the_place_and_both_values(
    before: State, after: State, expected: list[tuple[tuple[Any, ...], Any, Any]]
) -> None:
    kept = copy.deepcopy((before, after))

    assert difference(before, after) == tuple(Change(*change) for change in expected)
    assert msgspec.json.encode((before, after), order="sorted") == msgspec.json.encode(
        kept, order="sorted"
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from("ab"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
        | st.builds(State, status=st.sampled_from("ab"), rest=inner)
    ),
    max_leaves=12,
)


def put(value: Any, path: tuple[Any, ...], change: Change) -> Any:
    """Give the value with one change done to it."""
    if not path:
        assert repr(value) == repr(change.before)
        return change.after
    step, rest = path[0], path[1:]
    if isinstance(value, msgspec.Struct):
        setattr(value, step, put(getattr(value, step), rest, change))
    elif rest or (change.before is not ABSENT and change.after is not ABSENT):
        value[step] = put(value[step], rest, change)
    elif change.after is ABSENT:
        assert repr(value.pop(step)) == repr(change.before)
    elif isinstance(value, list):
        value.insert(step, change.after)
    else:
        assert step not in value
        value[step] = change.after
    return value


@settings(deadline=None)
@given(values, values)
def test_the_changes_lead_from_one_to_the_other(before: Any, after: Any) -> None:
    """Additions in their order, removals from the back: then every place is still where it was."""
    changes = difference(before, after)
    found = copy.deepcopy(before)
    for change in [c for c in changes if c.after is not ABSENT]:
        found = put(found, change.path, copy.deepcopy(change))
    for change in reversed([c for c in changes if c.after is ABSENT]):
        found = put(found, change.path, change)

    assert msgspec.json.encode(found, order="sorted") == msgspec.json.encode(after, order="sorted")
    assert difference(found, after) == ()
    assert bool(changes) == (
        msgspec.json.encode(before, order="sorted") != msgspec.json.encode(after, order="sorted")
    )


def test_a_change_is_a_line_for_people() -> None:
    before = State(lines={"a@2": Line(1), "b": 7})
    after = State("b", lines={"a@2": Line(2), "c": "x" * 500}, side=Side.RIGHT)
    lines = [str(change) for change in difference(before, after)]

    assert lines[:3] == [
        "~ status: 'none' -> 'b'",
        "~ lines['a@2'].quantity: 1 -> 2",
        "- lines['b']: 7",
    ]
    assert lines[3].startswith("+ lines['c']: 'xxx")
    assert lines[3].endswith("x…")
    assert len(lines[3]) < 150
    assert lines[4:] == ["~ side: left -> right"]


def test_a_field_is_told_from_a_key_in_the_text_and_equals_its_name() -> None:
    [change] = difference(State(rest={"rest": {0: 1}}), State(rest={"rest": {0: 2}}))

    assert change.where == "rest['rest'][0]"
    assert change.path == ("rest", "rest", 0)
    assert repr(ABSENT) == "ABSENT"


# -- what it costs ---------------------------------------------------------------------------


def nested(depth: int, width: int, innermost: Any) -> Any:
    value = innermost
    for _ in range(depth):
        value = [value, *range(width)]
    return value


class Counted:
    """Counts how often it is compared."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.compared = 0

    def __eq__(self, other: object) -> bool:
        self.compared += 1
        return isinstance(other, Counted) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


@pytest.mark.parametrize("depth", [1, 10, 40])
def test_what_lies_deep_is_compared_no_more_often(depth: int) -> None:
    before, after = Counted(1), Counted(2)
    changes = difference(nested(depth, 2, before), nested(depth, 2, after))

    assert changes == (Change((0,) * depth, before, after),)
    assert before.compared + after.compared < 20


def test_states_deeper_than_the_stack_are_compared() -> None:
    before, after = nested(3_000, 0, "a"), nested(3_000, 0, "b")
    mapping_before: Any = "a"
    mapping_after: Any = "b"
    for _ in range(3_000):
        mapping_before, mapping_after = {"k": mapping_before}, {"k": mapping_after}

    assert [len(change.path) for change in difference(before, after)] == [3_000]
    assert [len(change.path) for change in difference(mapping_before, mapping_after)] == [3_000]
    assert difference(before, nested(3_000, 0, "a")) == ()


def test_what_is_shared_inside_a_state_is_looked_at_once() -> None:
    shared_before: Any = ["a"]
    shared_after: Any = ["a"]
    for _ in range(60):
        shared_before = [shared_before, shared_before]
        shared_after = [shared_after, shared_after]

    assert difference(shared_before, shared_after) == ()


@pytest.mark.parametrize(
    ("before", "after", "paths"),
    [
        ({1: "a"}, {True: "a"}, [(1,), (True,)]),
        ({1: "a", 2: "b"}, {1.0: "a", 2: "b"}, [(1,), (1.0,)]),
        ({(1, 0): "a"}, {(True, 0): "a"}, [((1, 0),), ((True, 0),)]),
        ({0}, {False}, [(0,), (False,)]),
        (frozenset([(1,)]), frozenset([(1.0,)]), [((1,),), ((1.0,),)]),
        ([{1}, 2], [{True}, 2], [(0, 1), (0, True)]),
    ],
)
def test_keys_and_members_of_another_type_are_others(
    before: Any, after: Any, paths: list[tuple[Any, ...]]
) -> None:
    assert repr([change.path for change in difference(before, after)]) == repr(paths)


def test_values_without_a_hash_and_circles_are_compared() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    other: list[Any] = [2]
    other.append(other)

    assert difference(bytearray(b"a"), bytearray(b"a")) == ()
    assert [c.path for c in difference([bytearray(b"a"), 1], [bytearray(b"b"), 1])] == [(0,)]
    assert [c.path for c in difference(circle, other)] == [(0,)]
