"""What tests of the engine and of its users' stores are built with.

`simulate` with what it is given, and `replay`, can be taken from here:
`from foldline.testing import simulate`. They are imported as they are asked for, since most tests
do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .replaying import replay as replay
    from .simulation import Faults as Faults
    from .simulation import Sent as Sent
    from .simulation import Simulated as Simulated
    from .simulation import Simulation as Simulation
    from .simulation import SimulationFailed as SimulationFailed
    from .simulation import simulate as simulate

__all__ = ["Faults", "Sent", "Simulated", "Simulation", "SimulationFailed", "replay", "simulate"]


def __getattr__(name: str) -> object:
    """Import what a simulation or a replay needs."""
    if name in __all__:
        module = ".replaying" if name == "replay" else ".simulation"
        return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__} has no {name!r}")
