"""A sink: a projection that has no tables and delivers events to a system outside.

Rules: it delivers at least once: the checkpoint moves after a delivery, so what was delivered last
comes again after a crash, a failure or a reset, and the receiver tells by `Delivery.position` or by
the stream's version that it had it already. Events of a key come in order. What does not fit is
refused when the class is made, with the mend in the message. This file delivers nothing.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import msgspec

from ..errors import DefinitionError
from .annotations import Signature, read_signature, union_members
from .messages import Command, Event, Meta
from .projection import (
    Delivering,
    Projection,
    ProjectionDefinition,
    ProjectionHandler,
    is_handler,
)

__all__ = ["Delivered", "Delivery", "Sink"]

E = TypeVar("E", bound=Event, covariant=True)

_SHOWN: Final = (
    "`async def deliver(self, batch: Sequence[Delivery[SomeEvent | OtherEvent]], client: Client) "
    "-> None`"
)


class Delivery(msgspec.Struct, Generic[E], frozen=True):
    """An event on its way to a system outside; it may come more than once."""

    event: E
    """Decoded for this delivery alone."""
    meta: Meta
    """Where it stands in its stream and in the log, and what travelled with its command."""
    log_id: str
    """Of the log; positions of another one mean something else."""

    @property
    def position(self) -> int:
        """Its place in the log: the same each time it comes, and higher for each later event."""
        return self.meta.position

    @property
    def id(self) -> str:
        """`<log id>-<position>-<12 hex digits>`: the same each time it comes, and no other event's.

        A log that went back to a backup gives its positions and versions to other events, which
        have other digits.
        """
        meta = self.meta
        text = f"{meta.stream} {meta.version} {meta.recorded}".encode(errors="surrogatepass")
        return f"{self.log_id}-{meta.position}-{blake2b(text, digest_size=6).hexdigest()}"


class Delivered(Protocol):
    """What a sink was given, by the log: for one whose receiver tells how far it is."""

    @property
    def log_id(self) -> str:
        """Which log it is."""
        ...

    async def at(self, position: int) -> tuple[Meta, Collection[str]] | None:
        """Give an event's meta, and the names that it has or had; None where the log ends before.

        Raises StoreFailed.
        """
        ...

    async def again(
        self, after: int, subjects: Collection[str] | None = None
    ) -> tuple[Sequence[Delivery[Any]], int | None]:
        """Give a page of what was delivered behind a position, and behind which one to go on.

        Events are as they are today: with masks for who was erased. With `subjects` only those come
        that have personal data of one of them. None: the log ends. Raises StoreFailed, and what a
        decoder raises.
        """
        ...

    async def missed(self, after: int, before: int) -> int | None:
        """Give the first position between two at which an event of the sink was not set aside.

        Raises StoreFailed.
        """
        ...


class Sink(Projection):
    """Base of sinks, which deliver at least once: `class Search(Sink, name="search", version=1)`.

    Write `async def deliver(self, batch: Sequence[Delivery[Created | Renamed]], client: Client)`:
    it gets events of these classes (`Delivery[Event]`: of all), in order, and what else it takes
    by its class out of `Engine(resources={Client: client})`. When it returns, all of the batch is
    delivered; when it raises, some of it may be, and it comes again. `transient` names exceptions
    that may pass by themselves: OSError and its subclasses, unless you name others. Then it is
    tried again, ever more slowly, `Limits.sink_retries` times. For others the batch is halved until
    the event is found that fails alone, which stops the sink or is parked. With `slices`, so many
    batches are under way at once, each with the keys of its own.

    A sink that keeps personal data may lose it when people are erased: write `async def
    erase(self, subjects: Sequence[str], client: Client)`, with the resources of `deliver`. It runs
    between two deliveries, and returns when nothing of these people is left in the system outside.
    It may run more than once for the same people, and has `Limits.sink_erase_seconds`.
    `engine.personal.erase` waits for it, and names the sink while it fails.

    To raise `version`, or to reset it, is to deliver everything again from the beginning.
    """

    transient: ClassVar[tuple[type[BaseException], ...]] = (OSError,)
    events_max: ClassVar[int | None] = None
    """Events of one delivery, at most; `Limits.sink_events` if it is None."""
    _delivered: Delivered | None = None
    """Given by the projector."""
    _erase_times: ClassVar[int] = 1
    """How many times as long as `Limits.sink_erase_seconds` its `erase` may take."""

    async def close(self) -> None:
        """Close what the sink itself has opened; called once, when it delivers no more.

        It has `Limits.sink_stop_seconds`. What it raises is logged and hurts nothing.
        """

    @classmethod
    def __read__(
        cls, definition: ProjectionDefinition, namespace: Mapping[str, Any]
    ) -> ProjectionDefinition:
        """Complete what is known of a subclass; raise DefinitionError for what does not fit."""
        where = cls.__qualname__
        if cls.__init__ is not object.__init__:
            raise DefinitionError(
                f"sink {where} has an __init__: what it needs it takes in `deliver`, by its class, "
                f"out of Engine(resources={{...}}); drop it"
            )
        for name, value in vars(cls).items():
            if is_handler(value):
                raise DefinitionError(
                    f"{where}.{name} is marked with @projects, and a sink has no handlers: it has "
                    f"`deliver`, which takes events of all the classes that it names"
                )
        if any("Table[" in str(annotation) for annotation in inspect.get_annotations(cls).values()):
            raise DefinitionError(
                f"sink {where} declares a table, and has no tables: a projection with tables is a "
                f"class of its own"
            )
        # Not declared above, since each sink's takes something else.
        deliver = getattr(cls, "deliver", None)
        if deliver is None:
            raise DefinitionError(f"sink {where} delivers nothing: write {_SHOWN}")
        signature = read_signature(deliver, namespace, method=True)
        events = _events_of(deliver, signature)
        takes = tuple(_resource(signature, *taken) for taken in signature.parameters[1:])
        erase = _erase_of(getattr(cls, "erase", None), namespace, takes)
        handlers = {event: ProjectionHandler(deliver, True, None) for event in events}
        return msgspec.structs.replace(
            definition,
            handlers=handlers,
            event_names=frozenset(e.event_name for e in events if e is not Event),
            sink=Delivering(
                deliver,
                takes,
                _transient(where, cls.transient),
                cls.events_max,
                erase,
                cls._erase_times,
            ),
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Set it: a sink may keep a thing or two, for as long as the engine runs."""
        object.__setattr__(self, name, value)


