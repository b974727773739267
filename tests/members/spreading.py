"""Engines of one process that own a part of a log each: which part, and if all agree on that."""

from __future__ import annotations

from typing import Any

from engine.stores.contract.membership import slot_of

__all__ = ["accounts_of", "is_settled"]


def is_settled(engine: Any, count: int) -> bool:
    """Tell whether an engine sees so many members, and decides for all that is its own."""
    found = engine._joined._router
    return len(found._view.members) == count and sum(found._ready) == len(found._gained)


def accounts_of(engine: Any, count: int) -> list[str]:
    """Give ids of accounts that a process decides for."""
    ready = engine._joined._router._ready
    found = (name for n in range(4_000) if ready[slot_of(f"account:{(name := f'a{n}')}")])
    return [next(found) for _ in range(count)]
