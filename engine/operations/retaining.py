"""Rules of retention, run by an engine that goes on meanwhile.

Rules: first all events are read, to find who is due. Before each person is erased, the events that
came since are read too, so that an open stream keeps the person. Then streams are archived, as
`stores/contract/archiving` says. One run at a time; one that ends early goes on at the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ..authorization import Gate
from ..errors import UsageError
from ..log.browsing import LogToBrowse
from ..model.retention import Retention, closed_before
from ..outside.retention import DueSearch, Fold, is_closed, reason_now
from ..personal.operations import PersonalData
from ..personal.vault import Vault
from ..runtime.ports import Clock
from ..stores.contract.archiving import Archiver, ArchiveRule
from .answers import Retained

__all__ = ["Retaining"]

_PRINCIPAL: Final = "retention"
_PAGE_EVENTS: Final = 200
"""Few, since commands wait while a page is looked at."""
_PAGE_BYTES: Final = 1024 * 1024


class Retaining:
    """Runs rules on the log of one engine."""

    def __init__(
        self,
        archiver: Callable[[], Archiver],
        personal: PersonalData,
        vault: Callable[[], Vault | None],
        gate: Gate | None,
        clock: Clock,
        fold: Fold,
    ) -> None:
        self._archiver = archiver
        self._fold = fold
        self._personal = personal
        self._vault = vault
        self._gate = gate
        self._clock = clock
        self._is_running = False

    async def run(
        self,
        log: LogToBrowse,
        rules: Sequence[Retention],
        principal: str | None,
        *,
        dry_run: bool,
        at_rest: bool,
    ) -> Sequence[Retained]:
        """Do what the rules say, or tell it; see `Operations.retention`."""
        if not _are_rules(rules):
            raise UsageError("rules= is a list of Retention, with one at least: nothing was done")
        if self._is_running:
            raise UsageError("rules of retention are being run by this engine: wait for their end")
        self._is_running = True
        try:
            found = await self._erase(log, rules, principal, dry_run=dry_run, at_rest=at_rest)
            return [*found, *await self._archive(rules, dry_run)]
        finally:
            self._is_running = False

    async def _erase(
        self,
        log: LogToBrowse,
        rules: Sequence[Retention],
        principal: str | None,
        *,
        dry_run: bool,
        at_rest: bool,
    ) -> list[Retained]:
        vault = self._vault()
        if vault is None or all(rule.erase_after is None for rule in rules):
            return []
        if self._gate is not None:
            await self._gate.check(principal, "erase", "*")
        search, found = DueSearch(vault, rules), list[Retained]()
        after = await _read(log, search, 0)
        for subject in search.due(self._clock.now(), at_rest=at_rest):
            reason = await self._reason(search, subject)
            if reason is None:
                continue
            streams = len(search.streams_of(subject))
            after = await _read(log, search, after)
            is_due = await self._reason(search, subject) is not None
            if is_due and not dry_run:
                by = principal or _PRINCIPAL
                await self._personal.erase(subject, reason=reason, principal=by, timeout=0)
            found.append(
                Retained(
                    action="erase",
                    rule=reason,
                    subject=subject,
                    streams=streams,
                    done=is_due and not dry_run,
                )
            )
        return found

    async def _reason(self, search: DueSearch, subject: str) -> str | None:
        """Give the rule by which a person is due; None for one who is not."""
        return await reason_now(search, subject, self._clock.now(), self._fold)

    async def _archive(self, rules: Sequence[Retention], dry_run: bool) -> list[Retained]:
        found: list[Retained] = []
        for rule in rules:
            if rule.archive_after is None:
                continue
            before = closed_before(rule.archive_after, self._clock.now())
            judge = None if rule.closed_if is None else partial(is_closed, rule, self._fold)
            closed = ArchiveRule(rule.kind, rule.names, before, judge, str(rule))
            async with self._archiver() as archiver:
                done = await archiver.archive(closed, _silent, dry_run=dry_run)
            found.append(
                Retained(
                    action="archive",
                    rule=f"{closed}, {rule.archive_after.days} days",
                    streams=done.streams,
                    events=done.events,
                    bytes=done.bytes,
                    done=not dry_run,
                )
            )
            await asyncio.sleep(0)
        return found


async def _read(log: LogToBrowse, search: DueSearch, after: int) -> int:
    """Show a search what comes behind a position; give where it is then."""
    while page := await log.read_feed(after, events_max=_PAGE_EVENTS, bytes_max=_PAGE_BYTES):
        search.look(page)
        after = page[-1].position
    return after


def _silent(_moved: int, _events: int) -> None:
    """Show nothing: each rule is told when it is done."""


def _are_rules(rules: Sequence[object]) -> bool:
    return bool(rules) and all(isinstance(rule, Retention) for rule in rules)
