"""The seam for tracing: what the engine tells a telemetry, and the guard around it.

Rules: without a telemetry nothing of this runs; each station asks once per command, batch, load or
query whether there is one. With one, whatever it raises is caught, counted and logged once, and
the command goes on as if it had said nothing. It is called in the event loop and must not block.
What it is told names things of the code; an id, a payload or a rejection is in the objects that it
is shown, and whether any of it goes out is for the telemetry to decide. It changes nothing but the
headers that a command's events are stored with: what it is shown is its own. It knows no vendor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from .model.given import as_headers
from .model.messages import Command, Query
from .model.stored import StoredEvent
from .statistics import EngineStatistics

__all__ = [
    "Began",
    "CommandBegan",
    "CommitBegan",
    "ForwardBegan",
    "LoadBegan",
    "Observation",
    "Observer",
    "ProjectionBegan",
    "QueryBegan",
    "Telemetry",
]

LINKS_MAX = 32
"""Commands that a commit, and events that a projector's batch, names as what led to it, at most."""

Headers: TypeAlias = Mapping[str, str]


class CommandBegan(msgspec.Struct, frozen=True):
    """A command came; it ends with its answer."""

    command: Command
    """As it was sent; a copy."""
    kind: str
    """Of the aggregate that it is for."""
    correlation: str | None
    """As the caller gave it."""
    causation: str | None
    """As the caller gave it."""
    headers: Headers | None
    """As the caller gave them."""


class ForwardBegan(msgspec.Struct, frozen=True):
    """A member sends a command to the owner of the log; it ends with its answer.

    The owner's process is shown the same command as `CommandBegan`, with the headers that are given
    for this one: who counts commands counts those.
    """

    command: Command
    """As it was sent; a copy."""
    kind: str
    """Of the aggregate that it is for."""
    correlation: str | None
    """As the caller gave it."""
    causation: str | None
    """As the caller gave it."""
    headers: Headers | None
    """As the caller gave them."""


class CommitBegan(msgspec.Struct, frozen=True):
    """A batch goes to the store."""

    events: int
    """In the batch."""
    commands: int
    """In the batch."""
    bytes: int
    """Of payloads and metadata."""
    headers: Sequence[Headers]
    """Of its first commands, at most LINKS_MAX: those that have any."""


class LoadBegan(msgspec.Struct, frozen=True):
    """Cold aggregates are read together."""

    aggregates: int
    """How many."""


class ProjectionBegan(msgspec.Struct, frozen=True):
    """A projection folds a batch."""

    projection: str
    """By its name."""
    events: Sequence[StoredEvent]
    """Those of the batch, as the log has them."""


class QueryBegan(msgspec.Struct, frozen=True):
    """A query is asked; it is begun and ended in the caller's task."""

    query: Query[Any]
    """As it was asked; a copy."""
    at: int
    """The position that the views must have reached; 0 where any will do."""


Began: TypeAlias = (
    CommandBegan | CommitBegan | ForwardBegan | LoadBegan | ProjectionBegan | QueryBegan
)
Fact: TypeAlias = str | int | float


class Observation(Protocol):
    """What a telemetry keeps of something that has begun."""

    @property
    def headers(self) -> Headers | None:
        """Of a command, forwarded or not: what its events are stored with, not the caller's."""
        ...

    def end(self, error: BaseException | None, facts: Mapping[str, Fact]) -> None:
        """It has ended, with an `error` or without; `facts` are numbers and names of the code."""
        ...


class Telemetry(Protocol):
    """Gets to know what an engine does."""

    @property
    def wants_commands(self) -> bool:
        """Whether it is called for each command. If not, commands cost as much as without it."""
        ...

    def attach(self, statistics: Callable[[], EngineStatistics]) -> None:
        """The engine runs; `statistics` may be called from any thread until `detach`."""
        ...

    def begin(self, began: Began) -> Observation | None:
        """Something begins; None where its end is of no interest."""
        ...

    def detach(self) -> None:
        """The engine has ended."""
        ...


class Observer:
    """The guard: an engine's stations talk to the telemetry through it."""

    def __init__(self, telemetry: Telemetry, logger: logging.Logger) -> None:
        self._telemetry = telemetry
        self._logger = logger
        self.failures = 0

    @property
    def wants_commands(self) -> bool:
        """Whether each command must be told."""
        try:
            return bool(self._telemetry.wants_commands)
        except BaseException as error:
            self._failed(error)
            return False

    def attach(self, statistics: Callable[[], EngineStatistics]) -> None:
        """Tell that the engine runs."""
        try:
            self._telemetry.attach(statistics)
        except BaseException as error:
            self._failed(error)

    def detach(self) -> None:
        """Tell that the engine has ended."""
        try:
            self._telemetry.detach()
        except BaseException as error:
            self._failed(error)

    def begin(self, began: Began) -> Observation | None:
        """Tell that something begins."""
        try:
            return self._telemetry.begin(began)
        except BaseException as error:
            self._failed(error)
            return None

    def end(
        self, observation: Observation | None, error: BaseException | None = None, **facts: Fact
    ) -> None:
        """Tell that it has ended."""
        if observation is None:
            return
        try:
            observation.end(error, facts)
        except BaseException as failure:
            self._failed(failure)

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        if self.failures == 1:
            # Once, and without its message, which may hold what it was shown.
            self._logger.error(
                "the telemetry %s raised %s: the engine goes on without what it would have told; "
                "statistics().telemetry_failures counts further ones",
                type(self._telemetry).__qualname__,
                type(error).__qualname__,
            )

    def headers_of(self, observation: Observation | None, given: Headers | None) -> Headers | None:
        """Give the headers that a command's events are stored with, given its caller's."""
        if observation is None:
            return given
        try:
            headers = observation.headers
            if headers is None:
                return None
            return as_headers(headers)
        except BaseException as error:
            self._failed(error)
            return given
