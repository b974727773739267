"""A read model in any SQL database, kept up to date by SQLAlchemy (the extra `sqlalchemy`).

Rules: events and the position up to which they were applied are one transaction of that database.
So an event that comes again changes nothing, and each counts once. The database belongs to the
host: a model keeps which tables it has made, and touches no other that is there. Calls of
SQLAlchemy block, and run in a thread that no process waits for. The library is imported when a
model is declared.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import ssl
import types
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias

from ..errors import BrokerFailed, DefinitionError, UsageError
from ..model.given import as_function
from ..model.messages import Event, Meta
from ..model.sink import Delivered, Delivery, Sink
from ..runtime.apart import Apart
from .read_model import DIGITS, ERASE_TIMES, batch_of, events_of, named, refusal_of

__all__ = ["Apply", "SqlReadModel"]

Apply: TypeAlias = Callable[[Any, Any, Meta], None]
"""Changes tables for one event: it takes a connection of SQLAlchemy's, the event and its `Meta`."""

CHECKPOINTS: Final = "foldline_checkpoints"
TABLES: Final = "foldline_tables"
NAME_MAX: Final = 100
TABLE_NAME_MAX: Final = 128
PAGE_SECONDS: Final = 60.0
"""How long a page of the log may take, while tables are filled anew."""
LINKS_MAX: Final = 20
"""Of a chain of errors that are looked at."""
# MariaDB's and MySQL's numbers, and SQLSTATE of PostgreSQL.
_CREDENTIALS: Final = frozenset({1045, 1698, "28P01", "28000"})
_NO_RIGHT: Final = frozenset({1044, 1049, 1142, 1227, "3D000", "42501"})
_NOT_ENCRYPTED: Final = frozenset({2026, 3159, 4031})
_BEING_MADE: Final = -1
"""In place of a position, while tables are made anew."""