def _events_of(deliver: Callable[..., Any], signature: Signature) -> Sequence[type[Event]]:
    """Give the classes of event that a sink's batches are annotated with."""
    batch = signature.parameters[0][1] if signature.parameters else None
    item = next(iter(typing.get_args(batch)), None)
    listed = typing.get_origin(batch) is Sequence and typing.get_origin(item) is Delivery
    events = union_members(typing.get_args(item)[0]) if listed else ()
    fits = all(isinstance(event, type) and issubclass(event, Event) for event in events)
    if not events or not fits or not inspect.iscoroutinefunction(deliver):
        raise DefinitionError(
            f"{signature.where} must be async, and say which events it takes: {_SHOWN}"
        )
    if signature.returns not in (None, type(None), inspect.Parameter.empty):
        raise DefinitionError(
            f"{signature.where} is annotated to return something: what it returns means nothing, "
            f"so it returns None"
        )
    return typing.cast("Sequence[type[Event]]", events)


def _resource(signature: Signature, name: str, annotation: Any) -> type[Any]:
    """Give the class of what a sink takes beside its events."""
    if isinstance(annotation, type) and annotation.__module__ != "builtins":
        resource: type[Any] = annotation
        if not issubclass(resource, (inspect.Parameter.empty, Command, Event, Meta)):
            return resource
    raise DefinitionError(
        f"{signature.where} takes `{name}`, and what that is cannot be told: annotate it with the "
        f"class under which Engine(resources={{...}}) has it"
    )


def _erase_of(
    erase: Callable[..., Any] | None, namespace: Mapping[str, Any], takes: Sequence[type[Any]]
) -> Callable[..., Any] | None:
    """Give what erases people in the system outside; None where nothing does."""
    if erase is None:
        return None
    signature = read_signature(erase, namespace, method=True)
    found = [annotation for _, annotation in signature.parameters]
    if inspect.iscoroutinefunction(erase) and found == [Sequence[str], *takes]:
        return erase
    raise DefinitionError(
        f"{signature.where} erases people in the system outside: it is async, and takes `subjects: "
        f"Sequence[str]`, then what `deliver` takes after its batch"
    )


def _transient(where: str, named: object) -> tuple[type[Exception], ...]:
    """Check which exceptions a sink says may pass."""
    found = typing.cast("tuple[object, ...]", named) if isinstance(named, tuple) else (named,)
    if all(isinstance(error, type) and issubclass(error, Exception) for error in found):
        return typing.cast("tuple[type[Exception], ...]", found)
    raise DefinitionError(
        f"{where}.transient names exceptions that may pass by themselves, as "
        f"`transient = (ConnectionError, TimeoutError)`"
    )
