"""Whose duty a projection is: pure functions of the members and of what each declares.

Rules: whoever knows a view gives the same answer. The members that declare a projection as the
first of them does may run it, and rendezvous hashing chooses one of these. So a release with other
projections runs them when the last process of the former one has gone. Each slice of a projection
is a duty of its own, until somebody gathers it: then all of them are their leader's, which is the
member that has the first slice. Who gathers stands among the members, as one that declares that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from ...model.projection import ProjectionDefinition
from ...stores.contract.builds import definition_hash
from ...stores.contract.membership import Present, View, owner_of, slice_name

__all__ = [
    "Declares",
    "able_beside",
    "declared_by",
    "declares",
    "duties_of",
    "duty_owner",
    "gathers",
    "kept_otherwise",
    "leads",
    "owners_of_slices",
    "read_declared",
]

Declares: TypeAlias = Mapping[str, str]
"""How projections are declared, by name."""

_GATHERS: Final = ""
"""In the place of a name, which is never empty: what is declared there is gathered."""
_RELEASE: Final = " "
"""In the place of a name, too: which release declares the others."""
_APART: Final = "apart"
"""Said of a projection in slices, so that no release that runs them together takes it for its."""
_SLICES: Final = re.compile(rf"\d+\.(\d+){_APART}\.")


def declares(definitions: Iterable[ProjectionDefinition], release: str = "") -> Declares:
    """Give how these are declared: two that are told the same keep the same tables."""
    return {_RELEASE: release, **{d.name: _declared(d) for d in definitions}}


def _declared(definition: ProjectionDefinition) -> str:
    slices = f"{definition.slices}" if definition.slices == 1 else f"{definition.slices}{_APART}"
    return f"{definition.version}.{slices}.{definition_hash(definition)}"


def gathers(projection: str) -> Declares:
    """Give what one declares who has all slices of a projection run by its leader."""
    return {_GATHERS: projection}


def read_declared(one: Present) -> Declares:
    """Give what a member declares; nothing where that cannot be read."""
    try:
        return msgspec.json.decode(one.address, type=dict[str, str])
    except msgspec.DecodeError:
        return {}


def declared_by(view: View) -> list[str]:
    """Name all projections that some member declares, in order."""
    found = {name for one in view.members for name in read_declared(one)}
    return sorted(found - {_GATHERS, _RELEASE})


def duty_owner(view: View, name: str, number: int = 0) -> Present | None:
    """Give the member that runs a slice of a projection; None where nobody declares it.

    Who has the first slice leads the projection.
    """
    known = [(one, read_declared(one)) for one in view.members]
    able = _able(known, name)
    if not able:
        return None
    if number and not any(how.get(_GATHERS) == name for _, how in known):
        name = slice_name(name, number)
    owner = owner_of(f"projection:{name}", able)
    return None if owner is None else view.find(owner)


def _able(known: Sequence[tuple[Present, Declares]], name: str) -> tuple[int, ...]:
    """Give the members that declare a projection as the first of them does."""
    first = next((text for _, how in known if (text := how.get(name)) is not None), None)
    return tuple(one.member for one, how in known if first is not None and how.get(name) == first)


def able_beside(view: View, member: int, name: str) -> tuple[int, ...]:
    """Give the other members that could run a projection as this one does, in their order."""
    able = _able([(one, read_declared(one)) for one in view.members], name)
    return tuple(one for one in able if one != member) if member in able else ()


def kept_otherwise(view: View, own: Declares) -> Mapping[str, tuple[str, int]]:
    """Give the release and the version of each that members keep as it is not declared here."""
    known = [read_declared(one) for one in view.members]
    found: dict[str, tuple[str, int]] = {}
    for name, text in own.items():
        first = next((how for how in known if name in how), own)
        if name != _RELEASE and first[name] != text:
            found[name] = first.get(_RELEASE, ""), int(first[name].partition(".")[0])
    return found


def owners_of_slices(view: View, name: str) -> Mapping[str, Present]:
    """Give who runs a projection: its name where one member has all of it, else each slice's."""
    first = next((how[name] for one in view.members if name in (how := read_declared(one))), "")
    apart = _SLICES.match(first)
    owners = [duty_owner(view, name, n) for n in range(int(apart[1]) if apart else 1)]
    found = [owner for owner in owners if owner is not None]
    if len({owner.member for owner in found}) == 1:
        return {name: found[0]}
    return {slice_name(name, n): owner for n, owner in enumerate(found)}


def leads(view: View, member: int, name: str) -> bool:
    """Tell whether a member leads a projection."""
    owner = duty_owner(view, name)
    return owner is not None and owner.member == member


def duties_of(view: View, member: int, names: Iterable[str]) -> frozenset[str]:
    """Name those that a member runs: projections, and slices of one that others run too."""
    return frozenset(
        duty
        for name in names
        for duty, one in owners_of_slices(view, name).items()
        if one.member == member
    )
