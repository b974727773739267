"""What "postgresql://..." opens: a log in a server, and its views beside it or elsewhere.

Rules: views go into the same database unless it is said otherwise: they are never in memory by
silence. Nothing is connected to here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

from ...errors import DefinitionError
from ...runtime.ports import Ports
from ..contract.views import ViewsStore
from .log.store import PostgresStore
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

    def views(self, logger: logging.Logger) -> ViewsStore:
        """Give the views, not yet open."""
        if self._views is None:
            return PostgresViews(self._store.address, logger=logger)
        return self._views(logger)

    def outside(self, ports: Ports) -> NoReturn:  # noqa: ARG002 - the contract's
        """Refuse: only an engine reads this log yet."""
        raise DefinitionError(f"{self.name} cannot be read beside its engine yet")
