"""The audit: what operators did, out of all that keeps it.

Rules: decisions about projections and timers are in the views' file, erasures with the keys, and
runs of the archive in the log. Each keeps when, what and why; who, as far as that was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..stores.contract.archiving import ArchiveRun, ReadsArchives
from ..stores.contract.keys import Erasure
from ..stores.contract.views import ProjectionDecision
from .answers import Audit, AuditEntry

__all__ = ["audit_of"]


async def audit_of(
    decisions: Iterable[ProjectionDecision],
    erasures: Iterable[Erasure],
    log: object,
    offset: int,
    limit: int,
) -> Audit:
    """Give a page of all that was done, the newest first; `log` tells what was archived of it."""
    runs = await log.read_archives() if isinstance(log, ReadsArchives) else ()
    entries: Sequence[AuditEntry] = [
        *map(_of_decision, decisions),
        *map(_of_erasure, erasures),
        *map(_of_run, runs),
    ]
    newest = sorted(entries, key=lambda entry: entry.at, reverse=True)
    return Audit(newest[max(0, offset) :][:limit], len(newest))


def _of_decision(decision: ProjectionDecision) -> AuditEntry:
    return AuditEntry(
        at=decision.decided,
        action=decision.kind,
        target=decision.projection,
        principal=decision.principal,
        reason=decision.reason,
        position=decision.position,
        version=decision.version,
    )


def _of_erasure(erasure: Erasure) -> AuditEntry:
    return AuditEntry(
        at=erasure.asked,
        action="erase",
        target=erasure.subject,
        principal=erasure.principal,
        reason=erasure.reason,
    )


def _of_run(run: ArchiveRun) -> AuditEntry:
    return AuditEntry(
        at=run.begun,
        action="archive",
        target=run.rule,
        principal=None,
        reason=f"events: {run.events:,}; streams: {run.streams:,}; bytes: {run.bytes:,}",
        position=run.position,
    )
