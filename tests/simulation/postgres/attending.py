"""The members of a log in the modelled server: the statements of their functions, and their view.

Rules: as `functions` says. The number of a member is given to no other one, also after a crash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from .database import Member
from .expressions import compiled
from .plpgsql import Call, Running, Step, Wait

__all__ = ["MEMBER_STEPS", "members_seen"]


def _count_view(found: re.Match[str]) -> Step:
    into = found["into"] if "into" in found.groupdict() else ""

    def step(call: Call, variables: dict[str, Any]) -> Running:
        yield Wait(lock=("membership",))
        call.change("viewed", call.tables.view + 1)
        if into:
            variables[into] = call.tables.view + 1

    return step


def _insert_member(found: re.Match[str]) -> Step:
    def step(call: Call, variables: dict[str, Any]) -> Running:
        call.tables.members_numbered += 1  # a sequence, which is not taken back
        number = call.tables.members_numbered
        until = call.clock() + variables["p_lease_seconds"]
        call.change("joined", Member(number, variables["p_holder"], variables["number"], until))
        variables["joined"] = number
        yield from ()

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
            call.change("joined", Member(there.member, there.holder, view, until))

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


def members_seen(call: Any, lease_seconds: float) -> list[tuple[Any, ...]]:
    """Give the view with each member and the seconds that are left to it."""
    tables = call.tables
    spared = lease_seconds - (call.clock() - call.started_at())
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
)
