"""What a seed over a modelled server is made of: who lives, and what breaks when.

Rules: everything is drawn here, before anything runs. A seed is of one kind. "gentle" breaks lines
and servers for less than the patience in all, and then nobody may be refused. "harsh" is without
that bound. "takeover" has two engines, pauses and lost machines. In "weak" the server comes back
with settings that may lose events. "lossy" is the negative control: acknowledged events are lost.
"""

from __future__ import annotations

from random import Random
from typing import Literal, TypeAlias

import msgspec

from tests.simulation.swarm import Swarm

from .network import Faults

__all__ = ["Incident", "Kind", "Troubles", "What", "draw_commands", "draw_troubles", "with_standby"]

Kind: TypeAlias = Literal["gentle", "harsh", "takeover", "weak", "lossy"]
What: TypeAlias = Literal[
    "crash",
    "restart",
    "terminate",
    "part",
    "refuse",
    "full",
    "slow disk",
    "hold lock",
    "clock",
    "kill",
    "lose",
    "pause",
    "close",
    "weaken",
    "unsync",
    "give up standby",
    "cut wires",
    "part wires",
    "cut off",
]

PATIENCE_SECONDS = 18.0
LEASE_SECONDS = 3.0
_LONGEST_SECONDS = 10.0
_OF_SERVERS: tuple[What, ...] = (
    *("crash", "restart", "terminate", "terminate", "part", "refuse", "full", "slow disk"),
    *("hold lock", "clock"),
)
_WITH_STANDBY: dict[What, What] = {
    "refuse": "give up standby",
    "full": "crash",
    "clock": "give up standby",
    "hold lock": "give up standby",
    "part": "give up standby",
}
_OF_PROCESSES: tuple[What, ...] = ("kill", "close", "lose", "pause", "pause")


class Incident(msgspec.Struct, frozen=True):
    """One thing that goes wrong."""

    after: float
    """Seconds behind the one before."""
    what: What
    seconds: float


class Troubles(msgspec.Struct, frozen=True):
    """One seed's troubles."""

    kind: Kind
    incidents: tuple[Incident, ...]
    faults: Faults
    pooled: bool
    engines: int
    commit_seconds: float
    step_kills: float
    """The chance of a process to be killed at each named step of a command."""
    thinking_seconds: float
    """Between two commands of a client."""
    cancelled: float
    loses: Literal["", "unsynced", "failover"]
    """By what acknowledged events are lost."""

    @property
    def is_gentle(self) -> bool:
        """Whether nobody may be refused."""
        return self.kind == "gentle"


def draw_troubles(random: Random) -> Troubles:
    """Draw them."""
    kinds: tuple[Kind, ...] = ("gentle", "harsh", "takeover", "weak", "lossy")
    kind = random.choices(kinds, weights=(40, 20, 25, 5, 10))[0]
    harsh = kind != "gentle"
    # To find out about a batch takes some ten requests, which must come through in one row.
    chances = (0.0, 0.0, 0.02, 0.1) if harsh else (0.0, 0.0, 0.01, 0.03)
    return Troubles(
        kind=kind,
        incidents=tuple(_incidents(random, kind)),
        faults=Faults(
            request=random.choice(chances),
            late=random.choice(chances),
            reply=random.choice(chances),
            silent=random.choice((0.0, 0.0, 0.005, 0.03)),
            silent_max=None if harsh else 1,
            delay_seconds=random.choice((0.0003, 0.0003, 0.01)),
            late_seconds=2.0 if harsh else 0.1,
        ),
        pooled=random.random() < 0.2,
        engines=2 if kind == "takeover" else 1,
        commit_seconds=random.choice((0.001, 0.001, 0.02, 0.2)),
        step_kills=random.choice((0.0, 0.003)) if kind in ("harsh", "takeover") else 0.0,
        thinking_seconds=random.choice((0.01, 0.1, 0.5)),
        cancelled=random.choice((0.0, 0.0, 0.1)),
        loses=random.choice(("unsynced", "failover")) if kind == "lossy" else "",
    )


def with_standby(incident: Incident) -> Incident:
    """Give the same, or what matters more where commits wait for a standby."""
    what = _WITH_STANDBY.get(incident.what, incident.what)
    return msgspec.structs.replace(incident, what=what)


def _incidents(random: Random, kind: Kind) -> list[Incident]:
    kinds: list[What] = list(_OF_SERVERS)
    longest = 0.4 * _LONGEST_SECONDS if kind == "gentle" else 2.0 * _LONGEST_SECONDS
    if kind in ("harsh", "takeover"):
        kinds += _OF_PROCESSES
    if kind == "takeover":
        kinds += _OF_PROCESSES * 2
        longest = 4.0 * LEASE_SECONDS
    if kind == "lossy":
        longest = 0.4 * _LONGEST_SECONDS
    if kind == "weak":
        kinds += ("unsync", "unsync", "unsync")
    chosen: list[What] = random.choices(kinds, k=random.randrange(1, 6))
    if kind == "weak":
        chosen[random.randrange(len(chosen))] = "weaken"
    if kind == "lossy":
        chosen += ("crash", "crash")
    found: list[Incident] = []
    for what in chosen:
        seconds = random.random() * random.choice((0.05, 0.5, 1.0)) * longest
        found.append(Incident(random.expovariate(1 / 0.3), what, seconds))
        if kind == "gentle":
            longest -= seconds  # in all it stays below the patience
    return found


def draw_commands(random: Random) -> Swarm:
    """Draw what clients send."""
    return Swarm(
        clients=random.randrange(1, 4),
        operations=random.randrange(4, 16),
        cells=random.choice((1, 2, 4)),
        hot=random.choice((0.0, 0.6)),
        burst=random.choice((1, 2, 4)),
        keyed=random.choice((0.5, 0.8, 1.0)),
        expected=random.choice((0.0, 0.0, 0.2)),
        snapshot_every=random.choice((None, 1, 3)),
        slow_handlers=random.choice((0.0, 0.1)),
        broken_handlers=0.0,
        hanging_handlers=0.0,
        repeated=random.choice((0.1, 0.4)),
    )
