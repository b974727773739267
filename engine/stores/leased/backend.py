"""What the URL of a log in a server without tables opens: the log, and views where the host says.

Rules: views are never in memory by silence, so `views=` is needed. Nothing outside the engine reads
this log: what other processes ask for is refused by name. Nothing is connected to here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

from ...errors import DefinitionError
from ...runtime.ports import Ports
from ..contract.log import Store
from ..contract.views import ViewsStore

__all__ = ["LeasedBackend"]


class LeasedBackend:
    """The log that `store` is; `views` makes the views."""

    def __init__(
        self, store: Store, name: str, views: Callable[[logging.Logger], ViewsStore] | None
    ) -> None:
        self._store = store
        self._name = name
        self._views = views

    @property
    def name(self) -> str:
        """The URL of the log without its secrets."""
        return self._name

    def log(self) -> Store:
        """Give the log, not yet open; the same one each time."""
        return self._store

    def views(self, logger: logging.Logger) -> ViewsStore:
        """Give the views, not yet open; raise DefinitionError where nobody has said where."""
        if self._views is None:
            raise DefinitionError(
                f"{self.name} keeps events and no views: say where they are, as in "
                f'views="sqlite:PATH", or "memory:" for some that are folded anew at each start'
            )
        return self._views(logger)

    def outside(self, ports: Ports) -> NoReturn:  # noqa: ARG002 - the contract's
        """Refuse: no other process reads the log through this engine."""
        raise DefinitionError(
            f"{self.name} is read by its engine alone: commands that look at a log, copy it or "
            f"share it go with a store in SQLite or PostgreSQL"
        )
