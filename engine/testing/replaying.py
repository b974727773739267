"""Decides recorded commands again in a test: `async for each in replay(engine, log, folder)`.

Rules: the engine is not started, and nothing is written. Handlers get the stand-ins that are given
here, and never the resources of the engine, which may reach the world outside.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from os import PathLike, fspath

from ..engine import Engine
from ..model.aggregate import definitions_of
from ..model.joint import joint_handlers_of
from ..recording.forms import Decided
from ..recording.replaying import Deciding, Replayed, replay_log
from ..runtime.ports import Ports
from ..stores.urls import StoreName, open_backend
from ..write.reception import checked_resources

__all__ = ["replay"]


def replay(
    engine: Engine,
    log: StoreName,
    folder: str | PathLike[str],
    *,
    resources: Mapping[type, object] | None = None,
    stream: str | None = None,
    command: str | None = None,
) -> AsyncGenerator[Replayed]:
    """Give recorded decisions, each decided again by the code of `engine`, in their order.

    - `engine`: one that is not started; only what it declares is used.
    - `log`: URL of the log or of a copy, or a path that is no text.
    - `folder`: where the commands were recorded.
    - `resources`: stand-ins for what handlers take, by class. A handler without one is "unknown".
    - `stream`, `command`: only decisions on this stream ("order:o-1"), and of this stored name.

    Raises DefinitionError and UsageError here, and as it is iterated StoreRefused where log or
    recording cannot be read. Leave it early with `contextlib.aclosing`.
    """

    def wanted(decided: Decided) -> bool:
        streams = [each for each, _ in decided.streams]
        return (stream is None or stream in streams) and command in (None, decided.command)

    ports = Ports()
    code = Deciding(
        definitions_of(engine.aggregates),
        joint_handlers_of(engine.decisions),
        engine.registry,
        checked_resources(resources),
    )
    outside = open_backend(log, None).outside(ports)
    return replay_log(outside, code, fspath(folder), wanted, ports=ports)
