"""How long callers waited behind a fault, and how much of that the machine itself took.

Rules: a process that another one keeps from a processor has not been slow, so what the system says
of that is taken off before a pause is judged. Nothing else is: not what the database's processes
waited for, and not what an engine did with its time. Takeovers alone are judged.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterator, Sequence
from statistics import median

import msgspec

from .members import Said

__all__ = ["Pause", "late", "longest_wait", "told"]

_JUDGED = ("kill", "stand still", "kill at", "stand still at")


class Pause(msgspec.Struct):
    """How long a caller of another process waited behind a fault."""

    fault: str
    seconds: float
    stalled: float = 0.0
    """For so much of it the machine ran something else."""
    is_takeover: bool = False


def longest_wait(said: Sequence[Said], name: str, began: float) -> tuple[float, float]:
    """Give the longest that a caller of any process but this one has waited since a time.

    Beside it stands for how long one of these processes was kept from running meanwhile.
    """
    others = [one for one in said if one.key.partition("-")[0] != name]
    sent: dict[str, float] = {}
    longest = (0.0, began, began)
    for one in others:
        if one.what == "sent":
            sent[one.key] = one.at
        elif "-" in one.key and one.at > began:
            since = max(sent.get(one.key, began), began)
            longest = max(longest, (one.at - since, since, one.at))
    seconds, since, until = longest
    return seconds, _stalled(others, since, until)


def _stalled(said: Sequence[Said], since: float, until: float) -> float:
    """Give the longest for which one process waited for a processor between two times."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for one in said:
        process = one.key.partition("-")[0]
        if one.at <= since or process not in first:
            first[process] = one.waited
        if one.at <= until:
            last[process] = one.waited
    return max((last.get(name, waited) - waited for name, waited in first.items()), default=0.0)


def late(pauses: Sequence[Pause], seconds: float) -> Iterator[str]:
    """Say which takeovers took longer than so many seconds."""
    for pause in pauses:
        fault = pause.fault.partition(":")[0]
        if pause.is_takeover and fault in _JUDGED and pause.seconds - pause.stalled > seconds:
            yield (
                f"{pause.fault}: callers of others waited {pause.seconds:.2f} s, of which the "
                f"machine ran something else for {pause.stalled:.2f} s; {seconds:g} s are allowed"
            )


def told(pauses: Sequence[Pause]) -> Iterator[str]:
    """Tell how long callers waited, by what happened."""
    found: dict[tuple[str, bool], list[Pause]] = {}
    counts: Count[str] = Count()
    for pause in pauses:
        fault, _, where = pause.fault.partition(": ")
        found.setdefault((fault, pause.is_takeover), []).append(pause)
        counts[where] += bool(where)
    for (fault, is_takeover), some in sorted(found.items()):
        kind = "another takes over" if is_takeover else "callers wait"
        some.sort(key=lambda pause: pause.seconds, reverse=True)
        rest = ", ".join(f"{one.seconds:.2f} ({one.stalled:.2f} stalled)" for one in some[:3])
        middle = median(one.seconds for one in some)
        yield f"{fault}: {kind} for {middle:.2f} s (median of {len(some)}; longest {rest})"
    yield "stood still or killed at: " + ", ".join(
        f"{name} {count}" for name, count in sorted(counts.items()) if name
    )
