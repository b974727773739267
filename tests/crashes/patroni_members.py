"""Processes that share a log in a cluster whose leader goes, judged by what each caller was told.

Rules: the processes and their judge are those of `members_trial`, and nothing happens to them here:
only the server goes. Where members share projections, the rows of each are compared at the end with
the log, by SQL.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Count
from collections.abc import Iterator
from typing import Final

from .members_joint_judge import Row, row_of
from .members_judge import judge
from .members_trial import MACHINES, Machine, Trial
from .members_views import differences
from .patroni_cluster import Cluster, lose_leaders

__all__ = ["JOINS", "alone_with_members", "members_go_on"]

JOINS: Final = ("one", "shared", "spread")
"""How processes share the log: one owner, its projections shared as well, several owners."""
_MORE: Final = 5
"""Receipts of each client behind a loss."""
_LOSES_SECONDS: Final = 10.0
"""For all processes to come to the leader that knows less."""


async def members_go_on(cluster: Cluster, join: str) -> list[str]:
    """Let the leader go in each way; give what is wrong then."""
    trial, log = _trial(cluster, join)

    async def go_on() -> None:
        await asyncio.to_thread(trial.let_all_go_on, _MORE)

    problems: list[str] = []
    try:
        await _start(trial)
        await lose_leaders(cluster, go_on)
    except AssertionError as error:
        problems.append(str(error))
    finally:
        await asyncio.to_thread(trial.close)
    problems += judge(trial.history, [*_rows(cluster, log)])
    if join == "shared":
        problems += await differences(cluster.url(log), log, cluster.sql)
    _tell(f"strict synchronous, {join}", trial, problems)
    return problems


async def alone_with_members(cluster: Cluster, join: str) -> list[str]:
    """Let a leader go on alone, and be replaced: the judge must find what was lost."""
    trial, log = _trial(cluster, join)
    try:
        await _start(trial)
        leader = cluster.leader()
        assert leader is not None
        before = len(trial.history.said)
        leader.cut_off()
        await cluster.until(lambda: cluster.leader() not in (None, leader))
        alone = Count(one.what for one in trial.history.said[before:])["receipt"]
        # It stays cut off, so that nothing of it comes late to the others.
        await asyncio.sleep(_LOSES_SECONDS)
    finally:
        await asyncio.to_thread(trial.close)
    found = judge(trial.history, [*_rows(cluster, log)])
    lost = [problem for problem in found if "was acknowledged at" in problem]
    _tell(f"asynchronous, {join}: {alone:,} acknowledged by a leader that was alone", trial, lost)
    return [] if lost else [f"{join}: nothing was lost, so nothing was shown"]


def _trial(cluster: Cluster, join: str) -> tuple[Trial, str]:
    log = f"foldline_{join}"
    trial = Trial([Machine(n, cluster.url(log), 0) for n in range(MACHINES)], None)
    trial.join = join
    return trial, log


async def _start(trial: Trial) -> None:
    for machine in trial.machines:
        await asyncio.to_thread(trial.start, machine)
    await asyncio.to_thread(trial.let_all_go_on, _MORE)


def _rows(cluster: Cluster, log: str) -> Iterator[Row]:
    asked = f"SELECT position, stream, version, payload FROM {log}.log ORDER BY position"
    for place, stream, version, payload in cluster.sql(asked):
        yield row_of(int(place), stream, int(version), payload)


def _tell(what: str, trial: Trial, problems: list[str]) -> None:
    answers = Count(one.what for one in trial.history.said if "-" in one.key)
    told = ", ".join(f"{count:,} {answer}" for answer, count in sorted(answers.items()))
    print(f"{what}: {told}; {len(problems)} problems {problems[:3]}", flush=True)
