"""Classes as hosts write them: what is legitimate works, and what is not is refused as it is made.

The annotations here are strings, and many classes stand inside functions, as in many test suites.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import pathlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, NamedTuple, NewType, NoReturn, Protocol, TypeVar

import msgspec
import pytest

from engine import (
    Aggregate,
    Archive,
    Command,
    DefinitionError,
    Engine,
    Event,
    Id,
    Limits,
    Rejected,
    Row,
    StreamUnreadable,
    UsageError,
    applies,
    handles,
)
from engine.errors import EngineError

T = TypeVar("T")
ParcelId = NewType("ParcelId", Id)  # pyright: ignore[reportGeneralTypeIssues]


class Pair(msgspec.Struct, Generic[T], frozen=True):
    """A generic value."""

    first: T
    rest: tuple[T, ...] = ()


class Chain(msgspec.Struct, Generic[T]):
    """A generic value that holds itself."""

    value: T
    next: Chain[T] | None = None


class Point(NamedTuple):
    marks: list[str]


class Put(Command):
    shelf: Id


class Kept(Event, name="kept"):
    pass


class Shelf(Aggregate, kind="shelf"):
    kept: int = 0

    @handles
    def put(self, command: Put) -> Kept:
        return Kept()

    @applies
    def keep(self, event: Kept) -> None:
        self.kept += 1


class Shaped(Protocol):
    def area(self) -> int: ...


# -- what works -----------------------------------------------------------------------------------


async def test_generic_structs_are_fields_of_commands_events_and_states(tmp_path: Path) -> None:
    class Pack(Command):
        parcel: ParcelId  # pyright: ignore[reportInvalidTypeForm]
        pair: Pair[int]
        chain: Chain[str]

    class Packed(Event, name="packed"):
        pair: Pair[int]
        chain: Chain[str]

    class Parcel(Aggregate, kind="parcel", snapshot_every=1):
        pair: Pair[int] | None = None
        chain: Chain[str] | None = None

        @handles
        def pack(self, command: Pack) -> Packed:
            return Packed(command.pair, command.chain)

        @applies
        def packed(self, event: Packed) -> None:
            self.pair, self.chain = event.pair, event.chain

    store = f"sqlite:{tmp_path / 'log.db'}"
    given = Pair(1, (2,)), Chain("a", Chain("b"))
    for _ in range(2):
        async with Engine([Parcel], store=store) as engine:
            command = Pack(ParcelId("p"), *given)
            receipt = await engine.execute(command, key="k")
            state = await engine.state(Parcel, "p")

            assert receipt.version == 1
            assert (state.pair, state.chain) == given


async def test_fields_name_classes_of_the_same_function() -> None:
    class Size(enum.Enum):
        SMALL = "small"

    @dataclass(frozen=True)
    class Label:
        text: str = ""

    class Stick(Command):
        box: Id
        label: Label
        size: Size = Size.SMALL

    class Stuck(Event, name="stuck"):
        label: Label | None
        sizes: list[Size]

    class Box(Aggregate, kind="box"):
        label: Label | None = None
        sizes: list[Size] = []

        @handles
        def stick(self, command: Stick) -> Stuck:
            return Stuck(command.label, [command.size])

        @applies
        def stuck(self, event: Stuck) -> None:
            self.label, self.sizes = event.label, event.sizes

    async with Engine([Box]) as engine:
        await engine.execute(Stick("b", Label("fragile")), key="k")

        assert (await engine.state(Box, "b")).label == Label("fragile")


@pytest.mark.parametrize("writer", ["thread", "process"])
async def test_a_hash_of_any_size_is_a_snapshot_version(tmp_path: Path, writer: str) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}?writer={writer}"
    restored: list[int] = []
    for source in ("one", "one", "other"):
        number = int(sha256(source.encode()).hexdigest(), 16)

        class Versioned(Shelf, kind="shelf", snapshot_every=1, snapshot_version=number):
            pass

        async with Engine([Versioned], store=store) as engine:
            await engine.execute(Put("s"))
            restored.append(engine.statistics().aggregates.restored)

    assert restored == [0, 1, 0]


def test_a_number_that_a_column_takes_is_the_snapshot_version_itself() -> None:
    class Versioned(Shelf, kind="shelf", snapshot_version=7):
        pass

    assert Versioned.__definition__.snapshot_version == 7


@pytest.mark.parametrize(
    "fit", [Any, object, Iterable[int], Shaped, dict[tuple[int, int], str], Pair[int], Point]
)
def test_a_command_takes_what_may_be_encoded(fit: Any) -> None:
    assert command_with(fit).command_name == "carry"


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unfit",
    [
        pathlib.Path,
        complex,
        Callable[[], int],
        list[complex],
        dict[str, pathlib.Path],
        Pair[complex],
        collections.deque,
        type,
    ],
)
def test_a_command_of_what_nothing_encodes_is_refused_as_it_is_made(unfit: Any) -> None:
    with pytest.raises(DefinitionError, match=r"the field Carry\.what.* nothing encodes"):
        command_with(unfit)


def command_with(field: Any) -> type[Command]:
    annotations = {"carrier": Id, "what": field}
    made: Any = type(Command)
    found: type[Command] = made(
        "Carry", (Command,), {"__module__": __name__, "__annotations__": annotations}
    )
    return found


def test_a_field_of_a_class_that_comes_later_is_refused_with_its_name() -> None:
    with pytest.raises(DefinitionError, match=r"a field of .*Early cannot be resolved: .*'Later'"):

        class Early(Aggregate, kind="early"):  # pyright: ignore[reportUnusedClass]
            what: Later | None = None

            @handles
            def add(self, command: Put) -> None: ...

    class Later(msgspec.Struct):
        pass


def test_a_handler_that_only_rejects_may_say_so() -> None:
    class Shut(Aggregate, kind="shut"):
        @handles
        def put(self, command: Put) -> NoReturn:
            raise Rejected("shut", "nothing is taken")

    assert Shut.__definition__.handlers.keys() == {Put}


@pytest.mark.parametrize("mark", [staticmethod, classmethod, property])
def test_a_marked_method_that_is_no_plain_one_is_refused(mark: Any) -> None:
    """It would be passed over without a word, and its command handled by nobody."""

    def put(self: Any, command: Put) -> Kept:
        return Kept()

    with pytest.raises(DefinitionError, match=f"is a {mark.__name__}: mark a plain `def`"):
        handles(mark(put))
    with pytest.raises(DefinitionError, match=f"is a {mark.__name__}: mark a plain `def`"):

        class Odd(Shelf, kind="odd"):  # pyright: ignore[reportUnusedClass]
            again = mark(handles(put))


@pytest.mark.parametrize(
    "given",
    [
        {"limits": 5},
        {"ports": Limits()},
        {"logger": "foldline"},
        {"authorize": True},
        {"resources": [Limits]},
        {"resources": {"limits": Limits()}},
        {"answers": 5},
        {"answers": print},
        {"upcasters": 5},
        {"retired": ["kept"]},
    ],
    ids=str,
)
def test_what_an_engine_cannot_be_made_with_is_refused_by_name(given: dict[str, Any]) -> None:
    [name] = given
    with pytest.raises(DefinitionError, match=f"^{name}= "):
        Engine([Shelf], **given)


# -- what is shared -------------------------------------------------------------------------------


async def test_a_named_tuple_in_a_command_is_copied_with_what_it_holds() -> None:
    class Draw(Command):
        sheet: Id
        point: Point
        more: Any = None

    class Drawn(Event, name="drawn"):
        marks: list[str]

    class Sheet(Aggregate, kind="sheet"):
        @handles
        def draw(self, command: Draw) -> Drawn:
            return Drawn([*command.point.marks, *map(str, command.more)])

        @applies
        def drawn(self, event: Drawn) -> None: ...

    marks, more = ["as sent"], collections.deque([1])
    async with Engine([Sheet]) as engine:
        sending = asyncio.ensure_future(engine.execute(Draw("s", Point(marks), more)))
        await asyncio.sleep(0)
        marks.append("changed")
        more.append(2)
        await sending
        page = await engine.history(Sheet, "s")

    event = page.events[0].event
    assert isinstance(event, Drawn)
    assert event.marks == ["as sent", "1"]


# -- looking back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raised",
    [Rejected("no", "not so"), EngineError("x"), asyncio.CancelledError(), SystemExit(3)],
    ids=lambda error: type(error).__name__,
)
async def test_what_an_applier_raises_is_no_answer_to_who_looks_back(raised: Any) -> None:
    class Fragile(Aggregate, kind="shelf"):
        @handles
        def put(self, command: Put) -> Kept:
            return Kept()

        @applies
        def kept(self, event: Kept) -> None:
            if raises:
                raise raised

    raises: list[bool] = []
    async with Engine([Fragile]) as engine:
        await engine.execute(Put("s"))
        raises.append(True)
        with pytest.raises(StreamUnreadable, match=f"kept failed on .* {type(raised).__name__}"):
            await engine.state(Fragile, "s")
        with pytest.raises(StreamUnreadable):
            await engine.difference(Fragile, "s", 0, 1)
        raises.clear()

        assert (await engine.state(Fragile, "s")).version == 1


async def test_an_archive_is_opened_once_at_a_time(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'log.db'}"
    async with Engine([Shelf], store=store) as engine:
        await engine.execute(Put("s"))
    archive = Archive([Shelf], store=store)
    for _ in range(2):
        async with archive:
            with pytest.raises(UsageError, match="open here already"):
                await archive.__aenter__()

            assert (await archive.state(Shelf, "s")).version == 1


HOLDS_ITSELF = """
type Tree = list[Tree] | int

class Grow(Command):
    id: Id
    tree: Tree

class Stump(Row, key="id"):
    id: str
    height: int

def event():
    class Grown(Event, name="grown", version=1):
        tree: Tree

def row():
    class Planted(Row, key="id"):
        id: str
        tree: Tree

def state():
    class Wood(Aggregate, kind="wood", snapshot_every=1):
        tree: Tree = 0

        @handles
        def grow(self, command: Grow) -> Kept:
            return Kept()

        @applies
        def kept(self, event: Kept) -> None: ...

    Engine([Wood])
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type` statements came with 3.12")
@pytest.mark.parametrize("declared", ["event", "row", "state"])
def test_an_alias_that_holds_itself_is_told_what_to_be(declared: str) -> None:
    names: dict[str, Any] = {**globals(), "Row": Row, "__name__": __name__}
    exec(compile(HOLDS_ITSELF, "<test>", "exec", dont_inherit=True), names)
    with pytest.raises(DefinitionError, match="make it a class"):
        names[declared]()


def test_a_version_that_no_store_can_count_to_is_refused() -> None:
    with pytest.raises(DefinitionError, match="at most 18 digits"):

        class Far(Event, name="far", version=2**63):  # pyright: ignore[reportUnusedClass]
            pass
