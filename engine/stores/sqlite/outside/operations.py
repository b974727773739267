"""A log's views from another process, without the application: looked at, asked for, done at rest.

Rules: to look takes no lock and changes nothing. What is to be done is asked for in the file, in
one short synced transaction, whether an engine runs or not. Where none has the log open, what needs
no code of the application is done here, with the log's lock held for that moment, so that no engine
starts meanwhile; the rest waits for an engine. What is done here and its answer are committed
together, synced. No gate is asked: whoever may write the file may do all of this. Nothing is made
where no log or no views are. Calls block.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import apsw
import msgspec

from ....errors import (
    Damaged,
    EngineError,
    Overloaded,
    StoreFailed,
    StoreLocked,
    StoreRefused,
    UsageError,
)
from ....model.texts import as_text
from ....runtime.machine import user_name
from ....runtime.ports import Ports
from ...contract.acts import (
    DONE_TEXTS,
    build_to_cancel,
    builds_to_drop,
    cancelled_text,
    check_reset,
    check_skip,
    dropped_text,
    is_parked_there,
    skipped_text,
    stopped_there,
)
from ...contract.builds import serving
from ...contract.outside import SHELL, Found, Looked, NoViewsYet
from ...contract.requests import (
    AT_REST,
    ENDED_TEXT,
    REQUESTS_OPEN_MAX,
    TIMER_KINDS,
    Arguments,
    Outcome,
    Request,
    refusal_of,
)
from ...contract.timers import check_stands
from ...contract.views import DecisionKind, Parked, ProjectionDecision
from ..connection import (
    BUSY_MS,
    failures,
    make_wal_durable,
    open_writer,
    set_pragma,
    snapshot,
    transaction,
)
from ..files import files_of
from ..log.store import SqliteStore
from ..place import Place
from ..views.builds import check_file, drop_build, empty_build, read_builds
from ..views.parked import (
    add_decision,
    count_parked,
    is_paused,
    read_decisions,
    read_parked,
    release,
)
from ..views.requests import (
    add_request,
    answer,
    count_open,
    forget_failures,
    open_requests,
    read_request,
    read_standstills,
)
from .log import SqliteLogReader

__all__ = ["SqliteOperations"]


class SqliteOperations:
    """The log in the file `path` and its views; use it with `with`."""

    def __init__(self, path: str, ports: Ports | None = None, *, readonly: bool = False) -> None:
        ports = ports or Ports()
        self._path = path
        self._views = SqliteStore(path).views_path
        self._files = files_of(ports)
        self._clock = ports.clock
        self._readonly = readonly
        self._durable = False
        self._opened: apsw.Connection | None = None
        self._place: Place | None = None
        self.log = SqliteLogReader(path, files_of(ports))
        """The log, to be read."""

    # -- life -----------------------------------------------------------------------------------

    def __enter__(self) -> SqliteOperations:
        """Open log and views; raise StoreRefused where there are none that can be used."""
        try:
            self.log.open()
            with failures(self._views, "opened", refused=True):
                self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close both."""
        self.close()

    def _open(self) -> None:
        if self._files.size(self._views) == 0:
            raise NoViewsYet(
                f"there are no views {self._views}: no engine with projections has run on "
                f"{self._path} yet"
            )
        if self._readonly:
            connection = self._opened = self._files.connect(self._views, readonly=True)
        else:
            # What an engine left in the write-ahead log stays there, unless it is made durable.
            connection = self._opened = open_writer(self._files, self._views)
        self._place = Place(self._views, self._files)
        # First, since everything else may meet another command that just closes the file.
        set_pragma(connection, "busy_timeout", BUSY_MS)
        if self._readonly:
            set_pragma(connection, "query_only", 1)
        else:
            set_pragma(connection, "wal_autocheckpoint", 0)
            set_pragma(connection, "synchronous", 2)
        set_pragma(connection, "trusted_schema", 0)
        log_id = check_file(connection, self._views)
        if log_id != self.log.log_id:
            raise StoreRefused(
                f"{self._views} has views of log {log_id}, and {self._path} is log "
                f"{self.log.log_id}: an engine drops them when it starts on this log. Nothing was "
                f"done"
            )

    def close(self) -> None:
        """Close both; a second call does nothing."""
        opened, self._opened = self._opened, None
        self.log.close()
        if opened is not None:
            with failures(self._views, "closed"):
                opened.close()

    @property
    def _connection(self) -> apsw.Connection:
        if self._opened is None:
            raise StoreFailed(f"the views {self._views} are closed", written=False)
        if self._place is not None:
            self._place.check()
        return self._opened

    # -- looking --------------------------------------------------------------------------------

    def is_in_use(self) -> bool:
        """Tell whether an engine has the log open."""
        # The lock's file may have been removed under an engine, which goes on.
        return self._files.is_locked(self._path + ".lock") or self._files.is_held(self._path)

    def look(self) -> Looked:
        """Read how all projections stand."""
        connection = self._connection
        with failures(self._views, "read"), snapshot(connection):
            builds = read_builds(connection)
            names = {build.projection for build in builds}
            return Looked(
                builds,
                count_parked(connection),
                frozenset(name for name in names if is_paused(connection, name)),
                read_standstills(connection),
                open_requests(connection),
            )

    def parked(
        self, projection: str, *, key: str | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[Parked]:
        """Give parked events of the build that serves, in order of position."""
        connection = self._connection
        with failures(self._views, "read"), snapshot(connection):
            number = self._serving(projection).number
            return read_parked(connection, projection, number, key, after, limit)

    def decisions(self, projection: str | None) -> Sequence[ProjectionDecision]:
        """Give what was decided, the oldest first."""
        connection = self._connection
        with failures(self._views, "read"), snapshot(connection):
            if projection is not None:
                self._builds(projection)
            return read_decisions(connection, projection)

    def _builds(self, projection: str) -> Sequence[Found]:
        builds = read_builds(self._connection)
        mine = [build for build in builds if build.projection == projection]
        if not mine:
            names = sorted({build.projection for build in builds})
            raise UsageError(f"no projection {projection!r} in {self._views}; there are {names}")
        return mine

    def _serving(self, projection: str) -> Found:
        now = serving(self._builds(projection))
        if now is None:
            raise UsageError(f"projection {projection!r} has no tables that serve")
        return now

    # -- asking ---------------------------------------------------------------------------------

    def ask(
        self, kind: str, projection: str, arguments: Arguments, *, asked_by: str | None = SHELL
    ) -> int:
        """Ask for something; give the number of the request, which is on the disk then."""
        connection, now = self._connection, self._clock.now()
        if (why := refusal_of(kind, arguments)) is not None:
            raise UsageError(f"{why}. Nothing was asked for")
        principal = as_text(f"cli:{user_name()}") if asked_by == SHELL else asked_by
        request = Request(0, kind, projection, arguments, now, principal)
        if kind in TIMER_KINDS:
            check_stands(self.log, arguments)
        with failures(self._views, "written"), transaction(connection):
            if kind not in TIMER_KINDS:
                self._builds(projection)
            if count_open(connection) >= REQUESTS_OPEN_MAX:
                raise Overloaded(
                    f"{REQUESTS_OPEN_MAX} requests wait in {self._views} already: nothing more was "
                    f"asked for. Start the engine, which does them"
                )
            return add_request(connection, request)

    def request(self, number: int) -> Request:
        """Give a request as it is now."""
        with failures(self._views, "read"):
            found = read_request(self._connection, number)
        if found is None:
            raise StoreRefused(
                f"request {number} is not in {self._views} any more: the file was made anew, or "
                f"many others came after it"
            )
        return found

    # -- doing at rest --------------------------------------------------------------------------

    def do_at_rest(self) -> bool:
        """Do what waits and needs no engine, if none has the log open; tell whether none has."""
        lock_path = self._path + ".lock"
        try:
            lock = self._files.lock(lock_path, briefly=True)
        except StoreLocked:
            return False
        except OSError as error:
            raise StoreRefused(f"{lock_path} cannot be opened: {error.strerror}") from error
        try:
            if self._files.is_held(self._path):
                return False  # by an engine whose lock's file was removed
            with failures(self._views, "written"):
                self._do_all()
        finally:
            lock.release()
        return True

    def _do_all(self) -> None:
        connection = self._connection
        if not self._durable:
            make_wal_durable(connection, self._files, self._views)
            self._durable = True
        for request in open_requests(connection):
            if request.state == "begun":
                self._answer(request, Outcome("unknown", ENDED_TEXT))
            elif (why := refusal_of(request.kind, request.arguments)) is not None:
                self._answer(request, Outcome("refused", why))
            elif not self._needs_engine(request):
                self._do(request)

    def _needs_engine(self, request: Request) -> bool:
        """Whether only the application's code can do it: also to make tables of its own anew."""
        if request.kind not in AT_REST:
            return True
        builds = read_builds(self._connection)
        now = serving([build for build in builds if build.projection == request.projection])
        return request.kind == "reset" and now is not None and now.own

    def _answer(self, request: Request, outcome: Outcome) -> None:
        with transaction(self._connection):
            answer(self._connection, request.number, outcome, self._clock.now())

    def _do(self, request: Request) -> None:
        connection = self._connection
        try:
            with transaction(connection):
                text = self._act(connection, request)
                answer(connection, request.number, Outcome("done", text), self._clock.now())
        except (UsageError, StoreRefused, Damaged) as error:
            self._answer(request, Outcome("refused", str(error)))
        except (EngineError, apsw.Error, OSError):
            raise  # the file's, and not this request's
        except Exception as error:
            # All of it is taken back; it must not stand in the way of those behind it.
            why = f"it cannot be done here ({type(error).__name__}): nothing was changed"
            self._answer(request, Outcome("refused", why))

    def _act(self, connection: apsw.Connection, request: Request) -> str:
        """Do it inside the transaction; give what is to be told."""
        if request.arguments is None:
            raise UsageError("what goes with this request cannot be read")
        now = self._serving(request.projection)
        if request.kind == "cancel":
            return self._cancel(connection, request)
        if request.kind == "drop":
            return self._drop(connection, request)
        if request.kind == "skip":
            return self._skip(connection, request, now)
        if request.kind == "reset":
            check_reset(request.projection, read_decisions(connection, request.projection))
            empty_build(connection, now, None)
        if request.kind != "resume" or is_paused(connection, request.projection):
            self._decide(connection, request, request.kind, now.version)
        text = DONE_TEXTS[request.kind]
        return text if request.kind == "pause" else f"{text}, when an engine starts"

    def _cancel(self, connection: apsw.Connection, request: Request) -> str:
        found = build_to_cancel(request.projection, self._builds(request.projection))
        drop_build(connection, found)
        self._decide(connection, request, "drop", found.version)
        return cancelled_text(found)

    def _drop(self, connection: apsw.Connection, request: Request) -> str:
        former = builds_to_drop(self._builds(request.projection))
        for build in former:
            drop_build(connection, build)
            self._decide(connection, request, "drop", build.version)
        return dropped_text(former)

    def _skip(self, connection: apsw.Connection, request: Request, now: Found) -> str:
        assert request.arguments is not None
        name, position = request.projection, request.arguments.position
        assert position is not None, "a skip without a position was refused"
        check_skip(request.arguments.reason)
        version = self._stopped_by(connection, name, position, now)
        self._decide(connection, request, "skip", version)
        return skipped_text(position)

    def _stopped_by(self, connection: apsw.Connection, name: str, position: int, now: Found) -> int:
        """Give the version in whose way an event stands, and note that it does so no more."""
        if is_parked_there(
            position, read_parked(connection, name, now.number, None, position - 1, 1)
        ):
            return now.version
        stopped = stopped_there(name, position, read_standstills(connection))
        forget_failures(connection, name, stopped.build)
        return stopped.version

    def _decide(self, connection: Any, request: Request, kind: str, version: int) -> None:
        arguments = request.arguments
        assert arguments is not None
        position = arguments.position if kind == "skip" else None
        decision = ProjectionDecision(
            request.projection,
            msgspec.convert(kind, DecisionKind),
            self._clock.now(),
            version,
            position,
            arguments.reason,
            request.principal,
            None if position is None else self._checksum_at(position),
        )
        add_decision(connection, decision)
        if kind == "skip":
            release(connection, decision)

    def _checksum_at(self, position: int) -> int:
        """Give what tells an event from another one at its position. Raises Damaged."""
        page = self.log.read_feed(position - 1, events_max=1, bytes_max=1)
        if not page or page[0].position != position:
            raise UsageError(f"the log has no event at position {position}")
        return page[0].checksum
