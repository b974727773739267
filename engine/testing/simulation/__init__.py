"""A simulated world in which a whole engine runs: loop, clock, threads and disk, all by a seed.

`simulate` runs a user's program in it: `running` has the seeds, `process` one life, `simulation`
what the program is given. Below are `disk`, `loop`, `machine`, `schedule` and `fence`, on which
the engine's own simulation runs too; `lives` puts away what has died.
"""

from .process import EngineOf as EngineOf
from .process import Invariant as Invariant
from .process import Workload as Workload
from .running import Simulated as Simulated
from .running import SimulationFailed as SimulationFailed
from .running import simulate as simulate
from .simulation import Faults as Faults
from .simulation import Sent as Sent
from .simulation import Simulation as Simulation

__all__ = [
    "EngineOf",
    "Faults",
    "Invariant",
    "Sent",
    "Simulated",
    "Simulation",
    "SimulationFailed",
    "Workload",
    "simulate",
]
