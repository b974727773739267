"""One suite that every store passes: the contract of `foldline.stores.contract`, case by case.

Subclass `StoreConformance` in a test file, as `class TestMyStore(StoreConformance)`, and say how a
store is made, how the same log is opened again, and how an event in it is damaged. For a backend,
which has views beside its log, subclass `BackendConformance`, and say how it is made and where a
copy of it goes; `OwnConformance` is for one that no other process can open. For a store of keys,
subclass `KeyStoreConformance`. The cases run
under pytest with pytest-asyncio in auto mode. Nothing here knows how a store keeps what it keeps.
"""

from __future__ import annotations

from .given_log import ADDED, ALL, append, event, feed, numbers, request, stream
from .keys import KeyStoreConformance
from .log import StoreConformance
from .views import BackendConformance, OwnConformance

__all__ = [
    "ADDED",
    "ALL",
    "BackendConformance",
    "KeyStoreConformance",
    "OwnConformance",
    "StoreConformance",
    "append",
    "event",
    "feed",
    "numbers",
    "request",
    "stream",
]
