"""What tests of the engine and of its users' stores are built with.

`simulate` and what it is given can be taken from here: `from foldline.testing import simulate`.
They are imported as they are asked for, since most tests do without a simulated machine.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .simulation import Faults as Faults
    from .simulation import Sent as Sent
    from .simulation import Simulated as Simulated
    from .simulation import Simulation as Simulation
    from .simulation import SimulationFailed as SimulationFailed
    from .simulation import simulate as simulate

__all__ = ["Faults", "Sent", "Simulated", "Simulation", "SimulationFailed", "simulate"]


def __getattr__(name: str) -> object:
    """Import what a simulation needs."""
    if name in __all__:
        return getattr(import_module(".simulation", __name__), name)
    raise AttributeError(f"module {__name__} has no {name!r}")