class _Keeping(Sink):
    """What all read models do; a class is made of it for each."""

    _erase_times = ERASE_TIMES
    model_engine: ClassVar[Any]
    model_tables: ClassVar[Any]
    model_apply: ClassVar[Apply]
    _checkpoints: Any = None
    _own: Any = None
    """Names the tables that models have made, those of former versions too."""
    _stand: tuple[int, str] | None = None
    """Position and event up to which the tables are known to be."""
    _calls: Apart | None = None

    @property
    def _thread(self) -> Apart:
        """Give the thread of this model's calls."""
        if self._calls is None:
            self._calls = Apart(f"foldline {self.__definition__.name}")
        return self._calls

    @classmethod
    def __read__(cls, definition: Any, namespace: Any) -> Any:
        """Read a class as any sink's."""
        return super().__read__(definition, namespace)

    async def keep(self, batch: Sequence[Delivery[Event]]) -> None:
        """Apply events; return when the database has committed them."""
        while True:
            stand, is_done = await self._thread.run(partial(self._keep, batch))
            if not is_done:
                why = await refusal_of(self._delivered, *stand, batch[0].position)
                if why is not None:
                    raise BrokerFailed(
                        f"the read model {self.__definition__.name!r} {why}. Nothing was changed",
                        passes=False,
                    )
            self._stand = stand
            if is_done:
                return

    async def erase(self, subjects: Sequence[str]) -> None:
        """Fill the tables anew in one transaction, of events that have nothing of these people.

        Tables of former versions are emptied, also where this one has none of these people.
        """
        delivered, is_here = self._delivered, False
        assert delivered is not None, "the projector gives it"
        after: int | None = 0
        while after is not None and not is_here:
            page, after = await delivered.again(after, subjects)
            is_here = bool(page)
        loop = asyncio.get_running_loop()
        await self._thread.run(partial(self._lose, delivered, loop if is_here else None))

    async def close(self) -> None:
        """Let the thread end when its call has."""
        if self._calls is not None:
            self._calls.close()

    def _lose(self, delivered: Delivered, loop: asyncio.AbstractEventLoop | None) -> None:
        """Empty former tables; fill those of today anew, where the loop that reads is given."""
        with self._failures():
            self._prepare(delivered.log_id)
            with self.model_engine.begin() as connection:
                table, name = self._checkpoints, self.__definition__.name
                query = table.select().where(table.c.name == name).with_for_update()
                end = connection.execute(query.with_only_columns(table.c.position)).scalar_one()
                # First, as they may refer to those of today.
                self._empty_former(connection)
                if loop is None:
                    return
                for each in reversed(self.model_tables.sorted_tables):
                    connection.execute(each.delete())
                after: int | None = 0
                while after is not None and after < end:
                    asked = asyncio.run_coroutine_threadsafe(delivered.again(after), loop)
                    page, after = asked.result(PAGE_SECONDS)
                    for delivery in page:
                        if delivery.position <= end:
                            self._apply_one(connection, delivery)

    def _prepare(self, log_id: str) -> None:
        if self._checkpoints is None:
            checkpoints = self._make_checkpoints()
            self._make_tables(checkpoints, log_id)
            self._checkpoints = checkpoints

    def _keep(self, batch: Sequence[Delivery[Event]]) -> tuple[tuple[int, str], bool]:
        """Apply events where the tables are as they were left; give where they are, and if so."""
        with self._failures():
            self._prepare(batch[0].log_id)
            with self.model_engine.begin() as connection:
                return self._apply(connection, batch)

    def _apply_one(self, connection: Any, delivery: Delivery[Event]) -> None:
        given: object = type(self).model_apply(connection, delivery.event, delivery.meta)
        if inspect.iscoroutine(given) or inspect.isgenerator(given):
            given.close()
            raise UsageError(
                f"read model {self.__definition__.name!r}: apply= gave a "
                f"{type(given).__name__}, of which nothing was run: write it with def, and "
                f"without yield"
            )

    def _apply(
        self, connection: Any, batch: Sequence[Delivery[Event]]
    ) -> tuple[tuple[int, str], bool]:
        table, name = self._checkpoints, self.__definition__.name
        # Locked, so that what a former life of this process still does comes before or after.
        query = table.select().where(table.c.name == name).with_for_update()
        position, event = connection.execute(
            query.with_only_columns(table.c.position, table.c.event)
        ).one()
        if (position, event) != self._stand:
            return (position, event), False
        for delivery in batch:
            if delivery.position > position:
                self._apply_one(connection, delivery)
        if batch[-1].position > position:
            position, event = batch[-1].position, named(batch[-1])
            now = {"position": position, "event": event}
            connection.execute(table.update().where(table.c.name == name).values(**now))
        return (position, event), True

    def _make_checkpoints(self) -> Any:
        sql: Any = importlib.import_module("sqlalchemy")
        own = sql.MetaData()
        table = sql.Table(
            CHECKPOINTS,
            own,
            sql.Column("name", sql.String(NAME_MAX), primary_key=True),
            sql.Column("version", sql.Integer, nullable=False),
            sql.Column("log_id", sql.String(NAME_MAX), nullable=False),
            sql.Column("position", sql.BigInteger, nullable=False),
            sql.Column("event", sql.String(DIGITS), nullable=False),
        )
        columns = ("model", "table_schema", "table_name")
        self._own = sql.Table(
            TABLES,
            own,
            *(sql.Column(c, sql.String(TABLE_NAME_MAX), primary_key=True) for c in columns),
        )
        own.create_all(self.model_engine)
        return table

    def _make_tables(self, table: Any, log_id: str) -> None:
        """Make the tables, empty, unless they are those of this version and this log."""
        name, version = self.__definition__.name, self.__definition__.version
        engine, tables = self.model_engine, self.model_tables
        making = {"version": version, "log_id": log_id, "position": _BEING_MADE, "event": ""}
        with engine.begin() as connection:
            found = connection.execute(table.select().where(table.c.name == name)).one_or_none()
            is_kept = (
                found is not None
                and (found.version, found.log_id) == (version, log_id)
                and found.position >= 0
            )
            own = self._made(connection)
            # An earlier release kept no names: what it has made is what the model has now.
            if not is_kept or not own:
                self._claim(connection, own, is_known=found is not None and not own)
            if is_kept:
                return
            if found is None:
                connection.execute(table.insert().values(name=name, **making))
            else:
                connection.execute(table.update().where(table.c.name == name).values(**making))
        # Not in the same transaction: some databases commit whatever is open then.
        tables.drop_all(engine)
        tables.create_all(engine)
        with engine.begin() as connection:
            connection.execute(table.update().where(table.c.name == name).values(position=0))

    def _made(self, connection: Any) -> set[tuple[str, str]]:
        """Give schema and name of the tables that this model has made."""
        own = self._own
        query = own.select().where(own.c.model == self.__definition__.name)
        return {(row.table_schema, row.table_name) for row in connection.execute(query)}

    def _claim(self, connection: Any, own: set[tuple[str, str]], *, is_known: bool) -> None:
        """Keep that the tables are this model's; refuse those of others that are there."""
        sql: Any = importlib.import_module("sqlalchemy")
        inspector, name = sql.inspect(connection), self.__definition__.name
        new = [t for t in self.model_tables.sorted_tables if _place_of(t) not in own]
        # Asked as it is asked before one is dropped: `Guests` may be `guests` there, or a view.
        taken = [t.fullname for t in new if inspector.has_table(t.name, schema=t.schema)]
        if taken and not is_known:
            raise BrokerFailed(
                f"the read model {name!r} would make the tables {sorted(taken)}, which are there "
                f"already and are not its own: give it other names, or drop them. Nothing was "
                f"changed",
                passes=False,
            )
        for schema, table_name in map(_place_of, new):
            given = {"model": name, "table_schema": schema, "table_name": table_name}
            connection.execute(self._own.insert().values(**given))

    def _empty_former(self, connection: Any) -> None:
        """Empty the tables of former versions that have other names: nobody fills them again."""
        sql: Any = importlib.import_module("sqlalchemy")
        former = self._made(connection) - set(map(_place_of, self.model_tables.sorted_tables))
        inspector, there = sql.inspect(connection), sql.MetaData()
        for schema, name in sorted(former):
            if inspector.has_table(name, schema=schema or None):
                sql.Table(name, there, schema=schema or None, autoload_with=connection)
        for each in reversed(there.sorted_tables):  # with those that they refer to
            if _place_of(each) in former:
                connection.execute(each.delete())

    @contextmanager
    def _failures(self) -> Generator[None]:
        """Say that the database is away, where it is that; a lock, say, is tried for a while."""
        errors: Any = importlib.import_module("sqlalchemy.exc")
        try:
            yield
        except errors.DBAPIError as error:
            shown = self.model_engine.url.render_as_string(hide_password=True)
            failed = _refusal_of(shown, error)
            if failed is None:
                is_away = isinstance(error, errors.OperationalError | errors.InterfaceError)
                if not is_away or not (error.connection_invalidated or error.statement is None):
                    raise
                failed = BrokerFailed(
                    f"the database {shown} does not do it now ({type(error.orig).__name__})",
                    passes=True,
                )
        else:
            return
        raise failed


