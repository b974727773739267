"""A log that its process keeps to itself, or that the host has made: views in memory beside it.

Rules: nothing of it is there for another process, and whoever asks is told so.
"""

from __future__ import annotations

import logging
from typing import NoReturn, TypeAlias

from ..errors import DefinitionError
from ..runtime.ports import Ports
from .contract.log import Store
from .sqlite.views.scratch import TablesInSql
from .sqlite.views.store import SqliteViews

__all__ = ["FrozenViews", "OwnBackend", "TablesInSql", "views_in_memory"]

FrozenViews: TypeAlias = SqliteViews
"""Views in memory, which nobody writes any more after `freeze`."""


def views_in_memory(logger: logging.Logger, *, bytes_max: int | None = None) -> SqliteViews:
    """Give views that end with their process, and may be bounded in bytes."""
    return SqliteViews(":memory:", logger=logger, bytes_max=bytes_max)


class OwnBackend:
    """A store that is there already."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name

    def log(self) -> Store:
        """Give the store."""
        return self._store

    def views(self, logger: logging.Logger) -> SqliteViews:
        """Give views in memory."""
        return views_in_memory(logger)

    def outside(self, ports: Ports) -> NoReturn:  # noqa: ARG002 - the contract's
        """Refuse: there is nothing outside of this process."""
        raise DefinitionError(
            f"the store {self.name} has no file that another process could read: name one, as in "
            f"sqlite:shop.db"
        )
