"""Read models as rows of a database elsewhere that changes one row at a time.

Rules: a row has the position of the event that it was last changed by, and only a later event
changes it: what comes again, or late from a former life of the process, changes nothing. Rows of a
raised version are made beside the others, and readers find them when they are as far as those that
they replace. What is not the model's is never touched. Nothing of a database is known here: what
it does is its `Place`.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

import msgspec

from ..brokers.client import unexpected
from ..errors import BrokerFailed, EngineError, MessageRefused, UsageError
from ..model.codec import masked
from ..model.given import as_function
from ..model.messages import Event, Meta
from ..model.sink import Delivered, Delivery, Sink
from ..relays.outlet import PER_TURN
from .read_model import ERASE_TIMES, batch_of, events_of, named, refusal_of

__all__ = ["Apply", "Change", "Found", "Key", "Place", "Row", "State", "States", "row_model"]

ROWS_AGAIN: Final = 5_000
"""Rows that are made anew in one reading of the log."""
Row: TypeAlias = Mapping[str, Any]
"""Fields of a row, by name."""
Apply: TypeAlias = Callable[[Any, Any, Meta], Mapping[str, Any] | None]
"""Gives the row after an event, of the row before it; None for no row."""
Key: TypeAlias = Callable[[Any, Meta], str]
"""Gives the key of the row that an event changes."""


class State(msgspec.Struct, frozen=True):
    """How far the rows of a version are."""

    log_id: str
    position: int
    event: str
    """Names the event at that position."""


class States(msgspec.Struct, frozen=True):
    """What a database has of a model."""

    own: State | None
    """Of this version."""
    former: State | None
    """Of the version that readers find."""
    is_shown: bool
    """Whether readers find this version."""


class Found(msgspec.Struct, frozen=True):
    """A row as it was found."""

    position: int
    """Of its last event; 0 where nothing is known."""
    row: Row | None


class Change(msgspec.Struct, frozen=True):
    """What a row is to become, unless a later event has changed it already."""

    key: str
    before: Found
    position: int
    row: Row | None
    """None where there is to be none."""
    is_again: bool = False
    """Whether the row is to be another one at the position that it has, since a person was erased.
    """


class Place(Protocol):
    """The rows of one version of a model in one database."""

    def where(self) -> str:
        """Name the database, without a secret."""
        ...

    def failures(self) -> AbstractContextManager[None]:
        """Give what turns errors of the client's into BrokerFailed and MessageRefused."""
        ...

    async def load(self) -> None:
        """Import the client, and let the loop run meanwhile."""
        ...

    async def open(self) -> States:
        """Connect, and make what is missing; raise BrokerFailed for what is not the model's."""
        ...

    async def fail(self) -> None:
        """Let go of what may be broken: something has failed, and `open` comes next, or `close`."""
        ...

    async def close(self) -> None:
        """Close the connection, where there is one."""
        ...

    def row(self, made: Mapping[str, Any]) -> Row | None:
        """Give a row as it will be read; raise TypeError or ValueError for what is none."""
        ...

    async def read(self, keys: Sequence[str]) -> Sequence[Found]:
        """Give rows, in the order of their keys."""
        ...

    async def write(self, changes: Sequence[Change]) -> None:
        """Change rows; raise MessageRefused where it is one of them that is not taken."""
        ...

    async def note(self, state: State) -> None:
        """Keep how far the rows are."""
        ...

    async def show(self) -> None:
        """Let readers find the rows of this version, at one moment, and let go of all others.

        A second call lets go of what was begun since as another version, and given up.
        """
        ...

    async def remove_old(self) -> bool:
        """Remove some of what nobody finds any more; tell whether some may be left."""
        ...


