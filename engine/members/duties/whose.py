"""Whose duty a projection is: pure functions of the members and of what each declares.

Rules: whoever knows a view gives the same answer. The members that declare a projection as the
first of them does may run it, and rendezvous hashing chooses one of these that has no more than its
share of all duties. So a release with other projections runs them when the last process of the
former one has gone. While a process lives that knows no shares, all choose without them. Each slice
of a projection is a duty of its own, until somebody gathers it: then all of them are their
leader's, which is the member that has the first slice. Who gathers stands among the members, as one
that declares that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
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
_SHARES: Final = "  "
"""In the place of a name, too: this process gives each member its share, and no more."""
_APART: Final = "apart"
"""Said of a projection in slices, so that no release that runs them together takes it for its."""
_SLICES: Final = re.compile(rf"\d+\.(\d+){_APART}\.")
_VIEWS_MAX: Final = 16
"""Sets of members whose duties are remembered."""


def declares(definitions: Iterable[ProjectionDefinition], release: str = "") -> Declares:
    """Give how these are declared: two that are told the same keep the same tables."""
    return {_RELEASE: release, _SHARES: "", **{d.name: _declared(d) for d in definitions}}


def _declared(definition: ProjectionDefinition) -> str:
    slices = f"{definition.slices}" if definition.slices == 1 else f"{definition.slices}{_APART}"
    return f"{definition.version}.{slices}.{definition_hash(definition)}"


def gathers(projection: str) -> Declares:
    """Give what one declares who has all slices of a projection run by its leader."""
    return {_GATHERS: projection}


def read_declared(one: Present) -> Declares:
    """Give what a member declares; nothing where that cannot be read."""
    return _read(one.address)


def _read(address: str) -> Declares:
    try:
        return msgspec.json.decode(address, type=dict[str, str])
    except msgspec.DecodeError:
        return {}


def declared_by(view: View) -> list[str]:
    """Name all projections that some member declares, in order."""
    return _names(read_declared(one) for one in view.members)


def _names(declared: Iterable[Declares]) -> list[str]:
    return sorted({name for how in declared for name in how} - {_GATHERS, _RELEASE, _SHARES})


def duty_owner(view: View, name: str, number: int = 0) -> Present | None:
    """Give the member that runs a slice of a projection; None where nobody declares it.

    Who has the first slice leads the projection.
    """
    known = tuple((one.member, one.address) for one in view.members)
    if number and any(read_declared(one).get(_GATHERS) == name for one in view.members):
        number = 0
    owner = _owners(known).get(_duty(name, number))
    return None if owner is None else view.find(owner)


@lru_cache(maxsize=_VIEWS_MAX)
def _owners(members: tuple[tuple[int, str], ...]) -> Mapping[str, int]:
    """Give the owner of each duty, as if nobody gathered any, so that this moves no other one."""
    known = [(member, _read(address)) for member, address in members]
    able = {name: _able(known, name) for name in _names(how for _, how in known)}
    duties = [(name, _duty(name, n)) for name in able for n in range(_slices(known, name))]
    has_shares = all(_SHARES in how or _GATHERS in how for _, how in known)
    share, over = divmod(len(duties), max(1, len({one for them in able.values() for one in them})))
    owners: dict[str, int] = {}
    taken = Counter[int]()
    for name, duty in duties:
        most = share + (over > 0)
        free = [one for one in able[name] if taken[one] < most] if has_shares else []
        owner = owner_of(f"projection:{duty}", free or able[name])
        assert owner is not None, "somebody declares it"
        over -= taken[owner] == share
        owners[duty] = owner
        taken[owner] += 1
    return owners


def _duty(name: str, number: int) -> str:
    return slice_name(name, number) if number else name


def _slices(known: Iterable[tuple[int, Declares]], name: str) -> int:
    """Give into how many parts a projection is divided among the members."""
    apart = _SLICES.match(next(how[name] for _, how in known if name in how))
    return int(apart[1]) if apart else 1


def _able(known: Sequence[tuple[int, Declares]], name: str) -> tuple[int, ...]:
    """Give the members that declare a projection as the first of them does."""
    first = next((text for _, how in known if (text := how.get(name)) is not None), None)
    return tuple(one for one, how in known if first is not None and how.get(name) == first)


def _known(view: View) -> list[tuple[int, Declares]]:
    return [(one.member, read_declared(one)) for one in view.members]


def able_beside(view: View, member: int, name: str) -> tuple[int, ...]:
    """Give the other members that could run a projection as this one does, in their order."""
    able = _able(_known(view), name)
    return tuple(one for one in able if one != member) if member in able else ()


def kept_otherwise(view: View, own: Declares) -> Mapping[str, tuple[str, int]]:
    """Give the release and the version of each that members keep as it is not declared here."""
    known = [read_declared(one) for one in view.members]
    found: dict[str, tuple[str, int]] = {}
    for name, text in own.items():
        first = next((how for how in known if name in how), own)
        if name not in (_RELEASE, _SHARES) and first[name] != text:
            found[name] = first.get(_RELEASE, ""), int(first[name].partition(".")[0])
    return found


def owners_of_slices(view: View, name: str) -> Mapping[str, Present]:
    """Give who runs a projection: its name where one member has all of it, else each slice's."""
    known = _known(view)
    slices = _slices(known, name) if any(name in how for _, how in known) else 1
    owners = [duty_owner(view, name, n) for n in range(slices)]
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
