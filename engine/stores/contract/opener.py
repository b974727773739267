"""What the folder of a store in a server offers to whoever reads URLs.

Rules: each such folder has a file `opener` with these functions. It is imported when a URL of that
kind is opened, and not before: an application on a file waits for no server's code. Nothing is
connected to here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeAlias

from ...runtime.ports import Ports
from .backend import Backend
from .keys import KeyStore
from .log import Store
from .tables import Database, Tables
from .views import ViewsStore

__all__ = ["MakeViews", "Opener", "OpenerOfTables"]

MakeViews: TypeAlias = Callable[[logging.Logger], ViewsStore]
"""Makes the views of a log that are kept elsewhere than beside it."""


class Opener(Protocol):
    """How a log in a server is opened."""

    def open_store(self, url: str) -> Store:
        """Give the store of a URL; raise DefinitionError where it or its client is not usable."""
        ...

    def open_backend(self, store: Store, views: MakeViews | None) -> Backend | None:
        """Give the backend of a store of this kind; None for one of another kind."""
        ...


class OpenerOfTables(Opener, Protocol):
    """How a server that has tables is opened too."""

    def open_keys(self, url: str) -> KeyStore:
        """Give the keys of personal data, not yet open."""
        ...

    def open_tables(self, url: str, ports: Ports) -> Tables:
        """Give the tables of another program, not yet open."""
        ...

    def open_database(self, url: str, ports: Ports) -> Database:
        """Give the database of a URL, not yet connected to."""
        ...

    def sql_of_schema(self, url: str, *, since: int, role: str | None) -> str:
        """Give the SQL that makes the log and its views, or moves the log on from a version."""
        ...
