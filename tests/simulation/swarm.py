"""What a seed is made of: which troubles it has, and how many of each.

Rules: everything is drawn here, before anything runs. A seed has some kinds of trouble and not the
others, since a world in which everything goes wrong at once hides what only some of it would show
(swarm testing: Groce et al., ISSTA 2012).
"""

from __future__ import annotations

from random import Random
from typing import Any, Literal, TypeAlias

import msgspec

from engine.limits import Limits
from engine.model.projection import Policy

__all__ = ["Ending", "Swarm", "draw_limits", "draw_swarm"]

Ending: TypeAlias = Literal["crash", "kill", "close", "cancel"]
"""How a life ends: with the power, with the process alone (what the kernel has of its files stays),
by its `async with`, or by its host's cancellation."""


class Swarm(msgspec.Struct, frozen=True):
    """One seed's troubles."""

    clients: int = 2
    operations: int = 20
    cells: int = 3
    hot: float = 0.0
    """The share of commands that go to one cell."""
    burst: int = 1
    """How many commands a client sends before it waits for the first one's answer."""
    keyed: float = 0.7
    expected: float = 0.0
    """The share of commands that ask for a version."""
    key_window: int = 1_000
    snapshot_every: int | None = None
    slow_handlers: float = 0.1
    blocking_handlers: bool = False
    """Whether slow handlers also let the event loop stand still."""
    sabotage: float = 0.0
    """The share of async handlers whose task somebody cancels, begun or not."""
    broken_handlers: float = 0.05
    hanging_handlers: float = 0.02
    cancelled: float = 0.0
    """The share of calls that are cancelled, at any await."""
    deadlines: float = 0.0
    repeated: float = 0.1
    """The share of keyed commands that are sent again though they had their receipt."""
    rivals: float = 0.0
    """How many times a second somebody else writes to the streams; 0 for nobody."""
    write_failures: float = 0.0
    sync_failures: float = 0.0
    failing: str = ""
    """A part of the names of the files whose writes and syncs fail: views that fail alone leave a
    log that goes on."""
    step_failures: float = 0.0
    """The chance of each transaction to fail before its commit."""
    poison: bool = False
    wal_bytes: int = 64 * 1024 * 1024
    disk_seconds: float = 0.001
    endings: tuple[Ending, ...] = ("crash",)
    operations_to_crash: int = 150
    """Calls of the disk within which a life that is to crash does so, if it lives as long."""
    step_crashes: float = 0.0
    """The chance of such a life to crash at each named step of a command."""
    mended: bool = True
    """Whether the brittle projection is mended in the last life."""
    tally_versions: tuple[int, ...] = ()
    """The version of the tallies in each life; nothing where there are none."""
    tally_slices: tuple[int, ...] = (1,)
    """Into how many they are cut, in each life."""
    tally_lanes: bool = False
    """Whether their rows are those of lanes that many cells share."""
    tally_policy: Policy = "stop"
    ailing: bool = False
    """Whether the tallies cannot fold some amounts, until somebody mends them."""
    stays_ailing: bool = False
    """Whether they cannot in the end either."""
    steward: float = 0.0
    """How many times a second somebody decides about the tallies; 0 for nobody."""
    flipped: bool = False
    """Whether a bit of the log flips before the last life: then nothing wrong may be shown."""

    def tallies_of(self, life: int) -> tuple[int, int]:
        """Give version and slices of the tallies in a life, counted from 1."""
        versions, slices = self.tally_versions, self.tally_slices
        return versions[min(life, len(versions)) - 1], slices[min(life, len(slices)) - 1]


