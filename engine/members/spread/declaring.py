"""What an engine with `join="spread"` may declare, and what of it is for the engine that decides.

Rules: what would need one owner of the whole log is refused as the engine is made, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Protocol, cast

import msgspec

from ...authorization import Authorize
from ...errors import DefinitionError
from ...stores.contract.backend import Backend, Spreading
from ...stores.contract.keys import KeyStore
from ...stores.contract.membership import Heed
from ...stores.own import views_in_memory
from ...telemetry import Telemetry
from ...wiring import Declared, Settings, Wiring

__all__ = ["Maker", "maker_of"]


class Maker(Protocol):
    """Puts engines together: that of the log's owner, and those that decide for a part of it."""

    def __call__(self, heed: Heed | None = None, /) -> Wiring:
        """Give one that decides for a part where it is given `heed`."""
        ...


def maker_of(
    open_backend: Callable[[], Backend],
    is_spread: bool,
    settings: Settings,
    declared: Declared,
    authorize: Authorize | None,
    telemetry: Telemetry | None,
    keys: Callable[[], KeyStore],
) -> Maker:
    """Give how the engines of a process are put together."""

    def make(heed: Heed | None = None, /) -> Wiring:
        backend, own = open_backend(), declared
        if heed is not None:
            backend = _spreading(backend).deciding(heed, settings.logger, views_in_memory)
            own = _only_deciding(declared)
        elif is_spread:
            backend = _spreading(backend).leading()
        wiring = Wiring(settings, backend, own, authorize, telemetry, keys)
        if heed is not None:
            store: Any = wiring.store
            store.shares = _shares_of(wiring)
        if is_spread:
            _check(wiring)
        return wiring

    return make


def _spreading(backend: Backend) -> Spreading:
    if not isinstance(backend, Spreading):
        raise DefinitionError(
            f'join="spread" goes with a log in PostgreSQL, and {backend.name} has one owner at a '
            f"time: write join=True"
        )
    return cast("Spreading", backend)


def _only_deciding(declared: Declared) -> Declared:
    """Give what the engine that decides has: its aggregates, and nothing that reads."""
    return msgspec.structs.replace(declared, projections=(), answers=(), reacts=False)


def _shares_of(wiring: Wiring) -> str:
    """Give a text that processes share whose joint decisions and tags are the same."""
    kinds = [] if wiring.shared is None else sorted(wiring.shared.kinds)
    tags = sorted((t.name, t.version, g.fields, g.fixed) for t, g in wiring.registry.tagged)
    if not kinds and not tags:
        return ""
    return blake2b(msgspec.json.encode((kinds, tags)), digest_size=6).hexdigest()


def _check(wiring: Wiring) -> None:
    """Raise DefinitionError for what has one owner of the whole log only."""
    why = ""
    if wiring.vault is not None:
        why = "events have personal data, whose keys one process makes"
    if why:
        raise DefinitionError(
            f'join="spread" is refused: {why}. Write join=True, where one owns all'
        )
