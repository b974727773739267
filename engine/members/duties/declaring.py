"""What an engine with `share_projections=True` may declare, and who of a process runs what of it.

Rules: what cannot be shared is refused by name as the engine is made. Reactors and process managers
stay with the owner of the log, since they give commands: everything else is a duty of some member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from ...authorization import Authorize
from ...errors import DefinitionError
from ...model.projection import ProjectionDefinition
from ...stores.contract.backend import Backend, Shared
from ...stores.contract.keys import KeyStore
from ...stores.contract.membership import Right
from ...telemetry import Telemetry
from ...wiring import Declared, Settings, Wiring
from .whose import declared_by

__all__ = ["Sharing", "sharing_of"]


class Sharing:
    """How the engines of a process are put together where members run the projections."""

    def __init__(
        self,
        open_backend: Callable[[], Backend],
        settings: Settings,
        declared: Declared,
        authorize: Authorize | None,
        telemetry: Telemetry | None,
        keys: Callable[[], KeyStore],
    ) -> None:
        self._open_backend = open_backend
        self._settings = settings
        self._declared = declared
        self._more = authorize, telemetry, keys
        self.definitions: Sequence[ProjectionDefinition] = ()
        self._names: frozenset[str] = frozenset()
        """Of all projections, those included that stay with the owner."""

    def take(self, wiring: Wiring, *, is_spread: bool) -> None:
        """Take what an engine declares; raise DefinitionError for what cannot be shared."""
        backend, why = self._open_backend(), ""
        if is_spread:
            why = 'with join="spread" the process that leads runs the projections'
        elif not isinstance(backend, Shared):
            why = (
                f"{backend.name} is no log in PostgreSQL, and the views of a file are written by "
                f"the one process that has its lock"
            )
        elif wiring.vault is not None:
            why = "events have personal data, which is erased from rows by the log's owner"
        if why:
            raise DefinitionError(
                f"share_projections=True is refused: {why}. Leave it: the owner of the log runs "
                f"all projections then"
            )
        found = [runner.definition for runner in wiring.projecting.values()]
        self.definitions = [one for one in found if one.reacting is None]
        self._names = frozenset(one.name for one in found)

    def own(self) -> Wiring:
        """Give an engine that owns the log, and leaves to members what they run."""
        names = frozenset(one.name for one in self.definitions)
        backend = self._shared().owning(names)
        declared = self._without_answers(lambda d: () if d.name in names else range(d.slices))
        return Wiring(self._settings, backend, declared, *self._more)

    def fold(self, right: Right, lacks: Callable[[], None]) -> Wiring:
        """Give an engine that runs some projections, and nothing else.

        `lacks` is called where the server has no connection left for it.
        """
        ports = msgspec.structs.replace(self._settings.ports, watcher=None)
        ports = self._shared().telling(ports, lacks)
        settings = msgspec.structs.replace(self._settings, recording=None, ports=ports)
        others = self._names.union(declared_by(right.part.view))  # also of another release
        backend = self._shared().folding(right, settings.logger, others)
        declared = self._without_answers(lambda d: right.slices(d.name, d.slices))
        return Wiring(settings, backend, declared, *self._more)

    def _shared(self) -> Shared:
        return cast("Shared", self._open_backend())

    def _without_answers(self, runs: Callable[[ProjectionDefinition], Sequence[int]]) -> Declared:
        return msgspec.structs.replace(self._declared, answers=(), runs=runs)


def sharing_of(
    wiring: Wiring,
    open_backend: Callable[[], Backend],
    is_spread: bool,
    settings: Settings,
    declared: Declared,
    authorize: Authorize | None,
    telemetry: Telemetry | None,
    keys: Callable[[], KeyStore],
) -> Sharing:
    """Give how the projections of an engine are shared; raise DefinitionError where they cannot."""
    sharing = Sharing(open_backend, settings, declared, authorize, telemetry, keys)
    sharing.take(wiring, is_spread=is_spread)
    return sharing
