"""Rules of retention in the console: what is due by them, and that it is done.

Rules: the program says which rules there are; nobody adds one over HTTP. To look is a run that only
reads. What is done is done by `engine.operations.retention`, and each erasure and each run of the
archive is in the audit. Without rules there are no such endpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ...model.retention import Retention
from ...operations.answers import Done, Retained
from ...operations.operations import Operations
from .endpoints import ENDPOINTS, VERSION, Endpoint
from .permission import Caller

__all__ = ["ALL", "endpoints_with"]

_PATH = f"/api/v{VERSION}/retention"


class AskRetention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By which clock. The whole log is read, to find people."""

    at_rest: bool = False
    """Whether the log's last event may be old: without it, a clock far ahead finds nobody."""


def endpoints_with(rules: Sequence[Retention]) -> Sequence[Endpoint]:
    """Give what can be asked: that of each console, and what these rules give."""
    return (*ENDPOINTS, *(_of(rules) if rules else ()))


def _of(rules: Sequence[Retention]) -> Sequence[Endpoint]:
    async def look(ask: Operations, given: AskRetention, who: Caller) -> Sequence[Retained]:
        return await ask.retention(
            rules, dry_run=True, at_rest=given.at_rest, principal=who.principal
        )

    async def run(ask: Operations, given: AskRetention, who: Caller) -> Done:
        done = await ask.retention(rules, at_rest=given.at_rest, principal=who.principal)
        return Done("done", _in_words(done))

    return (
        Endpoint(
            method="GET",
            path=_PATH,
            action="audit",
            takes=AskRetention,
            gives=Sequence[Retained],
            about="Who would be erased and what archived now, by the rules that the program has.",
            call=look,
        ),
        Endpoint(
            method="POST",
            path=_PATH,
            action="retain",
            takes=AskRetention,
            gives=Done,
            about="Erase who is due by the rules that the program has, and archive what is.",
            call=run,
        ),
    )


def _in_words(done: Sequence[Retained]) -> str:
    people = [one for one in done if one.action == "erase"]
    erased = sum(one.done for one in people)
    kept = len(people) - erased
    events = sum(one.events for one in done)
    streams = sum(one.streams for one in done if one.action == "archive")
    stayed = f" ({kept} stayed, who got an open stream meanwhile)" if kept else ""
    return f"people erased: {erased}{stayed}; events archived: {events:,}; of streams: {streams:,}"


ALL: Final[Sequence[Endpoint]] = (*ENDPOINTS, *_of(()))
"""Each endpoint that there is, also where nobody asks it: for the reference."""
