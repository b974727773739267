"""The modelled server: backends, transactions, locks, commits that take their time, and its deaths.

Rules: a statement runs in one step, but for where it waits: for a lock, and for its commit. A
commit is written, later on the disk, later seen by others and free of its locks; only then its
client is told. Where `synchronous_commit` is off it is seen at once, and on the disk some time
later. A crash keeps what is on the disk; a standby that is promoted has what had reached it. Each
time is drawn. What the server does, it does in no process of the world's: none can be paused.
"""

from __future__ import annotations

import contextvars
import importlib
import re
from collections import deque
from collections.abc import Callable, Generator, Sequence
from random import Random
from typing import Any, Final, TypeAlias

import msgspec

from engine.testing.simulation.loop import SimulatedLoop

from .database import Change, Record, Tables
from .expressions import UnknownSql
from .plpgsql import Running, Wait
from .statements import Asking, Statement, known_statement
from .transactions import Settings, Transaction, server_error
from .viewing import begin

__all__ = ["Answer", "Backend", "Server", "Settings", "server_error"]

Answer: TypeAlias = Callable[[Any, BaseException | None], None]
"""Takes the rows, or an error."""

_DEADLOCK_SECONDS: Final = 1.0
_FUNCTION: Final = re.compile(r"_[1-9]\(")
_SYNC: Final = "synchronous_commit"
_WRITER_SECONDS: Final = 0.4
"""What is committed without a sync is on the disk after at most so long."""
_CONTEXT: Final = contextvars.Context()
_exceptions: Any = importlib.import_module("asyncpg.exceptions")


_nobody: Final[Answer] = lambda _, __: None  # noqa: E731


class _Request(msgspec.Struct):
    query: str
    values: Sequence[Any]
    answer: Answer
    prepared: bool
    """Whether the session is to have it prepared."""


class Backend:
    """What serves one connection."""

    def __init__(
        self, server: Server, hang_up: Callable[[BaseException | None], None], owner: int
    ) -> None:
        self.server = server
        self.owner = owner
        """The number of the process that connected; 0 for none of the world's."""
        self.hang_up = hang_up
        """Called when the server ends it, with its last words."""
        self.inbox: deque[_Request] = deque()
        self.kept: list[Any] = []
        """Locks of the session."""
        self.transaction: Transaction | None = None
        self.in_block = False
        self.running: Running | None = None
        self.answer: Answer | None = None
        self.waits_for: Any = None
        self.committing = False
        self.replicating = False
        """Whether its commit is done here, and waits for a standby."""
        self.prepared: set[str] = set()
        self.warn: Callable[[], None] = lambda: None
        """Called where the server warns, before it answers."""
        self.ended = False
        self.told_to_end = False
        """Whether it ends when it is through with what it has."""
        self.waits = 0


