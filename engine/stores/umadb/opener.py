"""What is opened by a URL of an UmaDB server: a log and its backend.

Rules: the functions are those of `contract.opener`. Nothing is connected to here.
"""

from __future__ import annotations

from ..contract.log import Store
from ..contract.opener import MakeViews
from ..leased.backend import LeasedBackend
from .address import read_address
from .calls import check_installed
from .store import UmadbStore

__all__ = ["open_backend", "open_store"]


def open_store(url: str) -> UmadbStore:
    """Give the store of a URL; raise DefinitionError where it or umadb is not usable."""
    check_installed()
    return UmadbStore(read_address(url))


def open_backend(store: Store, views: MakeViews | None) -> LeasedBackend | None:
    """Give the backend of a store of this kind; None for one of another kind."""
    return (
        LeasedBackend(store, store.address.name, views) if isinstance(store, UmadbStore) else None
    )
