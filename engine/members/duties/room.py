"""Whether a server has connections enough for the engines by which a process runs projections.

Rules: each of them has some of its own, and no use for a part of them. Where one asks in vain, all
become one engine for a while. Where that is not enough, projections are left to members that may
have more; those that nobody else declares stay here, and are tried again. Nothing is connected to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

__all__ = ["SHORT_SECONDS", "Room"]

_ENGINES_MAX: Final = 3
"""Engines of one process that run projections: each has connections of its own."""
SHORT_SECONDS: Final = 60.0
"""How long fewer connections are asked for, where there were too few."""
_MEND: Final = "Let the server or its pooler take more (max_connections), or run fewer processes"


class Room:
    """What one process knows of it."""

    def __init__(self, logger: logging.Logger, lacked: Callable[[], None]) -> None:
        """Take what is called, at any time, where an engine asked in vain."""
        self._logger = logger
        self._lacked = lacked
        self._has_lacked = False
        self._one_until = 0.0

    def lack(self) -> None:
        """Note that the server has refused a connection to an engine."""
        self._has_lacked = True
        self._lacked()

    def take(self) -> bool:
        """Tell whether one was refused since this was asked last."""
        found, self._has_lacked = self._has_lacked, False
        return found

    @property
    def engines_max(self) -> int:
        """How many engines may run projections here."""
        return 1 if asyncio.get_running_loop().time() < self._one_until else _ENGINES_MAX

    def use_one(self) -> None:
        """Have all run by one engine for a while."""
        self._one_until = asyncio.get_running_loop().time() + SHORT_SECONDS
        self._logger.warning(
            "the server has too few connections left: this process runs all its projections by "
            "one engine for %g s. %s",
            SHORT_SECONDS,
            _MEND,
        )

    def tell_left(self, names: Collection[str]) -> None:
        """Log what is left to others."""
        self._logger.warning(
            "the server has too few connections left: this process leaves projections %s to "
            "others for %g s. %s",
            ", ".join(sorted(names)),
            SHORT_SECONDS,
            _MEND,
        )