def draw_swarm(random: Random) -> Swarm:
    """Draw one."""

    def some(chance: float, *choices: float) -> float:
        return random.choice(choices) if random.random() < chance else 0.0

    lives = random.choice((1, 1, 2, 2, 3))
    tallied = _draw_tallies(random, lives + 1) if random.random() < 0.6 else {}
    weights: tuple[Ending, ...] = ("crash", "crash", "kill", "close", "cancel")
    return Swarm(
        clients=random.randrange(1, 6),
        operations=random.randrange(5, 50),
        cells=random.choice((1, 3, 6)),
        hot=some(0.4, 0.5, 0.9),
        burst=random.choice((1, 1, 2, 6, 12)),
        keyed=random.choice((0.3, 0.7, 0.7, 1.0)),
        expected=some(0.3, 0.1, 0.4),
        key_window=random.choice((1_000, 1_000, 1, 3, 6)),
        snapshot_every=random.choice((None, 1, 2, 4, 4)),
        slow_handlers=some(0.5, 0.1, 0.4),
        blocking_handlers=random.random() < 0.3,
        sabotage=some(0.2, 0.2, 0.8),
        broken_handlers=some(0.4, 0.05, 0.2),
        hanging_handlers=some(0.3, 0.03, 0.1),
        cancelled=some(0.5, 0.1, 0.4),
        deadlines=some(0.4, 0.3, 0.8),
        repeated=random.choice((0.1, 0.5)),
        rivals=some(0.4, 10.0, 60.0, 400.0),
        write_failures=some(0.2, 0.002, 0.01, 0.05),
        sync_failures=some(0.4, 0.02, 0.1, 0.4),
        failing=random.choice(("", "", "log.db", ".views.")),
        step_failures=some(0.3, 0.05, 0.2, 0.5),
        poison=random.random() < 0.3,
        wal_bytes=random.choice((64 * 1024 * 1024, 10_000, 60_000)),
        disk_seconds=random.choice((0.001, 0.001, 0.001, 0.02, 1.0)),
        endings=tuple(random.choice(weights) for _ in range(lives)),
        operations_to_crash=random.choice((30, 150, 150, 600)),
        step_crashes=0.002,
        mended=random.random() < 0.7,
        flipped=random.random() < 0.15,
        **tallied,
    )


def _draw_tallies(random: Random, lives: int) -> dict[str, Any]:
    """Draw what becomes of the tallies, which most seeds have, and in each of them only a part."""
    raised = random.random() < 0.4
    recut = raised and random.random() < 0.5
    versions = tuple(random.choice((1, 1, 2, 3)) if raised else 1 for _ in range(lives))
    slices = random.choice((1, 1, 2, 4))
    parks = random.random() < 0.6
    ailing = random.random() < 0.6
    return {
        "tally_versions": versions,
        "tally_slices": tuple(random.choice((1, 2, 4)) if recut else slices for _ in versions),
        "tally_lanes": random.random() < 0.4,
        "tally_policy": "park" if parks else "stop",
        "ailing": ailing,
        "stays_ailing": ailing and parks and random.random() < 0.4,
        "steward": random.choice((0.0, 10.0, 60.0, 300.0)),
    }


def draw_limits(random: Random) -> Limits:
    """Draw an engine's bounds: those of every day, or tight ones."""
    if random.random() < 0.4:
        return Limits(handler_seconds=5)
    waiting = random.choice((2, 4, 64))
    return Limits(
        commands_accepted=random.choice((waiting, 65_536, 65_536)),
        resident_aggregates=random.choice((1, 1, 2, 4, 100)),
        mailbox_commands=waiting,
        batch_events=random.choice((1, 5, 16, 100)),
        command_events=5,
        turn_commands=random.choice((1, 4, 256)),
        actor_commands=1,
        page_events=random.choice((2, 10, 1_000)),
        bus_events=random.choice((1, 8, 1_000)),
        projector_events=random.choice((1, 7, 1_000)),
        projector_rows=random.choice((1, 20_000)),
        projector_retries=random.choice((1, 5)),
        parked_events=random.choice((2, 10_000, 10_000)),
        loads_at_once=random.choice((1, 256)),
        idle_seconds=1,
        handler_seconds=5,
    )
