"""Reads a store's URL: which store, and where its views lie."""

from __future__ import annotations

from ..errors import DefinitionError
from .contract import Store
from .memory import MemoryStore
from .sqlite import SqliteStore
from .sqlite_process import SqliteProcessStore

__all__ = ["open_url", "views_path"]

_WRITERS = {"?writer=thread": SqliteStore, "?writer=process": SqliteProcessStore}


def open_url(url: str) -> Store:
    """Give the store of a URL: "memory:" or "sqlite:PATH"; raise DefinitionError for others.

    The path is taken as it stands, relative to the current folder; "sqlite:///tmp/shop.db" and
    "sqlite:/tmp/shop.db" are the same file. With "?writer=process" behind it a process of its own
    writes the log; "?writer=thread" is what goes without saying.
    """
    scheme, _, path = url.partition(":")
    if url == "memory:":
        return MemoryStore()
    if scheme == "sqlite" and path and path != ":memory:":
        path = path.removeprefix("//")
        for ending, store in _WRITERS.items():
            if path.endswith(ending):
                return store(path.removesuffix(ending))
        return SqliteStore(path)
    raise DefinitionError(
        f'the store {url!r} is none that this release knows: write "sqlite:PATH", or '
        f'"memory:" for a log that the process keeps to itself'
    )


def views_path(store: Store) -> str:
    """Give where the views of a store lie: beside its file, or in memory."""
    path: str = getattr(store, "views_path", ":memory:")
    return path
