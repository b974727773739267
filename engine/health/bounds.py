"""The bounds of an engine's health: beyond which number of which check somebody should look.

Rules: None for a bound means that its number is told and never wrong. Every check has a name that
stays the same, since alarms are hung on it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final, cast

import msgspec

from ..errors import DefinitionError
from ..model.given import shown

__all__ = ["CHECKS", "Health"]

CHECKS: Final = (
    "state",
    "owner",
    "lease",
    "projection",
    "parked",
    "lag.events",
    "lag.seconds",
    "undelivered.seconds",
    "timers.overdue",
    "timers.parked",
    "clock.behind",
    "disk.answer",
    "disk.bytes",
    "disk.seconds",
    "wal.bytes",
    "backup.seconds",
)
"""The names of all checks, in the order in which they are told."""
_GIB: Final = 1024**3


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of an engine's health, for `engine.health()`.

    None switches a bound off. Raises DefinitionError for what is no bound.
    """

    lag_events_max: int | None = None
    """Durable events that a projection or a reactor may not have handled yet."""
    lag_seconds_max: float | None = 60.0
    """Age of the oldest of these, in seconds."""
    undelivered_seconds_max: float | None = 300.0
    """Age in seconds of the oldest event that a sink or a relay has not delivered."""
    parked_max: int | None = 0
    """Events that one projection has set aside."""
    timers_overdue_max: float | None = 60.0
    """Seconds for which a timer may be due."""
    timers_parked_max: int | None = 0
    """Timers that are set aside."""
    lease_seconds_min: float | None = 0.0
    """What must be left of the owner's lease, in seconds; for a log in PostgreSQL."""
    clock_behind_max: float | None = 60.0
    """Seconds by which the clock may be behind the time of the log's last event."""
    disk_answer_max: float | None = 5.0
    """Seconds that a look at the disk may take."""
    disk_bytes_min: int | None = _GIB
    """What must be free on the disk of the log, in bytes."""
    disk_seconds_min: float | None = 86_400.0
    """For how long that must last, in seconds, as fast as it became less in the last hour."""
    wal_bytes_max: int | None = _GIB
    """Size of a write-ahead log. A reader that stays open for long lets it grow."""
    backup: str | None = None
    """The folder of the log's backup, as `foldline backup` writes it; None for no check."""
    backup_seconds_max: float | None = 93_600.0
    """Age of that backup in seconds; 26 hours allow for one each night."""
    unready: Collection[str] = ()
    """Names of checks that make the engine unready too, as "lag.seconds"."""

    def __post_init__(self) -> None:
        """Check each bound."""
        for name in self.__struct_fields__:
            if name not in ("backup", "unready"):
                _check(name, getattr(self, name))
        _check_folder(self.backup)
        _check_names(self.unready)


def _check_folder(backup: object) -> None:
    if backup is not None and not (isinstance(backup, str) and backup):
        raise DefinitionError(f"Health.backup is the path of a folder, not {shown(backup)}")


def _check_names(names: object) -> None:
    given: object = names  # which a type narrowed below is not shown as
    many = isinstance(names, Collection) and not isinstance(names, str)
    if many and all(name in CHECKS for name in cast("Collection[object]", names)):
        return
    raise DefinitionError(
        f"Health.unready is a list of names of checks, which are {', '.join(CHECKS)}; and not "
        f"{shown(given)}"
    )


def _check(name: str, value: object) -> None:
    if value is None:
        return
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    if 0 <= number < math.inf:
        return
    raise DefinitionError(f"Health.{name} is a number from 0 on, or None, and not {shown(value)}")
