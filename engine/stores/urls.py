"""Reads a store's URL: which store, and where its views lie."""

from __future__ import annotations

from ..errors import DefinitionError
from .contract import Store
from .memory import MemoryStore

__all__ = ["open_url", "views_path"]


def open_url(url: str) -> Store:
    """Give the store of a URL: "memory:" or "sqlite:PATH"; raise DefinitionError for others."""
    scheme, colon, path = url.partition(":")
    if scheme == "memory" and colon and not path:
        return MemoryStore()
    raise DefinitionError(f"the store {url!r} is none that this engine knows")


def views_path(store: Store) -> str:
    """Give where the views of a store lie: beside its file, or in memory."""
    path: str = getattr(store, "views_path", ":memory:")
    return path
