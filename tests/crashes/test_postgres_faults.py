"""A few of each fault of a PostgreSQL server; `python -m tests.crashes postgres` has many."""

from __future__ import annotations

from tests.crashes.postgres import Faults, run_faults


async def test_whatever_breaks_each_acknowledged_event_is_there_once_and_nobody_is_refused() -> (
    None
):
    outcome = await run_faults(Faults(replies=8, requests=8, backends=8, servers=1))

    assert outcome.problems == []
    assert outcome.found_written >= 8
    assert outcome.written_again >= 8