def _place_of(table: Any) -> tuple[str, str]:
    """Give the schema of a table, none as an empty text, and its name."""
    return table.schema or "", table.name


def _refusal_of(shown: str, error: Any) -> BrokerFailed | None:
    """Give what an operator must mend, where a driver says so by its number or its SQLSTATE."""
    orig: Any = error.orig
    codes = {getattr(orig, "sqlstate", None), *getattr(orig, "args", ())[:1]}
    why = _tls_failure_of(orig)
    if why is not None or codes & _NOT_ENCRYPTED:
        return BrokerFailed(
            f"no encrypted connection to {shown}: {why or 'the server demands one'}. Give the "
            f"certificates in connect_args= of create_engine, or mend the server",
            passes=False,
        )
    if codes & _CREDENTIALS:
        return BrokerFailed(
            f"the database {shown} refuses the credentials, or a connection that is not encrypted: "
            f"mend user or password of its engine, or connect_args= of create_engine",
            passes=False,
        )
    if codes & _NO_RIGHT:
        return BrokerFailed(
            f"the database {shown} is not there, or this user has no right to its tables "
            f"({', '.join(sorted(map(str, codes & _NO_RIGHT)))}): mend its name or the rights",
            passes=False,
        )
    return None


def _tls_failure_of(error: BaseException | None) -> str | None:
    """Give what is wrong with a connection's encryption, in the words of the library `ssl`."""
    for _ in range(LINKS_MAX):
        if error is None:
            return None
        if isinstance(error, ssl.SSLError):
            return str(getattr(error, "verify_message", "") or error.reason or "it failed")
        error = getattr(error, "original_exception", None) or error.__cause__ or error.__context__
    return None


def SqlReadModel(  # noqa: N802 - what it gives is a class, to be declared like one
    name: str,
    *,
    engine: Any,
    tables: Any,
    events: Sequence[type[Event]],
    apply: Apply,
    version: int = 1,
) -> type[Sink]:
    """Give a sink that keeps tables of a SQL database: `Engine(projections=[SqlReadModel(...)])`.

    - `name`: of the projection, of at most 100 characters. Two models of one database have two.
    - `engine`: an `Engine` of SQLAlchemy's. Nothing is connected before the first event.
    - `tables`: a `MetaData` with the tables, which belong to this model alone. They are made when
      the first event comes.
    - `events`: classes of events; `[Event]` for all.
    - `apply`: is called for each event in the order of the log, with a connection whose transaction
      is the sink's. It must not commit. What it raises stops the sink.
    - `version`: raise it to drop the tables and create them again from all events.

    Each event is applied once, whatever dies and when. A query waits for it if the model is among
    the projections of its `@answers`, and `at=` is given. A database that is down is waited for. A
    log with another id does the same as a raised version. Raises DefinitionError.
    """
    sql: Any = importlib.import_module("sqlalchemy")
    errors: Any = importlib.import_module("sqlalchemy.exc")
    if not isinstance(engine, sql.Engine) or not isinstance(tables, sql.MetaData):
        raise DefinitionError(
            f"read model {name!r}: engine= is what sqlalchemy.create_engine gives, and tables= is "
            f"a MetaData"
        )
    found = events_of(name, events)
    if len(name) > NAME_MAX:
        raise DefinitionError(
            f"read model {name[:NAME_MAX]!r}: the name has at most {NAME_MAX} characters"
        )
    as_function(f"read model {name!r}: apply", apply)

    async def deliver(self: _Keeping, batch: Any) -> None:
        await self.keep(batch)

    deliver.__annotations__ = {"batch": batch_of(found), "return": None}
    members = {
        "deliver": deliver,
        "transient": (OSError, errors.OperationalError),
        "model_engine": engine,
        "model_tables": tables,
        "model_apply": staticmethod(apply),
        "__module__": __name__,
        "__doc__": f"Keeps the read model {name}.",
    }
    # Not parked: a later event of its key would be applied, and it could not be any more.
    options = {"name": name, "version": version, "on_poison": "stop"}
    return types.new_class(f"ReadModel {name}", (_Keeping,), options, lambda ns: ns.update(members))
