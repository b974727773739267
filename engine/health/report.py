"""A report of an engine's health: what was found, held against its bounds.

Rules: it is made of numbers alone, so that the same code judges for an engine, for a member of
another process, and for the command that looks from outside. What nobody knows is told as None, and
wrong only where not to know it is the trouble itself. A check says what to do where it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from .bounds import Health
from .facts import Facts, ProjectionFacts

__all__ = ["Backup", "Disk", "Found", "HealthCheck", "HealthReport", "judge"]

Value: TypeAlias = int | float | str | None
Decides: TypeAlias = Literal["live", "ready", "nothing"]


class Disk(msgspec.Struct, frozen=True):
    """What was seen of the disk of a log's file."""

    free_bytes: int
    wal_bytes: dict[str, int]
    """Of the "log" and of the "views"."""
    seconds_left: float | None
    """Until it is full, as fast as it fills; None where it does not, or nobody knows."""


class Backup(msgspec.Struct, frozen=True):
    """What was seen of a backup."""

    seconds: float | None
    """Its age; None where there is none that can be read."""
    says: str = ""
    """What is wrong with it."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known at one moment."""

    state: str
    is_live: bool
    role: str | None = None
    """Of a process that shares its log: "owner", "member" or "waiting"."""
    owner_says: str = ""
    """Why the owner has told nothing."""
    facts: Facts | None = None
    disk: Disk | None = None
    """None where no disk is known, or it has not answered yet."""
    disk_answer: float | None = None
    """Seconds for which it has not answered; None where there is none to ask."""
    disk_says: str = ""
    """Why nothing can be seen of it, though it answers."""
    backup: Backup | None = None


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a report."""

    name: str
    """As "lag.seconds"; the same in each release."""
    of: str = ""
    """The projection that it is about, or "log" and "views"."""
    ok: bool
    """Whether the value is within its bound, or nobody knows it."""
    value: int | float | str | None
    """What was found; None where nobody knows."""
    bound: int | float | str | None
    """What it may be at most, or must be at least; None where there is none."""
    unit: str = ""
    """"s", "By", "{event}", "{timer}", or nothing."""
    decides: Decides = "nothing"
    """What the engine is not if this is wrong: "live", "ready" or nothing."""
    says: str = ""
    """What is wrong, and what to do; nothing where nothing is."""


class HealthReport(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine is at one moment. It is encoded to JSON by `msgspec.json.encode`."""

    live: bool
    """Whether the process may go on. If not, start it again: nothing else helps."""
    ready: bool
    """Whether requests may be sent to it now."""
    ok: bool
    """Whether all checks are within their bounds: if not, somebody should look."""
    state: str
    """Of the engine: "new", "starting", "running", "stopping", "stopped" or "failed".

    "blocked": its event loop does not answer a caller in another one. "abandoned": that loop
    is closed, and the engine was not ended. "forked": this process has forked from the engine's.
    """
    role: str | None
    """Of an engine with `join=True`: "owner", "member" or "waiting"."""
    position: int | None
    """The end of the log; None where the owner does not say."""
    checks: tuple[HealthCheck, ...]
    """All of them, in the order of their names in the reference."""

    @property
    def failing(self) -> tuple[HealthCheck, ...]:
        """Those that are not within their bounds."""
        return tuple(check for check in self.checks if not check.ok)


def judge(found: Found, bounds: Health) -> HealthReport:
    """Hold what was found against its bounds."""
    checks = [*_of_process(found, bounds)]
    if found.facts is not None:
        for facts in found.facts.projections:
            checks += _of_projection(facts, bounds)
        checks += _of_owner(found.facts, bounds)
    checks += _of_disk(found, bounds)
    if found.backup is not None:
        checks.append(_of_backup(found.backup, bounds))
    unready = frozenset(bounds.unready)
    told = tuple(
        msgspec.structs.replace(check, decides="ready") if check.name in unready else check
        for check in checks
    )
    return HealthReport(
        live=found.is_live,
        ready=found.is_live and all(check.ok for check in told if check.decides != "nothing"),
        ok=all(check.ok for check in told),
        state=found.state,
        role=found.role,
        position=None if found.facts is None else found.facts.position,
        checks=told,
    )


def _of_process(found: Found, bounds: Health) -> Iterator[HealthCheck]:
    yield HealthCheck(
        name="state",
        ok=found.state == "running",
        value=found.state,
        bound="running",
        decides="ready" if found.is_live else "live",
        says="" if found.state == "running" else _of_state(found.state),
    )
    if found.role is not None:
        missing = found.role == "waiting" or bool(found.owner_says)
        yield HealthCheck(
            name="owner",
            ok=not missing,
            value=found.role,
            bound=None,
            decides="ready",
            says=(found.owner_says or "no process owns the log at this moment") * missing,
        )
    left = None if found.facts is None else found.facts.lease_seconds
    if left is not None:
        yield _least("lease", left, bounds.lease_seconds_min, "s", _LEASE, decides="ready")


