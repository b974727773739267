"""The members of a log in the modelled server: the statements of their functions, and their view.

Rules: as `functions` says. The number of a member is given to no other one, also after a crash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from .database import Member
from .expressions import NULL, compiled
from .plpgsql import Call, Running, Step, Wait

__all__ = ["MEMBER_STEPS", "deciders_seen", "members_seen", "runners_seen", "spared_seconds"]


def _count_view(found: re.Match[str]) -> Step:
    into = found["into"] if "into" in found.groupdict() else ""

    def step(call: Call, variables: dict[str, Any]) -> Running:
        yield Wait(lock=("membership",))
        call.change("viewed", call.tables.view + 1)
        if into:
            variables[into] = call.tables.view + 1

    return step


def _insert_member(found: re.Match[str]) -> Step:
    decides = "decides" in found[0]

    def step(call: Call, variables: dict[str, Any]) -> Running:
        call.tables.members_numbered += 1  # a sequence, which is not taken back
        number, now = call.tables.members_numbered, call.clock()
        until = now + variables["p_lease_seconds"]
        holder, view = variables["p_holder"], variables["number"]
        call.change("joined", Member(number, holder, view, until, decides, 0, now))
        variables["joined"] = number
        yield from ()

    return step


def _lock_members(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        rows: Sequence[Member] = tuple(call.tables.members.values())
        for row in rows:
            if condition(variables, msgspec.structs.asdict(row)):
                yield Wait(lock=("member", row.member))

    return step


def _perform_member(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        rows: Sequence[Member] = tuple(call.tables.members.values())
        variables["FOUND"] = any(condition(variables, msgspec.structs.asdict(r)) for r in rows)
        yield from ()

    return step


def _perform_view(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        variables["FOUND"] = bool(condition(variables, {"view": call.tables.view}))
        yield from ()

    return step


def _select_decider(_: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        rows: Sequence[Member] = [m for m in call.tables.members.values() if m.decides]
        last = max(rows, key=lambda m: m.lease_until, default=None)
        told = None if last is None else (last.member, last.holder, last.joined, last.lease_until)
        names = ("session", "holder", "opened", "lease_until")
        variables |= dict(zip(names, told or (NULL,) * 4, strict=True))
        left = NULL if last is None else last.lease_until - call.clock()
        variables["seconds_left"] = left
        yield from ()

    return step


def _take_line(found: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        there: Member | None = call.tables.members.get(variables["p_member"])
        variables["number"] = NULL
        if there is not None:
            yield Wait(lock=("member", there.member))
            there = call.tables.members.get(variables["p_member"])
        if there is not None:
            variables["number"] = there.line + 1
            call.change("joined", msgspec.structs.replace(there, line=there.line + 1))

    return step


def _renew_member(found: re.Match[str]) -> Step:
    condition, seen = compiled(found["where"]), compiled(found["seen"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        variables["FOUND"] = False
        rows: Sequence[Member] = tuple(call.tables.members.values())
        for row in rows:
            if not condition(variables, msgspec.structs.asdict(row)):
                continue
            yield Wait(lock=("member", row.member))
            there: Member | None = call.tables.members.get(row.member)
            if there is None:
                continue
            variables["FOUND"] = True
            view = seen(variables, msgspec.structs.asdict(there))
            until = call.clock() + variables["p_lease_seconds"]
            renewed = msgspec.structs.replace(there, view_seen=view, lease_until=until)
            call.change("joined", renewed)

    return step


def _delete_members(found: re.Match[str]) -> Step:
    condition = compiled(found["where"])

    def step(call: Call, variables: dict[str, Any]) -> Running:
        variables["FOUND"] = False
        rows: Sequence[Member] = tuple(call.tables.members.values())
        for row in rows:
            if not condition(variables, msgspec.structs.asdict(row)):
                continue
            yield Wait(lock=("member", row.member))
            there: Member | None = call.tables.members.get(row.member)
            if there is not None and condition(variables, msgspec.structs.asdict(there)):
                variables["FOUND"] = True
                call.change("left", row.member)

    return step


def deciders_seen(call: Any, lease_seconds: float) -> list[tuple[Any, ...]]:
    """Give the same of those that decide."""
    return _seen(call, lease_seconds, decides=True)


def runners_seen(call: Any, lease_seconds: float) -> list[tuple[Any, ...]]:
    """Give the same of those that run projections."""
    return _seen(call, lease_seconds, decides=False)


def _seen(call: Any, lease_seconds: float, *, decides: bool) -> list[tuple[Any, ...]]:
    rows = members_seen(call, lease_seconds)
    found = [row for row in rows if row[1] in call.tables.members]
    return [row for row in found if call.tables.members[row[1]].decides is decides] or [
        (call.tables.view, None, None, None, 0.0)
    ]


def spared_seconds(call: Any, lease_seconds: float) -> float:
    """Give how long nobody is declared dead, as the server has started."""
    since: float = call.clock() - call.started_at()
    return lease_seconds - (lease_seconds if since < 0 else since)


def members_seen(call: Any, lease_seconds: float) -> list[tuple[Any, ...]]:
    """Give the view with each member and the seconds that are left to it."""
    tables = call.tables
    spared = spared_seconds(call, lease_seconds)
    rows = [
        (tables.view, m.member, m.holder, m.view_seen, max(m.lease_until - call.clock(), spared))
        for m in sorted(tables.members.values(), key=lambda one: one.member)
    ]
    return rows or [(tables.view, None, None, None, spared)]


MEMBER_STEPS: Final[tuple[tuple[str, Callable[[re.Match[str]], Step]], ...]] = (
    ("UPDATE {s}.membership AS v SET view = v.view + 1 RETURNING v.view INTO @into", _count_view),
    ("UPDATE {s}.membership AS v SET view = v.view + 1", _count_view),
    (
        (
            "INSERT INTO {s}.members AS m (holder, view_seen, lease_until) VALUES (p_holder, "
            "number, clock_timestamp() + make_interval(secs => p_lease_seconds)) RETURNING "
            "m.member INTO joined"
        ),
        _insert_member,
    ),
    (
        (
            "UPDATE {s}.members AS m SET view_seen = @seen, lease_until = clock_timestamp() + "
            "make_interval(secs => p_lease_seconds) WHERE @where"
        ),
        _renew_member,
    ),
    ("DELETE FROM {s}.members AS m WHERE @where", _delete_members),
    (
        (
            "INSERT INTO {s}.members AS m (holder, view_seen, lease_until, decides) VALUES "
            "(p_holder, number, clock_timestamp() + make_interval(secs => p_lease_seconds), true) "
            "RETURNING m.member INTO joined"
        ),
        _insert_member,
    ),
    ("PERFORM 1 FROM {s}.members m WHERE @where FOR UPDATE", _lock_members),
    ("PERFORM 1 FROM {s}.members m WHERE @where", _perform_member),
    ("PERFORM 1 FROM {s}.membership v WHERE @where", _perform_view),
    (
        (
            "SELECT m.member, m.holder, m.joined, m.lease_until, extract(epoch FROM m.lease_until "
            "- clock_timestamp()) INTO session, holder, opened, lease_until, seconds_left FROM "
            "{s}.members m WHERE m.decides ORDER BY m.lease_until DESC LIMIT 1"
        ),
        _select_decider,
    ),
    (
        (
            "UPDATE {s}.members AS m SET line = m.line + 1 WHERE m.member = p_member RETURNING "
            "m.line INTO number"
        ),
        _take_line,
    ),
)