class Server:
    """One server, or the one that took its place."""

    def __init__(self, loop: SimulatedLoop, random: Random, tables: Tables) -> None:
        self._loop = loop
        self._random = random
        self.tables = tables
        self.settings = Settings()
        self._up = True
        self.started_at = 0.0
        """When it was started last, by its clock then."""
        self.records: list[Record] = []
        self.locks: dict[Any, Backend] = {}
        self.queues: dict[Any, deque[Backend]] = {}
        self.backends: list[Backend] = []
        self.clock_ahead = 0.0
        self.commit_seconds = 0.001
        self.standby_seconds = 0.005
        self.standby_away_until = 0.0
        self.unknown: list[str] = []
        """What it was asked and does not know."""
        self.crashes = 0
        self.commits = 0
        self.on_commit: Callable[[int, list[Change]], None] | None = None
        """Called with the process and its changes, before they are seen."""
        self.on_committed: Callable[[int, list[Change]], None] | None = None
        """Called so when they are."""

    @property
    def up(self) -> bool:
        """Whether it takes connections."""
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        if up and not self._up:
            self.started_at = self.clock()
        self._up = up

    def clock(self) -> float:
        """Give the time of its clock, which may be set."""
        return self._loop.time() + self.clock_ahead

    def later(self, seconds: float, call: Callable[..., object], *values: Any) -> None:
        """Do something after a while, whatever becomes of the process that asked."""
        self._loop.call_later(seconds, call, *values, context=_CONTEXT)

    # -- backends -----------------------------------------------------------------------------

    def connect(self, hang_up: Callable[[BaseException | None], None], owner: int = 0) -> Backend:
        """Begin a backend."""
        backend = Backend(self, hang_up, owner)
        self.backends.append(backend)
        return backend

    def receive(
        self,
        backend: Backend,
        query: str,
        values: Sequence[Any],
        answer: Answer,
        *,
        prepared: bool = False,
    ) -> None:
        """Take a statement; it runs when those before it are done."""
        if backend.ended or backend.told_to_end:
            return
        backend.inbox.append(_Request(query, values, answer, prepared))
        if backend.running is None:
            self._next(backend)

    def end_of_file(self, backend: Backend) -> None:
        """The client is gone: the backend notices when it reads the next statement."""
        backend.told_to_end = True
        if backend.running is None and not backend.ended:
            self._end(backend)

    def terminate(self, backend: Backend) -> None:
        """As pg_terminate_backend does: at once, but for a commit, which is brought to its end."""
        if backend.ended:
            return
        if backend.committing:
            backend.told_to_end = True
            if backend.replicating:
                backend.answer = _nobody  # it ends without an answer, and its commit stands
                self._stop_waiting(backend)
            return
        self._end(backend, server_error("57P01", "terminating connection due to administrator"))

    def cancel(self, backend: Backend) -> None:
        """As a client asks for: the statement fails, but for a commit."""
        if backend.running is not None and not backend.committing:
            self._failed(backend, server_error("57014", "canceling statement due to user request"))
        elif backend.replicating:
            self._stop_waiting(backend)

    def _stop_waiting(self, backend: Backend) -> None:
        """Commit without the standbys, which is told by a warning alone."""
        backend.replicating = False
        backend.warn()
        self._wake_later(backend, 0.0)

    def _end(self, backend: Backend, error: BaseException | None = None) -> None:
        backend.ended = True
        backend.running = None
        backend.inbox.clear()
        self.backends.remove(backend)
        self._leave_queue(backend)
        self._release(backend)
        kept, backend.kept = set(backend.kept), []
        for key in sorted(kept, key=repr):
            self.free(key)
        backend.hang_up(error)

    # -- statements ---------------------------------------------------------------------------

    def _next(self, backend: Backend) -> None:
        if not backend.inbox:
            if backend.told_to_end:
                self._end(backend)
            return
        request = backend.inbox.popleft()
        backend.answer = request.answer
        backend.waits += 1
        backend.running = self._perform(backend, request)
        self._advance(backend)

    def _perform(self, backend: Backend, request: _Request) -> Generator[Wait, None, Any]:
        query, values = request.query, request.values
        if query == "PREPARE":
            self._known(*values)
            backend.prepared.add(values[0])
            return []
        if request.prepared and query not in backend.prepared:
            raise server_error("26000", "prepared statement does not exist")
        if query.startswith("BEGIN"):
            backend.in_block = True
            backend.transaction = Transaction(backend)
            yield from self._begin(backend.transaction, query)
            return []
        if query == "ROLLBACK" or (
            query == "COMMIT" and (backend.transaction is None or backend.transaction.failed)
        ):
            backend.in_block = False
            self._release(backend)
            return []
        rows: Any = []
        if query != "COMMIT":
            rows = yield from self._statement(backend, query, values)
            if backend.in_block:
                return rows
        yield from self._commit(backend)
        return rows

    def _statement(self, backend: Backend, query: str, values: Sequence[Any]) -> Running:
        if backend.transaction is None:
            backend.transaction = Transaction(backend)
        elif backend.transaction.failed:
            raise server_error("25P02", "current transaction is aborted")
        transaction: Asking = backend.transaction
        statement = self._known(query)
        function = bool(_FUNCTION.search(query)) and "CREATE" not in query
        if self.settings.standby and function:
            raise server_error("25006", "cannot execute it in a read-only transaction")
        before = transaction.lock_seconds
        transaction.lock_seconds = 5.0 if function else before  # as the functions are set
        rows = yield from statement(transaction, values)
        if function:
            transaction.lock_seconds = before
        return rows

    def _begin(self, transaction: Transaction, query: str) -> Running:
        try:
            yield from begin(transaction, query)
        except UnknownSql as error:
            self.unknown.append(str(error))
            raise server_error("0A000", f"the model does not know it: {error}") from None

    def _known(self, query: str) -> Statement:
        try:
            return known_statement(query)
        except UnknownSql as error:
            self.unknown.append(str(error))
            raise server_error("0A000", f"the model does not know it: {error}") from None

    def _advance(self, backend: Backend) -> None:
        running, answer = backend.running, backend.answer
        assert running is not None
        assert answer is not None
        while True:
            try:
                wait = next(running)
            except StopIteration as done:
                backend.running = None
                answer(done.value, None)
                self._next(backend)
                self._limit_idling(backend)
                return
            except _exceptions.PostgresError as error:
                self._failed(backend, error)
                return
            if wait.lock is None:
                self._wake_later(backend, wait.seconds)
                return
            if not self._locked(backend, wait.lock):
                return

    def _failed(self, backend: Backend, error: BaseException) -> None:
        backend.running = None
        self._leave_queue(backend)
        in_block = backend.in_block
        self._release(backend)
        if in_block:
            backend.transaction = Transaction(backend)
            backend.transaction.failed = True
        assert backend.answer is not None
        backend.answer(None, error)
        self._next(backend)

    def _limit_idling(self, backend: Backend) -> None:
        transaction = backend.transaction
        if backend.running is None and transaction is not None and transaction.idle_seconds:
            backend.waits += 1
            self.later(transaction.idle_seconds, self._end_idle, backend, backend.waits)

    def _end_idle(self, backend: Backend, waits: int) -> None:
        if not backend.ended and backend.waits == waits and backend.running is None:
            message = "terminating connection due to idle-in-transaction timeout"
            self._end(backend, server_error("25P03", message))

    def _wake_later(self, backend: Backend, seconds: float) -> None:
        backend.waits += 1
        self.later(seconds, self._wake, backend, backend.waits)

    def _wake(self, backend: Backend, waits: int) -> None:
        if not backend.ended and backend.waits == waits and backend.running is not None:
            self._advance(backend)

    # -- locks --------------------------------------------------------------------------------

    def _locked(self, backend: Backend, key: Any) -> bool:
        """Take a lock for the transaction, or have it wait."""
        assert backend.transaction is not None
        owner = self.locks.get(key)
        if owner is None or owner is backend:
            self.locks[key] = backend
            backend.transaction.locks.append(key)
            return True
        backend.waits += 1
        backend.waits_for = key
        self.queues.setdefault(key, deque()).append(backend)
        seconds = backend.transaction.lock_seconds
        if seconds:
            message = "canceling statement due to lock timeout"
            self.later(seconds, self._give_up, backend, backend.waits, "55P03", message)
        if self._is_deadlock(backend):
            self.later(
                _DEADLOCK_SECONDS,
                self._give_up,
                *(backend, backend.waits, "40P01", "deadlock detected"),
            )
        return False

    def _is_deadlock(self, backend: Backend) -> bool:
        at: Backend | None = backend
        for _ in self.backends:
            at = None if at is None or at.waits_for is None else self.locks.get(at.waits_for)
            if at is backend:
                return True
        return False

    def _give_up(self, backend: Backend, waits: int, sqlstate: str, message: str) -> None:
        if not backend.ended and backend.waits == waits and backend.waits_for is not None:
            self._failed(backend, server_error(sqlstate, message))

    def _leave_queue(self, backend: Backend) -> None:
        key, backend.waits_for = backend.waits_for, None
        if key is not None:
            self.queues[key].remove(backend)

    def free(self, key: Any) -> None:
        """Give a lock to whoever has waited longest."""
        self.locks.pop(key, None)
        queue = self.queues.get(key)
        if queue:
            first = queue.popleft()
            first.waits_for = None
            assert first.transaction is not None
            self.locks[key] = first
            first.transaction.locks.append(key)
            self._wake_later(first, 0.0)

    def _release(self, backend: Backend) -> None:
        transaction, backend.transaction = backend.transaction, None
        if transaction is None:
            return
        for key in dict.fromkeys(transaction.locks):
            if key not in backend.kept:
                self.free(key)

    # -- commits ------------------------------------------------------------------------------

    def _commit(self, backend: Backend) -> Running:
        transaction = backend.transaction
        assert transaction is not None
        if transaction.changes or transaction.has_locked_rows:
            record = Record(transaction.changes, self._loop.time())
            self.records.append(record)
            self.commits += 1
            if transaction.setting(_SYNC) == "off":
                self.later(self._random.random() * _WRITER_SECONDS, self._flush, record)
            else:
                backend.committing = True
                yield Wait(seconds=self._random.expovariate(1 / self.commit_seconds))
                self._flush(record)
                if self._random.random() < 0.2:
                    yield Wait(seconds=self._random.expovariate(1 / self.commit_seconds))
                if self.settings.standby_names and transaction.setting(_SYNC) != "local":
                    yield from self._replicate(backend, record)
                backend.committing = False
            if self.on_commit is not None:
                self.on_commit(backend.owner, transaction.changes)
            self.tables.apply(transaction.changes)
            if self.on_committed is not None:
                self.on_committed(backend.owner, transaction.changes)
        backend.in_block = False
        self._release(backend)

    def _replicate(self, backend: Backend, record: Record) -> Running:
        """Wait until a standby has a commit, or until the wait is ended from outside."""
        backend.replicating = True
        yield Wait(seconds=self._random.expovariate(1 / self.standby_seconds))
        while backend.replicating and self._loop.time() < self.standby_away_until:
            yield Wait(seconds=self.standby_seconds)
        if backend.replicating and record in self.records:
            for one in self.records[: self.records.index(record) + 1]:
                one.replicated = True
        backend.replicating = False

    def _flush(self, record: Record) -> None:
        """Have it on the disk, and all before it."""
        if record in self.records:  # and not lost meanwhile
            for one in self.records[: self.records.index(record) + 1]:
                one.flushed = True

    # -- its deaths ---------------------------------------------------------------------------

    def replicated(self) -> int:
        """Give how many commits a standby has: all up to the last that was waited for."""
        return max((n for n, record in enumerate(self.records, 1) if record.replicated), default=0)

    def crash(self, kept: int | None = None) -> list[Record]:
        """End at once; give what is lost. `kept` is how much of it a standby has."""
        flushed = sum(record.flushed for record in self.records)
        kept = flushed if kept is None else min(kept, flushed)
        lost = self.records[kept:]
        self._stop(None)
        del self.records[kept:]
        self.tables = self.tables.recovered(self.records)
        return lost

    def shut_down(self) -> None:
        """End its backends in order; a commit that is under way comes to its end or is lost."""
        self._stop(server_error("57P01", "terminating connection due to administrator command"))
        self._flush(self.records[-1]) if self.records else None
        self.tables = self.tables.recovered(self.records)

    def _stop(self, error: BaseException | None) -> None:
        self.up = False
        self.crashes += 1
        backends, self.backends = self.backends, []
        self.locks.clear()
        self.queues.clear()
        for backend in backends:
            backend.ended = True
            backend.running = None
            backend.hang_up(error)
