"""What a projection is, and how its class is read: tables, and handlers that fold events into them.

Rules: handlers are found by their annotations, once, when the class is made, and whatever does not
fit is refused there with the mend in the message. A handler reads and changes the projection's own
tables and does nothing else: it may run more than once for an event, and what it changed is kept
once. Nothing is kept in the projection object itself. A base class may read its subclasses in a way
of its own, and still gives such a definition. This file knows no async, SQL or store.
"""

from __future__ import annotations

import inspect
import typing
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, overload
from zlib import crc32

import msgspec

from ..errors import DefinitionError, UsageError
from .annotations import (
    UNRESOLVED,
    Signature,
    defining_namespace,
    read_signature,
    refuse_option,
    refuse_shadowing,
    union_members,
    what_is_missing,
)
from .messages import Command, Event, Meta, check_name
from .rows import Row, RowShape
from .table import Cells, SqlTable, Table, TableDefinition

__all__ = [
    "SLICES_MAX",
    "Begins",
    "Delivering",
    "Dialect",
    "Policy",
    "Projection",
    "ProjectionDefinition",
    "ProjectionHandler",
    "Reacting",
    "Refusal",
    "Row",
    "SequenceKey",
    "SqlTable",
    "Table",
    "TableDefinition",
    "dialects_of",
    "handler_of",
    "is_handler",
    "projects",
    "reaching",
    "read_handlers",
    "slice_of",
    "sql_name",
]

F = TypeVar("F", bound=Callable[..., Any])

Keys: TypeAlias = Callable[[Any, Meta], Mapping[str, Iterable[Any]]]
"""Gives, for an event, the keys that its handler reads, by the name of the table."""

Policy: TypeAlias = Literal["stop", "park"]
"""What becomes of an event that cannot be folded: it stops its projector, or it is set aside, with
all later events of its key behind it, while the others go on."""
Dialect: TypeAlias = Literal["sqlite", "postgresql"]
"""Whose SQL a statement is written in."""
Begins: TypeAlias = Literal["now", "start"] | int
"""Where a reactor begins in a log that has events when it is new: at its end, with its first event,
or after a position."""
SequenceKey: TypeAlias = Callable[[Any, Meta], str]
"""Gives, for an event, the key whose events are kept in order; by default it is the stream."""
SLICES_MAX = 64
_MARK = "__foldline_projects__"
_CONTAINERS: tuple[type[Any], ...] = (dict, list, set, bytearray, deque)
_RESERVED = ("sqlite_", "views_meta")


def slice_of(key: str, slices: int) -> int:
    """Give the slice of a key; it stays for as long as the number of slices does."""
    return crc32(key.encode()) % slices


class Delivering(msgspec.Struct, frozen=True):
    """What a sink does with events."""

    function: Callable[..., Awaitable[None]]
    takes: tuple[type[Any], ...]
    """Classes of resources that it takes after the events."""
    transient: tuple[type[BaseException], ...]
    """Failures that may be over when it is tried again."""
    events_max: int | None = None  # at once; None for `Limits.sink_events`
    erase: Callable[..., Awaitable[None]] | None = None  # of people; None where it cannot
    erase_times: int = 1  # as long as `Limits.sink_erase_seconds` it may take


class Refusal(msgspec.Struct, frozen=True):
    """What says what follows where a command is rejected."""

    function: Callable[..., Any]
    takes_meta: bool


class Reacting(msgspec.Struct, frozen=True):
    """What a reactor does with events, beside its handlers."""

    refusals: Mapping[type[Command], Refusal]
    """What follows a rejection, by class of command."""
    gives: frozenset[type[Command]]
    """Classes of command that its methods are annotated to give."""


@overload
def projects(function: F, /) -> F: ...
@overload
def projects(*, keys: Keys) -> Callable[[F], F]: ...
def projects(function: Any = None, /, *, keys: Keys | None = None) -> Any:
    """Mark a method that folds an event: `(self, event: E[, meta: Meta]) -> None`.

    E is a class of events, or a union of several. It takes its subclasses too, unless they have a
    handler of their own.

    `keys` says beforehand which rows it reads, by table: a batch then fetches them at once.
    """
    namespace = defining_namespace(1)

    def mark(method: F) -> F:
        refuse_shadowing(method, namespace, _MARK)
        setattr(method, _MARK, (keys,))
        return method

    return mark if function is None else mark(function)


def is_handler(method: object) -> bool:
    """Tell whether something is marked with @projects."""
    return hasattr(method, _MARK)


class ProjectionHandler(msgspec.Struct, frozen=True):
    """What folds one class of event."""

    function: Callable[..., Any]
    takes_meta: bool
    keys: Keys | None
    is_async: bool = False