class _Keeping(Sink):
    """What all such read models do; a class is made of it for each."""

    _erase_times = ERASE_TIMES
    model_place: ClassVar[Callable[[str], Place]]
    model_apply: ClassVar[Apply]
    model_key: ClassVar[Key]
    _place: Place | None = None
    _is_open: bool = False
    _state: State | None = None
    _former: State | None = None
    _is_shown: bool = False

    @classmethod
    def __read__(cls, definition: Any, namespace: Any) -> Any:
        """Read a class as any sink's."""
        return super().__read__(definition, namespace)

    async def keep(self, batch: Sequence[Delivery[Event]]) -> None:
        """Apply events; return when the database has all of them."""
        place = await self._loaded()
        try:
            if not self._is_open:
                with _asking(place):
                    first = batch[0]
                    await self._take(await place.open(), first.log_id, first.position)
                self._is_open = True
            await self._apply(place, batch)
            is_as_far = self._former is None or self._former.position <= batch[-1].position
            with _asking(place):
                if not self._is_shown and is_as_far:
                    await place.show()
                    self._is_shown = True
                if self._is_shown:
                    await place.remove_old()
        except MessageRefused:
            raise
        except BaseException:
            self._is_open = False
            await place.fail()
            raise

    async def erase(self, subjects: Sequence[str]) -> None:
        """Make the rows of people anew, of events that have nothing of them any more."""
        delivered = self._delivered
        assert delivered is not None, "the projector gives it"
        found: dict[str, None] = {}
        after: int | None = 0
        while after is not None:
            page, after = await delivered.again(after, subjects)
            found.update((self._key_of(each), None) for each in page)
        keys = list(found)
        place = await self._loaded()  # also for nobody: rows of a former version may have them
        try:
            if not self._is_open:
                with _asking(place):
                    await self._take(await place.open(), delivered.log_id, None)
                self._is_open = True
            for first in range(0, len(keys), ROWS_AGAIN):
                await self._make_again(place, delivered, keys[first : first + ROWS_AGAIN])
            self._is_shown = self._is_shown or await self._is_as_far(delivered)
            is_there = self._is_shown
            if is_there:
                with _asking(place):
                    await place.show()  # a version that was begun and given up has the person too
            while is_there:  # so has a former one, and no batch may come for long
                with _asking(place):
                    is_there = await place.remove_old()
        except BaseException:
            self._is_open = False
            await place.fail()
            raise
        if not self._is_shown and self._former is not None:
            raise BrokerFailed(
                f"readers of {place.where()} find rows of a former version until those of this one "
                f"are as far (read model {self.__definition__.name!r})",
                passes=True,
            )

    async def _is_as_far(self, delivered: Delivered) -> bool:
        """Tell whether this version has all that is to come before what a former one has."""
        own, former = self._state, self._former
        if own is None or former is None:
            return False
        return await delivered.missed(own.position, former.position + 1) is None

    async def _make_again(self, place: Place, delivered: Delivered, keys: Sequence[str]) -> None:
        """Fold rows from the beginning, up to the event that each has, and put them in place."""
        with _asking(place):
            found = dict(zip(keys, await place.read(keys), strict=True))
        end = max(each.position for each in found.values())
        rows: dict[str, Row | None] = {}
        after: int | None = 0
        while after is not None and after < end:
            page, after = await delivered.again(after)
            for delivery in page:
                key = self._key_of(delivery)
                if key in found and delivery.position <= found[key].position:
                    rows[key] = self._row_after(place, rows.get(key), [delivery])
        changes = [
            Change(key, before, before.position, rows.get(key), is_again=True)
            for key, before in found.items()
            if before.row != rows.get(key)
        ]
        if changes:
            with _asking(place):
                await place.write(changes)

    async def _loaded(self) -> Place:
        if self._place is None:
            place = type(self).model_place(self.__definition__.name)
            await place.load()
            self._place = place
        return self._place

    async def close(self) -> None:
        """Close the connection."""
        place, self._place, self._is_open = self._place, None, False
        if place is not None:
            await place.close()

    async def _take(self, found: States, log_id: str, first: int | None) -> None:
        """Take what a database has, before the event at a position, or before none."""
        state = found.own or State(log_id, 0, "")
        if {log_id} != {each.log_id for each in (state, found.former or state)}:
            raise self._refused("has rows of another log: give the model another name")
        if state != self._state:
            before = state.position if first is None else first
            why = await refusal_of(self._delivered, state.position, state.event, before)
            if why is not None:
                raise self._refused(why)
        self._state = state
        self._former = found.former
        self._is_shown = found.is_shown

    async def _apply(self, place: Place, batch: Sequence[Delivery[Event]]) -> None:
        state = self._state
        assert state is not None
        keys: dict[str, list[Delivery[Event]]] = {}
        for delivery in batch:
            keys.setdefault(self._lasting_key_of(delivery), []).append(delivery)
        changes: list[Change] = []
        with _asking(place):
            found = await place.read(list(keys))
        for index, (key, before) in enumerate(zip(keys, found, strict=True), 1):
            later = [delivery for delivery in keys[key] if delivery.position > before.position]
            if later:
                row = self._row_after(place, before.row, later)
                changes.append(Change(key, before, later[-1].position, row))
            if index % PER_TURN == 0:
                await asyncio.sleep(0)
        with _asking(place):
            if changes:
                await place.write(changes)
            if batch[-1].position > state.position:
                state = State(batch[-1].log_id, batch[-1].position, named(batch[-1]))
                await place.note(state)
                self._state = state

    def _key_of(self, delivery: Delivery[Event]) -> str:
        key: Any = type(self).model_key(delivery.event, delivery.meta)
        if isinstance(key, str):
            return key
        raise UsageError(
            f"read model {self.__definition__.name!r}: key= gave {type(key).__name__} for "
            f"{type(delivery.event).event_name}, and a key is a str"
        )

    def _lasting_key_of(self, delivery: Delivery[Event]) -> str:
        """Give it; refuse one that is another when the person is erased: that row would stay."""
        key, later = self._key_of(delivery), masked(delivery.event)
        if later is delivery.event:
            return key
        try:
            is_lasting = type(self).model_key(later, delivery.meta) == key
        except Exception:
            is_lasting = False
        if not is_lasting:
            raise self._refused(
                f"gets no row of {type(delivery.event).event_name}, whose key is made of personal "
                f"data: the row would stay when that person is erased. Let key= give an id without "
                f"meaning, and remove what an earlier release has put there"
            )
        return key

    def _row_after(
        self, place: Place, row: Row | None, events: Sequence[Delivery[Event]]
    ) -> Row | None:
        for delivery in events:
            made: Any = type(self).model_apply(row, delivery.event, delivery.meta)
            try:
                if not issubclass(type(made), (Mapping, type(None))):
                    raise TypeError(f"a {type(made).__name__}, and a row is a mapping or None")
                with place.failures():  # a client may refuse what cannot be sent
                    row = None if made is None else place.row(made)
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"read model {self.__definition__.name!r}: apply= gave no row for "
                    f"{type(delivery.event).event_name}: {error}"
                ) from None
        return row

    def _refused(self, why: str) -> BrokerFailed:
        where = "" if self._place is None else self._place.where()
        return BrokerFailed(
            f"{where} {why}. Nothing was changed (read model {self.__definition__.name!r})",
            passes=False,
        )