_LEASE: Final = "the lease was not renewed: see whether the database answers"


def _of_state(state: str) -> str:
    if state == "failed":
        return "the engine has failed: its log says why. Start it again"
    if state == "at-rest":
        return "no engine has the log open"
    if state == "blocked":
        return "its event loop does not answer: something in it does not let go"
    if state == "abandoned":
        return "its event loop was closed under it: end an engine before its loop"
    if state == "forked":
        return "it was started in the process that this one has forked from: start one here"
    return f"the engine is {state}"


def _of_projection(facts: ProjectionFacts, bounds: Health) -> Iterator[HealthCheck]:
    of = facts.name
    stopped = facts.state == "stopped"
    why = (
        "no process runs it, since its views are refused: the log of the processes says why"
        if facts.failed_at is None
        else f"it stopped at position {facts.failed_at}: see `foldline projections list`"
    )
    yield HealthCheck(
        name="projection",
        of=of,
        ok=not stopped,
        value=facts.state,
        bound=None,
        says=why * stopped,
    )
    parked = "events are set aside: see `foldline projections parked`"
    yield _most("parked", facts.parked, bounds.parked_max, "{event}", parked, of)
    if facts.kind == "sink":
        behind = "what it delivers to does not take it, or it is paused"
        most = bounds.undelivered_seconds_max
        yield _most("undelivered.seconds", facts.lag_seconds, most, "s", behind, of)
        return
    behind = "it is paused, stopped, or slower than the log grows"
    yield _most("lag.events", facts.lag_events, bounds.lag_events_max, "{event}", behind, of)
    yield _most("lag.seconds", facts.lag_seconds, bounds.lag_seconds_max, "s", behind, of)


def _of_owner(facts: Facts, bounds: Health) -> Iterator[HealthCheck]:
    late = "commands of timers are late: see `foldline timers`"
    yield _most("timers.overdue", facts.timers_overdue, bounds.timers_overdue_max, "s", late)
    parked = "timers are set aside, since their commands failed too often: see `foldline timers`"
    most = bounds.timers_parked_max
    yield _most("timers.parked", facts.timers_parked, most, "{timer}", parked)
    wrong = "the clock is behind the last event of the log: see which of them is wrong"
    yield _most("clock.behind", facts.clock_behind, bounds.clock_behind_max, "s", wrong)


def _of_disk(found: Found, bounds: Health) -> Iterator[HealthCheck]:
    if found.disk_answer is None:
        return
    slow = "the disk does not answer: what follows is old, and commands wait for it too"
    yield _most("disk.answer", found.disk_answer, bounds.disk_answer_max, "s", slow)
    disk = found.disk
    free = None if disk is None else disk.free_bytes
    full = "free some of the disk: without room no command is stored"
    room = _least("disk.bytes", free, bounds.disk_bytes_min, "By", full)
    says = found.disk_says
    yield msgspec.structs.replace(room, ok=False, says=says) if says else room
    left = None if disk is None else disk.seconds_left
    soon = "the disk is full by then, as fast as it fills now"
    yield _least("disk.seconds", left, bounds.disk_seconds_min, "s", soon)
    if disk is not None:
        open_ = "a reader has it open for too long: end its transaction"
        for of, size in disk.wal_bytes.items():
            yield _most("wal.bytes", size, bounds.wal_bytes_max, "By", open_, of)


def _of_backup(backup: Backup, bounds: Health) -> HealthCheck:
    most = bounds.backup_seconds_max
    old = backup.says or "run `foldline backup`, and see why it did not run"
    check = _most("backup.seconds", backup.seconds, most, "s", old)
    if backup.says and most is not None:
        return msgspec.structs.replace(check, ok=False, says=backup.says)
    return check


def _most(
    name: str, value: Value, bound: float | None, unit: str, says: str, of: str = ""
) -> HealthCheck:
    ok = not isinstance(value, int | float) or bound is None or value <= bound
    told = "" if ok else says
    return HealthCheck(name=name, of=of, ok=ok, value=value, bound=bound, unit=unit, says=told)


def _least(
    name: str,
    value: Value,
    bound: float | None,
    unit: str,
    says: str,
    decides: Decides = "nothing",
) -> HealthCheck:
    ok = not isinstance(value, int | float) or bound is None or value > bound
    told = "" if ok else says
    return HealthCheck(
        name=name, ok=ok, value=value, bound=bound, unit=unit, says=told, decides=decides
    )