class ProjectionDefinition(msgspec.Struct, frozen=True):
    """All that the engine knows of a projection's class."""

    cls: type[Projection]
    name: str
    version: int
    tables: Mapping[str, TableDefinition]
    """By attribute."""
    handlers: Mapping[type[Event], ProjectionHandler]
    event_names: frozenset[str]
    """Stored names of what it handles, whatever their version."""
    slices: int = 1
    """How many projectors share its keys, each with a checkpoint of its own."""
    on_poison: Policy = "stop"
    sequence: SequenceKey | None = None
    sql_tables: Mapping[str, SqlTable] = {}
    """Instead of `tables`: what it makes by SQL of its own, by attribute."""
    sink: Delivering | None = None
    """Instead of tables: how it delivers to a system outside."""
    dialects: tuple[Dialect, ...] = ()
    """Of SQL, that its own statements are written in; none where it has no SQL."""
    begins: Begins | None = None
    """Of a reactor, as it was declared."""
    reacting: Reacting | None = None
    """Instead of tables: how it gives commands because of events."""

    @property
    def has_tables(self) -> bool:
        """Whether it folds events into tables: a sink and a reactor do not."""
        return self.sink is None and self.reacting is None

    @property
    def table_names(self) -> tuple[str, ...]:
        """What SQL calls its tables."""
        made = (table.name for table in self.sql_tables.values())
        return (*(table.name for table in self.tables.values()), *made)

    @property
    def event_classes(self) -> tuple[type[Event], ...]:
        """The classes of event that it handles by name; a sink may take all others too."""
        return tuple(cls for cls in self.handlers if cls is not Event)

    def bind(self, cells: Mapping[str, Cells]) -> Projection:
        """Give an object of the class whose tables are these cells."""
        projection = self.cls()
        for attribute, definition in self.tables.items():
            table: Table[Any] = Table(definition, cells[attribute])
            object.__setattr__(projection, attribute, table)
        return projection


