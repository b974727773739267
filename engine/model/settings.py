"""What stands beside the name of an aggregate's class, and is checked when the class is made.

Rules: pure. What does not fit is refused with the values that there are. This file knows no class.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from ..errors import DefinitionError, InvalidInput
from .given import WHOLE_MAX, as_seconds, shown

__all__ = ["AggregateSettings"]


class AggregateSettings(msgspec.Struct, frozen=True):
    """What stands beside the name of an aggregate's class."""

    kind: str | None
    key_window: int
    deadline: float | None
    snapshot_every: int | None
    snapshot_version: int

    def check(self, name: str) -> None:
        """Raise DefinitionError for what is none of these."""
        for setting in ("key_window", "snapshot_every", "snapshot_version"):
            value = getattr(self, setting)
            most = value if setting == "snapshot_version" else WHOLE_MAX
            if value is not None and not (type(value) is int and 1 <= value <= most):
                raise DefinitionError(
                    f"aggregate {name} has {setting}={shown(value)}: give at least 1, as a whole "
                    f"number"
                )
        try:
            wrong = self.deadline is not None and as_seconds("deadline", self.deadline) <= 0
        except InvalidInput:
            wrong = True
        if wrong:
            raise DefinitionError(
                f"aggregate {name} has deadline={shown(self.deadline)}: give seconds above 0"
            )

    @property
    def seconds(self) -> float | None:
        """The deadline, in seconds."""
        return None if self.deadline is None else as_seconds("deadline", self.deadline)

    @property
    def stored_version(self) -> int:
        """The snapshot's version as a column takes it: of a larger one, as of a hash, a hash."""
        version = self.snapshot_version
        if version <= WHOLE_MAX:
            return version
        digest = blake2b(version.to_bytes(version.bit_length() // 8 + 1, "big"), digest_size=8)
        return int.from_bytes(digest.digest(), "big") >> 1
