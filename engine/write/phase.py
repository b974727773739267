"""Where an actor is between the store and its commands.

The phases stand here once more as plain names, which the hot path compares: in Python 3.11 each
look at a member of an enum takes as long as two calls. This file decides nothing.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["CLAIMING", "COLD", "DECIDING", "JOINT", "LIVE", "LOADING", "SETTLING", "Phase"]


class Phase(enum.Enum):
    """What an actor can do now."""

    COLD = "cold"  # its stream must be read before it can decide
    LOADING = "loading"  # its stream is being read
    LIVE = "live"  # it decides
    DECIDING = "deciding"  # an async handler decides, and nothing else is taken meanwhile
    CLAIMING = "claiming"  # it takes nothing until it is known whether it has what it claims
    JOINT = "joint"  # it stands still until a decision that is about others too has its outcome
    SETTLING = "settling"  # it takes nothing until what is in flight is settled


COLD: Final = Phase.COLD
LOADING: Final = Phase.LOADING
LIVE: Final = Phase.LIVE
DECIDING: Final = Phase.DECIDING
CLAIMING: Final = Phase.CLAIMING
JOINT: Final = Phase.JOINT
SETTLING: Final = Phase.SETTLING
