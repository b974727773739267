"""What "sqlite:PATH" opens: a log in a file, its views in one beside it, and both for others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from ...errors import UsageError
from ...limits import Limits
from ...model.projection import ProjectionDefinition
from ...runtime.ports import Ports
from ..contract.outside import Copied, Rows
from .files import files_of
from .log.archiving import SqliteArchiver
from .log.archiving_beside import ArchiverBeside
from .log.store import SqliteStore
from .outside.bounded import Question, ask_bounded
from .outside.copy import copy_log
from .outside.copy_from import SqliteCopySource
from .outside.copy_into import SqliteCopyTarget
from .outside.log import SqliteLogReader
from .outside.operations import SqliteOperations
from .outside.structure import SqliteStructure
from .outside.views import SqliteViewsReader
from .views.catalog import Builder
from .views.patient import PatientViews
from .views.store import SqliteViews

__all__ = ["SqliteBackend"]

_SOCKET_BYTES_MAX: Final = 80
"""Of the name of a socket in its folder; the system takes 103 to 107 with what names the folder."""


class SqliteBackend:
    """The log that `store` is, and what belongs to it."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    @property
    def name(self) -> str:
        """The path of the log."""
        return self._store.path

    def log(self) -> SqliteStore:
        """Give the log, not yet open; the same one each time."""
        return self._store

    def views(self, logger: logging.Logger) -> SqliteViews:
        """Give the views in the file beside the log."""
        return SqliteViews(self._store.views_path, logger=logger)

    def outside(self, ports: Ports) -> SqliteFiles:
        """Give both files to other processes."""
        return SqliteFiles(self._store.path, self._store.views_path, ports)


class SqliteFiles:
    """The files of a log and of its views, for other processes than the engine's."""

    def __init__(self, log: str, views: str, ports: Ports) -> None:
        self._log = log
        self._views = views
        self._ports = ports
        self._files = files_of(ports)

    def log_reader(self) -> SqliteLogReader:
        """Give the log to be read."""
        return SqliteLogReader(self._log, self._files)

    def views_reader(
        self, projections: Sequence[ProjectionDefinition], limits: Limits
    ) -> SqliteViewsReader:
        """Give the views to be read."""
        return SqliteViewsReader(self._views, projections, self._ports, limits)

    def notices(self) -> None:
        """Give nothing: a file tells nobody of a commit."""

    def views_beside(self, token: str, logger: logging.Logger) -> SqliteViews:
        """Give the views to a process that builds beside the engine."""
        builder = Builder(token, lambda: self._files.is_locked(self._log + ".lock"))
        return PatientViews(self._views, logger=logger, builder=builder)

    def operations(self, *, readonly: bool = False) -> SqliteOperations:
        """Give what can be done with the projections."""
        return SqliteOperations(self._log, self._ports, readonly=readonly)

    def shell(self) -> SqliteShell:
        """Give SQL for people, in a process of its own that can be ended."""
        return SqliteShell(self._log, self._views)

    def copy(self, to: str, *, damaged: bool = False) -> Copied:
        """Copy both files to others, whole."""
        return copy_log(self._files, self._log, to, damaged=damaged)

    def copy_source(self, *, damaged: bool = False) -> SqliteCopySource:
        """Give the log to be copied elsewhere."""
        return SqliteCopySource(self._log, self._views, self._files, damaged=damaged)

    def structure(self) -> SqliteStructure:
        """Give both files to be looked at for damage."""
        return SqliteStructure(self._log, self._views, self._files)

    def copy_target(self) -> SqliteCopyTarget:
        """Give where a log is copied to."""
        return SqliteCopyTarget(self._log, self._views, self._files)

    def archiver(self, beside: object = None) -> SqliteArchiver:
        """Give what moves closed streams into the cold file beside the log."""
        if beside is None:
            return SqliteArchiver(self._log, self._ports)
        if type(beside) is not SqliteStore:
            raise UsageError(
                "a log in a file is archived beside an engine that writes it in its own process, "
                "without ?writer=process: stop this one and use `foldline archive`"
            )
        return ArchiverBeside(beside, self._ports)

    def meeting(self) -> str:
        """Give a place beside the log, whatever name of it was given."""
        log = Path(self._log).resolve()
        name = f"{log.name}.members"
        encoded = name.encode("utf-8", "surrogateescape")
        if len(encoded) > _SOCKET_BYTES_MAX:
            name = f"{blake2b(encoded, digest_size=16).hexdigest()}.members"
        return str(log.with_name(name))

    def writer(self) -> int | None:
        """Give the process whose note is in the lock's file."""
        return self._files.holder(self._log + ".lock")


class SqliteShell:
    """SQL over both files, each statement in a process with bounds."""

    def __init__(self, log: str, views: str) -> None:
        self._log = log
        self._views = views

    def ask(
        self, statement: str, parameters: Sequence[str], *, rows_max: int, seconds: int
    ) -> Rows:
        """Give the first rows of one statement that reads."""
        return self._ask(statement, parameters, rows_max, seconds)

    def tables(self, *, rows_max: int, seconds: int) -> Rows:
        """Give what there is to ask."""
        return self._ask(None, (), rows_max, seconds)

    def _ask(
        self, statement: str | None, parameters: Sequence[str], rows_max: int, seconds: int
    ) -> Rows:
        return ask_bounded(
            Question(self._log, self._views, statement, tuple(parameters), rows_max, seconds)
        )
