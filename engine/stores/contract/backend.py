"""A backend: what the URL of a store opens, for the engine and for other processes.

Rules: whatever needs a log, its views or their readers asks a backend for it, and names no
database. Making a backend opens nothing and makes nothing. A log that its process keeps to itself
has nothing for others: what is asked for them raises DefinitionError.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from ...limits import Limits
from ...model.projection import ProjectionDefinition
from ...runtime.ports import Ports
from .archiving import Archiver
from .copying import CopySource, CopyTarget
from .log import Store
from .meeting import OwnerDirectory
from .membership import Attending, Heed, Right, View
from .outside import Copied, LogReader, Notices, Operations, Shell, ViewsReader
from .verifying import Structure
from .views import ViewsStore

__all__ = ["Archives", "Backend", "CopiesFiles", "Outside", "Runners", "Shared", "Spreading"]


class Backend(Protocol):
    """What one URL opens."""

    @property
    def name(self) -> str:
        """What people call the store: its path, or its address without a password."""
        ...

    def log(self) -> Store:
        """Give the log, not yet open."""
        ...

    def views(self, logger: logging.Logger) -> ViewsStore:
        """Give where an engine keeps the views of this log, not yet open."""
        ...

    def outside(self, ports: Ports) -> Outside:
        """Give what other processes have; raise DefinitionError for a log of this process alone."""
        ...


@runtime_checkable
class Spreading(Protocol):
    """What a backend may also be whose log several processes own, each a part of it."""

    def leading(self) -> Backend:
        """Give the same for the one that leads: it folds, and appends nothing."""
        ...

    def deciding(
        self, heed: Heed, logger: logging.Logger, views: Callable[[logging.Logger], ViewsStore]
    ) -> Backend:
        """Give the same for one owner, with views that are none; its log has an `attendance`."""
        ...


@runtime_checkable
class Shared(Protocol):
    """What a backend may also be whose projections several processes run, each some of them."""

    def owning(self, but: frozenset[str]) -> Backend:
        """Give the same for the owner of the log, which leaves the projections named to others."""
        ...

    def folding(
        self, right: Right, logger: logging.Logger, others: frozenset[str] = frozenset()
    ) -> Backend:
        """Give the same for who runs projections by this right, and appends nothing.

        `others` names what the same program declares, and other engines of it run.
        """
        ...

    def telling(self, ports: Ports, lacks: Callable[[], None]) -> Ports:
        """Give the same ports, which also tell where the server has no connection left."""
        ...


@runtime_checkable
class Runners(Protocol):
    """What an `Outside` may also be whose log has members that run projections."""

    def runner(self, name: str, declares: str, heed: Heed, logger: logging.Logger) -> Attending:
        """Give a process's part among them, to be joined.

        `name` is what people call it, `declares` what others must know of its projections.
        """
        ...

    def runners(self) -> View:
        """Give who they are now; raise StoreFailed and StoreRefused. It blocks."""
        ...


class Outside(Protocol):
    """A log and its views for other processes than the engine's."""

    def log_reader(self) -> LogReader:
        """Give the log to be read, not yet open."""
        ...

    def views_reader(
        self, projections: Sequence[ProjectionDefinition], limits: Limits
    ) -> ViewsReader:
        """Give the views to be read, not yet open."""
        ...

    def notices(self) -> Notices | None:
        """Give what tells that somebody has committed; None where one has to look for it."""
        ...

    def views_beside(self, token: str, logger: logging.Logger) -> ViewsStore:
        """Give the views to a process that builds beside the engine, and is named by its token.

        Between its transactions it leaves them to others. Opening raises StoreRefused where no
        engine has made any yet.
        """
        ...

    def operations(self, *, readonly: bool = False) -> Operations:
        """Give what can be done with the projections, not yet open."""
        ...

    def shell(self) -> Shell:
        """Give SQL for people."""
        ...

    def copy_source(self, *, damaged: bool = False) -> CopySource:
        """Give the log to be copied elsewhere.

        `damaged` takes what stands before the damage in a log. Raises UsageError where there is no
        such thing.
        """
        ...

    def structure(self) -> Structure:
        """Give what the store's own shape is looked at by, for damage."""
        ...

    def copy_target(self) -> CopyTarget:
        """Give where a log is copied to."""
        ...

    def meeting(self) -> str | OwnerDirectory:
        """Give where processes meet that share the log.

        That is the path of a socket on this machine, or a directory that says where its owner is.
        Raises DefinitionError for a store whose owner nobody can meet.
        """
        ...

    def writer(self) -> int | None:
        """Give the process that has the log open, as far as its own note tells; None for none."""
        ...


@runtime_checkable
class CopiesFiles(Outside, Protocol):
    """What an `Outside` may also be whose log is a file."""

    def copy(self, to: str, *, damaged: bool = False) -> Copied:
        """Copy the log and its views to other files, each whole and of one moment.

        While their engine runs or not. Nothing is written over. `damaged` takes what stands before
        the damage in a log. Raises StoreRefused, and Damaged for an event that cannot be used.
        """
        ...


@runtime_checkable
class Archives(Outside, Protocol):
    """What an `Outside` may also be that keeps closed streams elsewhere."""

    def archiver(self, beside: object = None) -> Archiver:
        """Give what moves closed streams out of the log.

        `beside` is the store of an engine of this process that has it open. Raises UsageError for
        one that it cannot work beside.
        """
        ...
