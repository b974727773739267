"""A member's own reading of the modelled log: each call is one look at what is committed.

Rules: a look fails where its process does not reach the server. It is what the statements of
`statements` give, at one moment between the call's begin and its end.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import msgspec

from engine.errors import StoreFailed
from engine.model.stored import EventType, StoredEvent
from engine.runtime.ports import Ports
from engine.stores.contract.log import Head, StreamPage, StreamRead
from engine.stores.contract.membership import Heed, View
from engine.stores.contract.outside import NoViewsYet
from engine.stores.contract.views import ViewsStore
from engine.stores.own import views_in_memory
from engine.stores.postgres.address import Address
from engine.stores.postgres.backend import PostgresBackend
from engine.stores.postgres.log.duties import DutyAttendance
from engine.stores.postgres.log.reading import events_of_feed, pages_of_streams
from engine.stores.postgres.log.session import holder_text
from engine.stores.postgres.outside.directory import PostgresOwnerDirectory
from tests.simulation.postgres.database import Tables
from tests.simulation.postgres.network import Network
from tests.simulation.postgres.process import Process
from tests.simulation.postgres.statements import feed_rows, stream_rows

__all__ = ["modelled"]


class _Committed(msgspec.Struct):
    """What a statement looks into."""

    tables: Tables


class _Reader:
    """The log as another process reads it."""

    name = "the modelled log"

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process
        self.log_id = ""

    def look(self) -> Any:
        """Give what is committed; raise StoreFailed where the server is not reached."""
        network = self._network
        until = max(network.parted_until, network.cut_off.get(self._process.number, 0.0))
        parted = until > network.loop.time()
        if parted or network.refusing or not network.server.up:
            raise StoreFailed("the server is not reached", written=False, passes=True)
        return _Committed(network.server.tables)

    def open(self) -> None:
        """Know the log."""
        self.log_id = self.look().tables.log_id

    def close(self) -> None:
        """Keep nothing."""

    def head(self) -> Head:
        """Give the end of the log."""
        last = self.look().tables.last
        return Head() if last is None else Head(last.position, last.checksum, last.recorded)

    def change_count(self) -> int:
        """Give what changes with each append."""
        return self.head().position

    def event_types(self) -> Sequence[EventType]:
        """Give the types that are stored."""
        return [EventType(*kind) for _, kind in sorted(self.look().tables.types.items())]

    def _type(self, number: int) -> tuple[str, int] | None:
        name, version, _ = self._network.server.tables.types[number]
        return name, version

    def read_feed(self, after: int, *, events_max: int, bytes_max: int) -> Sequence[StoredEvent]:
        """Read the global order."""
        rows: Any = feed_rows(self.look(), after, events_max, bytes_max)
        return events_of_feed(rows, after, self._type)

    def read_streams(
        self, reads: Sequence[StreamRead], *, events_max: int, bytes_max: int
    ) -> Sequence[StreamPage]:
        """Read streams."""
        names, afters = [read.stream for read in reads], [read.after for read in reads]
        rows: Any = stream_rows(self.look(), names, afters, events_max, bytes_max)
        return pages_of_streams(rows, reads, self._type)


class _NoViews:
    """The views of an engine that declares none."""

    def leave_out(self, projections: object, *, misfits: bool) -> None:
        """Have nothing to leave out."""

    async def open(self) -> None:
        """Take calls."""

    async def close(self) -> None:
        """Take none."""

    async def positions(self) -> Any:
        """Say that there are none."""
        raise NoViewsYet("no views")


class _Named(msgspec.Struct):
    """A build."""

    projection: str


class _Looked(msgspec.Struct):
    """What there is of the views."""

    builds: Sequence[_Named]


class _Operations:
    """The views of the modelled log, of which only that is told who has tables."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def __enter__(self) -> _Operations:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def look(self) -> _Looked:
        """Give the builds that are committed."""
        rows = self._reader.look().tables.views.tables.get("builds", {})
        return _Looked([_Named(projection) for projection, _ in rows])


class _Outside:
    """The modelled log for other processes than its owner's."""

    def __init__(self, address: Address, ports: Ports) -> None:
        self._address = address
        self._ports = ports

    def meeting(self) -> PostgresOwnerDirectory:
        """Give who has the log."""
        return PostgresOwnerDirectory(self._address, self._ports)

    def notices(self) -> None:
        """Tell of no commit: members have to look."""

    def log_reader(self) -> _Reader:
        """Give the log to be read."""
        driver: Any = self._ports.database
        return _Reader(driver.network, driver.process)

    def operations(self, *, readonly: bool = False) -> _Operations:
        """Give the views as they are at each look."""
        return _Operations(self.log_reader())

    def views_reader(self, *_: object) -> _NoViews:
        """Give no views."""
        return _NoViews()

    def runner(
        self, name: str, declares: str, heed: Heed, logger: logging.Logger
    ) -> DutyAttendance:
        """Give a process's part in the running of projections."""
        return DutyAttendance(self._address, self._ports, holder_text(name, declares), heed, logger)

    def runners(self) -> View:
        """Give nobody: no world asks for it."""
        return View()


@contextmanager
def modelled(*, shared: bool = False) -> Generator[None]:
    """Let members read the model, and engines have their views in memory; not so with `shared`."""

    def outside(backend: Any, ports: Ports) -> _Outside:
        return _Outside(backend.log().address, ports)

    def views(_: Any, logger: logging.Logger) -> ViewsStore:
        return views_in_memory(logger)

    with (
        nullcontext() if shared else mock.patch.object(PostgresBackend, "views", views),
        mock.patch.object(PostgresBackend, "outside", outside),
    ):
        yield
