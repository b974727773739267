"""A projection folded in memory, and events for a sink: tests of the read side without an engine.

Rules: as in `scenario`: events are encoded, decoded and given as copies; a handler that changes its
event, or keeps something beside its tables, is caught. Positions and versions count themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar, cast

from ..errors import UsageError
from ..model.codec import EventRegistry
from ..model.messages import Event, Meta
from ..model.projection import (
    Projection,
    ProjectionDefinition,
    ProjectionHandler,
    Row,
    Table,
    handler_of,
)
from ..model.rows import Flat, Scalar
from ..model.sink import Delivery
from ..stores.own import TablesInSql
from .clocks import microseconds
from .shown import called, fail

__all__ = ["TEST_ID", "Folded", "deliveries"]

E = TypeVar("E", bound=Event)
R = TypeVar("R", bound=Row)

TEST_ID: Final = "test"


class Folded:
    """A projection's tables, folded in memory from events that the test gives."""

    def __init__(self, projection: type[Projection]) -> None:
        """Begin with empty tables; raise UsageError for a sink, which has none."""
        definition: Any = getattr(projection, "__definition__", None)
        if not isinstance(definition, ProjectionDefinition):
            raise UsageError(
                f"Folded takes a class of projections, and not {called(projection)}: an aggregate "
                f"is tested with given(...)"
            )
        if definition.reacting is not None:
            raise UsageError(
                f"{projection.__name__} is a reactor and folds nothing: test it by `reaction("
                f"{projection.__name__}, event).then(...)` of foldline.testing.reactions"
            )
        if definition.sink is not None:
            raise UsageError(
                f"{projection.__name__} is a sink and folds nothing: call it, `await "
                f"{projection.__name__}().deliver(deliveries(event, ...), ...)`"
            )
        self._in_sql = TablesInSql(definition) if definition.sql_tables else None
        self._name = projection.__name__
        self._definition = definition
        self._registry = EventRegistry(definition.event_classes)
        self._cells = {name: _Cells() for name in definition.tables}
        self._bound = definition.bind(self._cells)
        self._kept = _kept(self._bound)
        self._versions: dict[str, int] = {}
        self._position = 0

    def fold(
        self,
        *events: Event,
        stream: str = f"{TEST_ID}:1",
        recorded: datetime | int = 0,
        key: str | None = None,
        principal: str | None = None,
    ) -> Folded:
        """Fold events of one stream (`kind:id`); versions and positions count themselves.

        `recorded` is an aware datetime, or µs since 1970-01-01 UTC.
        """
        at = microseconds(recorded)
        for event in events:
            handler = handler_of(self._definition, type(event))
            self._position += 1
            version = self._versions[stream] = self._versions.get(stream, 0) + 1
            if handler is None:
                continue
            copy = self._copy(event)
            meta = Meta(stream, version, self._position, at, key, None, None, principal, None)
            arguments = (copy, meta) if handler.takes_meta else (copy,)
            if self._in_sql is None:
                handler.function(self._bound, *arguments)
            else:
                call = partial(handler.function, self._bound, *arguments)
                self._in_sql.run(call, is_async=handler.is_async)
            self._check_kept(handler, event, copy)
        return self

    def _check_kept(self, handler: ProjectionHandler, event: Event, copy: Event) -> None:
        """Fail where a handler has changed its event, or kept something beside its tables."""
        where, encode = handler.function.__qualname__, self._registry.encode
        if copy != event and encode(copy) != encode(event):
            fail(f"{where} has changed its event", ["what is made of an event is put into a row"])
        kept = _kept(self._bound)
        if kept != self._kept:
            names = sorted(name for name in kept if kept[name] != self._kept.get(name))
            fail(
                f"{where} keeps something outside of its tables: {', '.join(names)}",
                ["only the tables move together with the checkpoint: keep it in a row"],
            )

    def _copy(self, event: Event) -> Any:
        """Give an event as a projector would read it, also of a class based on one it handles."""
        cls = type(event)
        if cls not in self._registry.classes:
            self._registry = EventRegistry((*self._registry.classes, cls))
        return self._registry.copy(event)

    def sql(self, statement: str, parameters: Sequence[Scalar] = ()) -> list[tuple[Any, ...]]:
        """Ask the tables of a projection in SQL, as `views.sql` does."""
        if self._in_sql is None:
            raise UsageError("its tables are of rows: look at `row` and `rows`")
        return self._in_sql.ask(statement, parameters)

    def row(self, table: Table[R], key: Any) -> R | None:
        """Give the row with a key, or None."""
        shape = table.definition.shape
        flat = self._cells[table.definition.attribute].get(shape.encode_key(key))
        row: R | None = None if flat is None else shape.build(flat)
        return row

    def rows(self, table: Table[R]) -> list[R]:
        """Give all rows, by key."""
        definition: Any = getattr(table, "definition", None)
        if definition is None or definition not in self._definition.tables.values():
            raise UsageError(
                f"what is read is a table of the projection that is folded, as "
                f"{self._name}.{next(iter(self._definition.tables), 'rows')}, and not "
                f"{called(table)}{'' if definition is None else f' named {definition.name}'}"
            )
        shape = table.definition.shape
        cells = self._cells[table.definition.attribute].flats
        return [shape.build(cells[key]) for key in sorted(cells)]


def deliveries(
    *events: E,
    stream: str = f"{TEST_ID}:1",
    recorded: datetime | int = 0,
    key: str | None = None,
    principal: str | None = None,
    log_id: str = TEST_ID,
) -> list[Delivery[E]]:
    """Give events of one stream as a sink's `deliver` gets them, at positions from 1 on.

    `recorded` is an aware datetime, or µs since 1970-01-01 UTC. A sink decodes what was stored: so
    each event is a copy here, and one that cannot be read back raises.
    """
    registry = EventRegistry({type(event) for event in events})
    at = microseconds(recorded)
    return [
        Delivery(
            cast("E", registry.copy(event)),
            Meta(stream, number, number, at, key, None, None, principal, None),
            log_id,
        )
        for number, event in enumerate(events, 1)
    ]


def _kept(projection: Projection) -> Mapping[str, str]:
    """Give, as text, what a projection has beside its tables and could change."""
    cls = type(projection)
    found = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    containers = (dict, list, set, bytearray, deque)
    named = [name for name in found if isinstance(found[name], containers) and name[:2] != "__"]
    kept = {name: repr(found[name]) for name in named}
    own = {n: repr(v) for n, v in vars(projection).items() if not isinstance(v, Table)}
    return {**kept, **own}


class _Cells:
    def __init__(self) -> None:
        self.flats: dict[Any, Flat] = {}

    def get(self, key: Scalar) -> Flat | None:
        return self.flats.get(key)

    def set(self, key: Scalar, flat: Flat | None) -> None:
        if flat is None:
            self.flats.pop(key, None)
        else:
            self.flats[key] = flat
