"""A lane: one thread that reads views, its connections, and the read transactions on them.

Rules: answers that begin before anything is committed anew read in one transaction, on one
connection; who comes behind a commit never joins those before it. A transaction in which nobody
reads is ended with the next one, or when somebody asks for that. A connection is used by its lane's
thread alone. This file chooses no lane, and lets nobody wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import apsw
import msgspec

from ....limits import Limits
from ..connection import OnlyReads, run
from .queries import QueryCalls, Readable
from .tables import TableSql

__all__ = ["Lane", "Source", "Transaction"]

_BEGIN: Final = "BEGIN /* one state for one answer */"
_END: Final = "ROLLBACK /* one state for one answer */"


class Source(Protocol):
    """Where the connections come from; called in the lanes' threads."""

    def connect(self) -> apsw.Connection:
        """Open one that can only read; its authorizer is an OnlyReads, or none."""
        ...

    def serves(self, projection: str) -> bool:
        """See `ViewsSource.serves`; on the loop."""
        ...

    def is_usable(self, connection: apsw.Connection) -> bool:
        """Tell whether one that was used before still reads the views."""
        ...

    def tables(
        self, connection: apsw.Connection, begin: Callable[[], None]
    ) -> tuple[Mapping[str, TableSql], Mapping[str, int] | None]:
        """Begin a read transaction by `begin`, read in it, and give the tables that serve.

        With them goes how far each projection is in it, where that is not known otherwise.
        """
        ...

    def commits(self) -> int | None:
        """Give a number that is another one behind each commit; None where none is known.

        It changes before anybody is told of the commit.
        """
        ...


class Transaction(msgspec.Struct, eq=False):
    """A read transaction, and how many answers read in it."""

    readable: Readable
    mark: tuple[int, int] | None
    """What was known of commits before it began: while that is so, others may join it."""
    users: int = 0

    @property
    def is_alive(self) -> bool:
        """Whether it still is one: SQLite ends it by itself where a read fails by the system."""
        return self.readable.connection.in_transaction


class Reading(Protocol):
    """An answer that reads here, as far as its transaction goes."""

    transaction: Transaction | None


class Lane:
    """Reads in one thread, one after the other."""

    def __init__(self, calls: QueryCalls, source: Source, limits: Limits) -> None:
        """Take the calls of its thread, and where its connections come from."""
        self.calls = calls
        self.looks = 0
        """Counts on as time passes: nothing is joined longer than between two of them."""
        self.ended: deque[Reading] = deque()
        """Answers whose transactions are to be given back; filled on the loop."""
        self._source = source
        self._bytes_max = limits.query_bytes
        self._idle: list[Readable] = []
        """Between two answers. The one used last comes first: it knows most."""
        self._known: dict[str, frozenset[str]] = {}
        self._newest: Transaction | None = None
        """The one that may be joined."""

    def open(self, _what: None = None) -> None:
        """Open one connection, so that it is found now if none can be."""
        self._idle.append(self._readable(self._connect(), {}))

    def take(self, pins: bool) -> Transaction:
        """Begin to read: give a transaction, on whose connection all reads see one state.

        It `pins` the schema at once where the first read opens an index of words.
        """
        # Looked at before it begins: what is committed in between only lets fewer join it.
        commits = self._source.commits()
        mark = None if commits is None else (commits, self.looks)
        newest = self._newest
        joins = newest is not None and mark is not None and newest.mark == mark and newest.is_alive
        self.give_back(joins=joins)
        if newest is None or not joins:
            newest = self._newest = Transaction(self._begin_to_read(), mark)
        if pins:
            # Now, and not with the search: its index would be opened while the schema changes.
            run(newest.readable.connection, "SELECT 1 FROM sqlite_schema LIMIT 1")
        newest.users += 1
        return newest

    def _begin_to_read(self) -> Readable:
        while self._idle:
            found = self._idle.pop()
            if self._source.is_usable(found.connection):
                return self._look_at(found.connection)
            found.connection.close()
        return self._look_at(self._connect())

    def _look_at(self, connection: apsw.Connection) -> Readable:
        try:
            shown = self._source.tables(connection, lambda: _switch(connection, _BEGIN))
        except BaseException:
            connection.close()
            raise
        return self._readable(connection, *shown)

    def _connect(self) -> apsw.Connection:
        connection = self._source.connect()
        # SQLite itself ends a text that grows beyond this, before it is made.
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, self._bytes_max)
        return connection

    def _readable(
        self,
        connection: apsw.Connection,
        tables: Mapping[str, TableSql],
        positions: Mapping[str, int] | None = None,
    ) -> Readable:
        return Readable(connection, tables, self._bytes_max, False, self._known, positions)

    def nothing(self) -> tuple[Any, None]:
        """Give nothing to read from, and give back what has ended."""
        self.give_back()
        return None, None

    def give_back(self, *, joins: bool = False) -> None:
        """End the transactions in which nobody reads; the newest stays where somebody `joins`."""
        while self.ended:
            left = self.ended.popleft().transaction
            if left is not None:
                left.users -= 1
                if not left.users and left is not self._newest:
                    self._end(left.readable)
        newest = self._newest
        if newest is not None and not newest.users and not joins:
            self._newest = None
            self._end(newest.readable)

    def _end(self, readable: Readable) -> None:
        if readable.connection.in_transaction:
            _switch(readable.connection, _END)
        if readable.connection.txn_state() == apsw.SQLITE_TXN_NONE:
            self._idle.append(readable)
        else:
            # A read that failed half way is kept by its error, and with it the old state.
            readable.connection.close(True)

    def close(self, read: Sequence[Readable]) -> None:
        """Close all connections, also those that are `read` from; nothing is read any more."""
        self.give_back()
        for readable in (*self._idle, *read):
            readable.connection.close()
        self._idle.clear()


def _switch(connection: apsw.Connection, statement: str) -> None:
    """Begin or end a read transaction, which no statement of a user may."""
    guard = connection.authorizer
    if isinstance(guard, OnlyReads):
        guard.is_beginning = True
        try:
            run(connection, statement)
        finally:
            guard.is_beginning = False
    else:
        run(connection, statement)
