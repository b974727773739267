"""What "postgresql://..." opens: a log in a server, and its views beside it or elsewhere.

Rules: views go into the same database unless it is said otherwise: they are never in memory by
silence. Nothing is connected to here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from ...errors import UsageError
from ...limits import Limits
from ...model.projection import ProjectionDefinition
from ...runtime.ports import Ports
from ..contract.membership import Heed, Right, View
from ..contract.views import ViewsStore
from .address import Address
from .driver import Telling, driver_of
from .log.duties import DutyAttendance, DutyStore, SharingStore, runners_of
from .log.members import Attendance
from .log.session import holder_text
from .log.spread import LeadingStore, SpreadStore
from .log.store import PostgresStore
from .outside.archiving import PostgresArchiver
from .outside.blocking import Blocking
from .outside.copy_from import PostgresCopySource
from .outside.copy_into import PostgresCopyTarget
from .outside.directory import PostgresOwnerDirectory
from .outside.log import PostgresLogReader, holder
from .outside.notices import PostgresNotices
from .outside.operations import PostgresOperations
from .outside.shell import PostgresShell
from .outside.structure import PostgresStructure
from .outside.views import PostgresViewsReader
from .views.link import Place
from .views.store import PostgresViews

__all__ = ["PostgresBackend"]


class PostgresBackend:
    """The log that `store` is; `views` makes the views that are kept elsewhere."""

    def __init__(
        self, store: PostgresStore, views: Callable[[logging.Logger], ViewsStore] | None
    ) -> None:
        self._store = store
        self._views = views

    @property
    def name(self) -> str:
        """The URL of the log without user and password."""
        return self._store.address.name

    def log(self) -> PostgresStore:
        """Give the log, not yet open; the same one each time."""
        return self._store

    def leading(self) -> PostgresBackend:
        """Give the same for the one that leads where several own the log."""
        return PostgresBackend(LeadingStore(self._store.address), self._views)

    def deciding(
        self, heed: Heed, logger: logging.Logger, views: Callable[[logging.Logger], ViewsStore]
    ) -> PostgresBackend:
        """Give the same for one of several owners, with views of its own that are none."""
        return PostgresBackend(SpreadStore(self._store.address, heed, logger=logger), views)

    def owning(self, but: frozenset[str]) -> PostgresBackend:
        """Give the same for the owner of a log whose members run the projections named `but`."""
        return PostgresBackend(SharingStore(self._store.address, but), self._views)

    def folding(
        self, right: Right, logger: logging.Logger, others: frozenset[str] = frozenset()
    ) -> PostgresBackend:
        """Give the same for a member that runs projections by this right."""
        store = DutyStore(self._store.address, right, others, logger=logger)
        return PostgresBackend(store, self._views)

    def telling(self, ports: Ports, lacks: Callable[[], None]) -> Ports:
        """Give the same ports, which also tell where the server has no connection left."""
        return msgspec.structs.replace(ports, database=Telling(driver_of(ports), lacks))

    def views(self, logger: logging.Logger) -> ViewsStore:
        """Give the views, not yet open."""
        if self._views is None:
            return PostgresViews(self._store.address, logger=logger)
        return self._views(logger)

    def outside(self, ports: Ports) -> PostgresOutside:
        """Give the log, and the views in its database, to other processes."""
        return PostgresOutside(self._store.address, ports)


class PostgresOutside:
    """A log and the views beside it, for other processes than the engine's."""

    def __init__(self, address: Address, ports: Ports) -> None:
        self._address = address
        self._place = Place(address, ports)

    def log_reader(self) -> PostgresLogReader:
        """Give the log to be read."""
        return PostgresLogReader(self._place)

    def views_reader(
        self, projections: Sequence[ProjectionDefinition], limits: Limits
    ) -> PostgresViewsReader:
        """Give the views to be read."""
        return PostgresViewsReader(self._place, projections, limits)

    def notices(self) -> PostgresNotices:
        """Give what the server tells of commits."""
        return PostgresNotices(self._place)

    def views_beside(self, token: str, logger: logging.Logger) -> PostgresViews:
        """Give the views to a process that builds beside the engine."""
        return PostgresViews(self._address, logger=logger, builder=token)

    def operations(self, *, readonly: bool = False) -> PostgresOperations:  # noqa: ARG002
        """Give what can be done with the projections; what only looks takes no lock anyway."""
        return PostgresOperations(self._place)

    def shell(self) -> PostgresShell:
        """Give SQL for people, which the server ends when its time is over."""
        return PostgresShell(self._place)

    def copy_source(self, *, damaged: bool = False) -> PostgresCopySource:
        """Give the log to be copied elsewhere."""
        if damaged:
            raise UsageError("a server has no write-ahead log that a copy could read: leave that")
        return PostgresCopySource(self._place)

    def structure(self) -> PostgresStructure:
        """Give both schemas to be looked at for damage."""
        return PostgresStructure(self._place)

    def archiver(self, beside: object = None) -> PostgresArchiver:  # noqa: ARG002 - always is
        """Give what moves closed streams into a schema beside the log."""
        return PostgresArchiver(self._place)

    def copy_target(self) -> PostgresCopyTarget:
        """Give where a log is copied to."""
        return PostgresCopyTarget(self._place)

    def meeting(self) -> PostgresOwnerDirectory:
        """Give who has the log, which the database knows."""
        return PostgresOwnerDirectory(self._address, self._place.ports)

    def attendance(self, holder: str, heed: Heed, logger: logging.Logger) -> Attendance:
        """Give a process's part in the membership of the log, to be joined."""
        return Attendance(self._address, self._place.ports, holder, heed, logger)

    def runner(
        self, name: str, declares: str, heed: Heed, logger: logging.Logger
    ) -> DutyAttendance:
        """Give the part of a process that runs projections; see `Runners.runner`."""
        holder = holder_text(name, declares)
        return DutyAttendance(self._address, self._place.ports, holder, heed, logger)

    def runners(self) -> View:
        """Give the members that run projections, as they stand now."""
        calls = Blocking(self._place)
        calls.open()
        try:
            return calls.run(runners_of, self._place)
        finally:
            calls.close()

    def writer(self) -> int | None:
        """Give the process that has the log open, as far as its own note tells; None for none."""
        calls = Blocking(self._place)
        calls.open()
        try:
            return calls.run(holder, self._place)
        finally:
            calls.close()