class Projection:
    """Base of projections: `class Orders(Projection, name="orders", version=1)`.

    Raise `version` when a handler or a table changes: the tables are then built again from the log.
    With `slices` so many projectors share the keys, each with a checkpoint of its own. The events
    of a key stay in order, and a row is written by events of one slice only. The key is the stream,
    or what `sequence(event, meta)` gives. `on_poison="park"` sets an event that cannot be folded
    aside, with all later ones of its key, and continues with the others.
    """

    __definition__: ClassVar[ProjectionDefinition]
    _on_poison: ClassVar[Policy] = "stop"
    """Unless its author says otherwise."""

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int = 1,
        slices: int = 1,
        on_poison: Policy | None = None,
        sequence: SequenceKey | None = None,
        dialect: Dialect | Sequence[Dialect] | None = None,
        begins: Begins | None = None,
        **unknown: object,
    ) -> None:
        """Read the class; raise DefinitionError for whatever the engine could not run."""
        for option in unknown:
            own = ("name", "version", "slices", "on_poison", "sequence", "dialect", "begins")
            refuse_option(f"projection {cls.__qualname__}", option, own)
        super().__init_subclass__()
        if "__read__" in vars(cls):
            return  # a base, which reads its subclasses in a way of its own
        named = _name(cls, name, version)
        policy = cls._on_poison if on_poison is None else on_poison
        _check_options(cls, slices, policy)
        dialects = _dialects(cls, dialect)
        definition = ProjectionDefinition(
            cls,
            named,
            version,
            {},
            {},
            frozenset(),
            slices,
            policy,
            sequence,
            dialects=dialects,
            begins=begins,
        )
        cls.__definition__ = cls.__read__(definition, defining_namespace(1))
        if begins is not None and cls.__definition__.reacting is None:
            raise DefinitionError(
                f"{cls.__qualname__} has begins=, and is no Reactor: what it keeps is made of all "
                f"events of the log; drop it"
            )
        if dialects and not cls.__definition__.sql_tables:
            raise DefinitionError(
                f"{cls.__qualname__} has a dialect and no SQL of its own: drop it"
            )
        for attribute, described in cls.__definition__.tables.items():
            table: Table[Any] = Table(described)
            setattr(cls, attribute, table)

    @classmethod
    def __read__(
        cls, definition: ProjectionDefinition, namespace: Mapping[str, Any]
    ) -> ProjectionDefinition:
        """Complete what is known of a subclass; raise DefinitionError for what does not fit."""
        if cls.__init__ is not object.__init__:
            raise DefinitionError(
                f"projection {cls.__qualname__} has an __init__: a projection keeps everything in "
                f"its tables; drop it"
            )
        tables = _read_tables(cls, definition.name, namespace)
        handlers = read_handlers(cls, namespace)
        names = frozenset(event.event_name for event in handlers)
        return msgspec.structs.replace(
            definition, tables=tables, handlers=handlers, event_names=names
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: what is kept outside the tables would be lost or counted twice."""
        raise UsageError(
            f"{type(self).__name__}.{name} cannot be set: a projection keeps everything in its "
            f"tables, since only they move together with its checkpoint"
        )


def reaching(
    definition: ProjectionDefinition, classes: Iterable[type[Event]]
) -> ProjectionDefinition:
    """Give a projection whose handlers take the subclasses of their events among these, too.

    A class that has no handler of its own has that of the nearest class that it is based on.
    """
    handlers = dict(definition.handlers)
    for cls in classes:
        handler = handler_of(definition, cls)
        if handler is not None and cls not in handlers:
            handlers[cls] = handler
    if len(handlers) == len(definition.handlers):
        return definition
    names = frozenset(event.event_name for event in handlers if event is not Event)
    return msgspec.structs.replace(definition, handlers=handlers, event_names=names)


def handler_of(definition: ProjectionDefinition, cls: type[Event]) -> ProjectionHandler | None:
    """Give what folds events of a class: its own handler, or that of its nearest base."""
    bases = (base for base in cls.__mro__ if base is not Event and base in definition.handlers)
    nearest = next(bases, None)
    return None if nearest is None else definition.handlers[nearest]


def _name(cls: type[Projection], name: str | None, version: int) -> str:
    """Check name and version; give the name."""
    where = cls.__qualname__
    base = next(base.__name__ for base in cls.__mro__ if "__read__" in vars(base))
    mend = f'Write `class {cls.__name__}({base}, name="...", version=1)`.'
    name = check_name(name, f"projection {where}", mend)
    if type(version) is not int or version < 1:
        raise DefinitionError(
            f"projection {where} has version {version!r}: versions count from 1. {mend}"
        )
    return name


def _dialects(
    cls: type[Projection], dialect: Dialect | Sequence[Dialect] | None
) -> tuple[Dialect, ...]:
    if dialect is None:  # as what it is based on
        inherited: ProjectionDefinition | None = getattr(cls, "__definition__", None)
        return () if inherited is None else inherited.dialects
    return dialects_of(f"projection {cls.__qualname__}", dialect)


def dialects_of(where: str, dialect: Dialect | Sequence[Dialect] | None) -> tuple[Dialect, ...]:
    """Give in whose SQL something is written, as it was given; raise DefinitionError for others."""
    if dialect is None:
        return ()
    given = (dialect,) if isinstance(dialect, str) else tuple(dialect)
    if not set(given) <= set(typing.get_args(Dialect)):
        raise DefinitionError(
            f"{where} has dialect={dialect!r}: give one of {typing.get_args(Dialect)}, or both"
        )
    return given


def _check_options(cls: type[Projection], slices: object, on_poison: object) -> None:
    where = cls.__qualname__
    if type(slices) is not int or not 1 <= slices <= SLICES_MAX:
        raise DefinitionError(
            f"projection {where} has slices={slices!r}: give a number from 1 to {SLICES_MAX}"
        )
    if on_poison not in typing.get_args(Policy):
        raise DefinitionError(
            f"projection {where} has on_poison={on_poison!r}: give one of {typing.get_args(Policy)}"
        )


def _read_tables(
    cls: type[Projection], name: str, namespace: Mapping[str, Any]
) -> Mapping[str, TableDefinition]:
    where = cls.__qualname__
    try:
        hints = typing.get_type_hints(cls, localns=dict(namespace), include_extras=True)
    except UNRESOLVED as error:
        told = what_is_missing(error)
        raise DefinitionError(
            f"a table of projection {where} cannot be resolved: {told}. Declare its row before "
            f"the projection, and import it outside `if TYPE_CHECKING`."
        ) from error
    tables: dict[str, TableDefinition] = {}
    by_sql: dict[str, str] = {}
    for attribute, annotation in hints.items():
        shape = _row_shape(where, attribute, annotation)
        if shape is None:
            continue
        sql = sql_name(cls, name, attribute)
        other = by_sql.setdefault(sql.lower(), attribute)
        if other != attribute:
            raise DefinitionError(
                f"{where}.{other} and {where}.{attribute} are both the SQL table {sql}, since SQL "
                f"does not tell small letters from capitals: rename one"
            )
        tables[attribute] = TableDefinition(attribute, sql, name, shape)
    if not tables:
        raise DefinitionError(
            f"projection {where} has no table: declare one, `summaries: Table[OrderSummary]`"
        )
    return tables


def sql_name(cls: type[Projection], name: str, attribute: str) -> str:
    """Give what SQL calls a table of a projection."""
    sql = f"{name.replace('-', '_')}_{attribute}"
    if sql.lower().startswith(_RESERVED[0]) or sql.lower() == _RESERVED[1]:
        raise DefinitionError(
            f"{cls.__qualname__}.{attribute} would be the SQL table {sql}, a name that is taken: "
            f"rename the attribute or the projection"
        )
    return sql


def _row_shape(where: str, attribute: str, annotation: Any) -> RowShape | None:
    """Give the shape behind `Table[SomeRow]`, or None for an annotation that is no table."""
    if isinstance(annotation, type) and issubclass(annotation, Row | Table):
        row = annotation.__name__ if issubclass(annotation, Row) else "SomeRow"
        raise DefinitionError(f"{where}.{attribute} is no table yet: write `Table[{row}]`")
    if typing.get_origin(annotation) is not Table:
        return None
    row = typing.get_args(annotation)[0]
    if not (isinstance(row, type) and issubclass(row, Row)) or row is Row:
        raise DefinitionError(
            f"{where}.{attribute} is a table of {row!r}, which is no Row: write "
            f'`class ...(Row, key="...")` and name that'
        )
    return row.__shape__


def read_handlers(
    cls: type[Projection],
    namespace: Mapping[str, Any],
    last: Mapping[bool, type[Any]] | None = None,
) -> Mapping[type[Event], ProjectionHandler]:
    """Find what is marked with @projects, by event.

    `last` is what a handler takes at its end, by whether it is async; without it none is.
    """
    _refuse_kept(cls)
    methods: dict[str, Callable[..., Any]] = {}
    for base in reversed(cls.__mro__):
        methods.update((name, value) for name, value in vars(base).items() if callable(value))
    handlers: dict[type[Event], ProjectionHandler] = {}
    for method in methods.values():
        mark = getattr(method, _MARK, None)
        if mark is None:
            continue
        signature = read_signature(method, namespace, method=True)
        for event in _check_handler(method, signature, last):
            if event in handlers:
                raise DefinitionError(
                    f"{signature.where} is a second handler of {event.__name__} in "
                    f"{cls.__qualname__}: keep one"
                )
            takes_meta = any(taken is Meta for _, taken in signature.parameters)
            handlers[event] = ProjectionHandler(method, takes_meta, mark[0], signature.is_async)
    if not handlers:
        raise DefinitionError(
            f"projection {cls.__qualname__} handles no event: mark a method with @projects"
        )
    return handlers


def _refuse_kept(cls: type[Projection]) -> None:
    """Raise DefinitionError for what handlers could only fill: it would outlive their events."""
    for base in cls.__mro__:
        for name, value in vars(base).items():
            kept = isinstance(value, _CONTAINERS) and not value
            if kept and base.__module__ != __name__ and name[:2] != "__" and name != "tables":
                raise DefinitionError(
                    f"{base.__qualname__}.{name} is an empty {value.__class__.__name__}, and a "
                    f"projection keeps nothing between its events: what is kept beside the tables "
                    f"is lost at a restart and filled again by a rebuild. Keep it in a row"
                )


def _check_handler(
    method: Callable[..., Any], signature: Signature, kinds: Mapping[bool, type[Any]] | None
) -> Sequence[type[Event]]:
    """Give the classes of event that a handler takes: one, or those of a union."""
    where = signature.where
    waits = signature.is_async and kinds is None
    if waits or inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise DefinitionError(
            f"{where} is async or a generator: a handler only changes tables, without waiting; "
            f"write a plain `def`"
        )
    last = None if kinds is None else kinds[signature.is_async]
    event, *rest = [taken for _, taken in signature.parameters] or [None]
    events = union_members(event)
    fits = all(isinstance(e, type) and issubclass(e, Event) and e is not Event for e in events)
    further = () if last is None else (last,)
    if not fits or tuple(rest) not in (further, (Meta, *further)):
        shown, then = ("", "") if last is None else (f", sql: {last.__name__}", ", then its `sql`")
        raise DefinitionError(
            f"{where} must take one event after self, and may take its meta{then}: write "
            f"`def {method.__name__}(self, event: SomeEvent, meta: Meta{shown}) -> None`. Several "
            f"events are a union of them, or a class that they are based on"
        )
    if signature.returns not in (None, type(None), inspect.Parameter.empty):
        raise DefinitionError(
            f"{where} is annotated to return something: a handler changes tables and returns None"
        )
    return typing.cast("Sequence[type[Event]]", events)
