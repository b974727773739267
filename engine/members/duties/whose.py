"""Whose duty a projection is: pure functions of the members and of what each declares.

Rules: whoever knows a view gives the same answer. The members that declare a projection as the
first of them does may run it, and rendezvous hashing chooses one of these. So a release with other
projections runs them when the last process of the former one has gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec

from ...model.projection import ProjectionDefinition
from ...stores.contract.builds import definition_hash
from ...stores.contract.membership import Present, View, owner_of

__all__ = ["Declares", "declared_by", "declares", "duties_of", "duty_owner", "read_declared"]

Declares: TypeAlias = Mapping[str, str]
"""How projections are declared, by name."""


def declares(definitions: Iterable[ProjectionDefinition]) -> Declares:
    """Give how these are declared: two that are told the same keep the same tables."""
    return {d.name: f"{d.version}.{d.slices}.{definition_hash(d)}" for d in definitions}


def read_declared(one: Present) -> Declares:
    """Give what a member declares; nothing where that cannot be read."""
    try:
        return msgspec.json.decode(one.address, type=dict[str, str])
    except msgspec.DecodeError:
        return {}


def declared_by(view: View) -> list[str]:
    """Name all projections that some member declares, in order."""
    return sorted({name for one in view.members for name in read_declared(one)})


def duty_owner(view: View, name: str) -> Present | None:
    """Give the member that runs a projection; None where nobody declares it."""
    known = [(one, read_declared(one).get(name)) for one in view.members]
    first = next((how for _, how in known if how is not None), None)
    if first is None:
        return None
    able = tuple(one.member for one, how in known if how == first)
    owner = owner_of(f"projection:{name}", able)
    return None if owner is None else view.find(owner)


def duties_of(view: View, member: int, names: Iterable[str]) -> frozenset[str]:
    """Name those that a member runs."""
    owners = ((name, duty_owner(view, name)) for name in names)
    return frozenset(name for name, one in owners if one is not None and one.member == member)
