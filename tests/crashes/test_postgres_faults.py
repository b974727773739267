"""A few of each fault of a PostgreSQL server; `python -m tests.crashes postgres` has many."""

from __future__ import annotations

import threading

from tests.crashes.postgres import Faults, run_faults
from tests.crashes.postgres_servers import STEPS, Trial, kill_servers
from tests.crashes.postgres_views import World, run_views
from tests.support.postgres import Server


async def test_whatever_breaks_each_acknowledged_event_is_there_once_and_nobody_is_refused() -> (
    None
):
    outcome = await run_faults(Faults(replies=8, requests=8, backends=8, servers=1))

    assert outcome.problems == []
    assert outcome.found_written >= 8
    assert outcome.written_again >= 8


def test_views_have_each_event_once_however_their_engines_and_their_server_are_killed() -> None:
    killed = run_views(4, 1)

    assert killed.problems == []
    assert (killed.engines, killed.servers) == (4, 1)


async def test_the_judge_of_views_sees_an_event_that_counts_twice(postgres: Server) -> None:
    world = World(postgres, threading.Lock(), 0)
    await world.fold()
    world.judge("before", whole=True)
    assert world.killed.problems == []
    postgres.sql(f"UPDATE {world.schema}_views.tallies_rows SET events = 2, total = 2")
    world.judge("after")

    assert ["1 counters" in problem for problem in world.killed.problems] == [True]


async def test_views_have_each_event_once_when_their_server_is_killed_at_each_step() -> None:
    killed = await kill_servers(len(STEPS))

    assert killed.problems == []
    assert killed.steps == dict.fromkeys(STEPS, 1)


async def test_the_judge_of_servers_sees_what_the_log_does_not_say(postgres: Server) -> None:
    trial = Trial(postgres, 0)
    await trial.run(0)
    assert trial.killed.problems == []
    postgres.sql(f"UPDATE {trial.schema}_views.told_rows SET total = total + 1")
    await trial.judge("after")

    assert ["after: told is at" in problem for problem in trial.killed.problems] == [True]