@contextmanager
def _asking(place: Place) -> Generator[None]:
    """Let no error of a client's blame an event; `apply` and `key` are not called in here."""
    try:
        with place.failures():
            yield
    except EngineError:
        raise
    except Exception as error:
        failed = unexpected(place.where(), error)
    else:
        return
    raise failed


def row_model(
    name: str,
    *,
    place: Callable[[str], Place],
    where: str,
    events: Sequence[type[Event]],
    apply: Apply,
    key: Key | None,
    version: int,
    on_poison: Literal["stop", "park"] = "stop",
    events_max: int | None = None,
) -> type[Sink]:
    """Give the class of a read model; raise DefinitionError for what cannot be one.

    With "park" what is set aside is the events of a row, in their order.
    """
    found = events_of(name, events)
    as_function(f"read model {name!r}: apply", apply)
    if key is not None:
        as_function(f"read model {name!r}: key", key)

    async def deliver(self: _Keeping, batch: Any) -> None:
        await self.keep(batch)

    def own_id(_: Any, meta: Meta) -> str:
        return meta.id

    deliver.__annotations__ = {"batch": batch_of(found), "return": None}
    members = {
        "deliver": deliver,
        "events_max": events_max,
        "model_place": staticmethod(place),
        "model_apply": staticmethod(apply),
        "model_key": staticmethod(key or own_id),
        "__module__": __name__,
        "__doc__": f"Keeps the read model {name} in {where}.",
    }
    options: dict[str, Any] = {"name": name, "version": version, "on_poison": on_poison}
    if key is not None:
        options["sequence"] = key
    return types.new_class(f"ReadModel {name}", (_Keeping,), options, lambda ns: ns.update(members))
