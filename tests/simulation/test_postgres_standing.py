"""What stands behind the modelled server or before it: a standby, a pooler, the table of claims."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import pytest

from engine.errors import StoreFailed
from engine.stores.contract.claims import TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, Write
from engine.testing.conformance import append, event, request
from tests.simulation.postgres.place import Place
from tests.simulation.postgres.seats import run_seats

SEEDS = int(os.environ.get("CLAIMING_SEEDS", "25"))


# -- a standby ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended_by", ["cancel", "terminate"])
def test_what_no_standby_has_is_not_acknowledged_whatever_ends_the_wait(ended_by: str) -> None:
    place = Place()
    server = place.server
    server.settings.standby_names = "standby"

    async def main() -> list[Any]:
        store, ports = place.store()
        await store.open(ports)
        server.standby_away_until = asyncio.get_running_loop().time() + 60
        answer = asyncio.ensure_future(append(store, request("a:1", 0, 1)))
        while not any(backend.replicating for backend in server.backends):
            await asyncio.sleep(0.01)
        [waiting] = [backend for backend in server.backends if backend.replicating]
        getattr(server, ended_by)(waiting)
        await asyncio.sleep(2)
        assert [e.position for e in server.tables.events] == [1], "it is committed on the primary"
        assert not answer.done(), "no standby has it"
        lost = server.crash(server.replicated())
        assert [change[0] for record in lost for change in record.changes].count("event") == 1
        server.up, server.standby_away_until = True, 0.0
        return list(await answer)

    assert place.run(main()) == [Appended(1, (1,))]
    assert [e.position for e in server.tables.events] == [1], "written again, on the new primary"


def test_a_commit_that_is_told_before_its_standby_has_it_is_lost_with_the_primary() -> None:
    """The negative control: a server that waits for nobody loses what it acknowledged."""
    place = Place()

    async def main() -> str:
        store, ports = place.store()
        await store.open(ports)
        began = len(place.server.records)
        await append(store, request("a:1", 0, 1))
        place.server.crash(max(began, place.server.replicated()))
        place.server.up = True
        with pytest.raises(StoreFailed) as failed:
            await append(store, request("a:1", 1, 2))
        return str(failed.value)

    assert "the log went back" in place.run(main())


# -- a pooler -------------------------------------------------------------------------------------


def test_each_transaction_may_be_in_another_session_of_a_poolers() -> None:
    place = Place("pooler=transaction", pooled=True)
    pooler = place.network.pooler
    assert pooler is not None

    async def main() -> list[Any]:
        store, ports = place.store()
        await store.open(ports)
        outcomes = [await append(store, request("a:1", n, n + 1)) for n in range(20)]
        place.faults(("append_1", "reply"), ("LEFT JOIN", "reply"))
        outcomes.append(await append(store, request("a:1", 20, 21)))
        await store.close()
        return [outcome for [outcome] in outcomes]

    assert place.run(main()) == [Appended(n, (n,)) for n in range(1, 22)]
    assert pooler.handed_over > 5


def test_a_pooler_that_nobody_has_named_is_no_error_of_an_append() -> None:
    """What was prepared is in another session; the store finds that out, and prepares nothing."""
    place = Place(pooled=True)
    place.network.is_pooler_hidden = True

    async def main() -> list[Any]:
        store, ports = place.store()
        await store.open(ports)
        outcomes = [await append(store, request("a:1", n, n + 1)) for n in range(20)]
        await store.close()
        return [outcome for [outcome] in outcomes]

    assert place.run(main()) == [Appended(n, (n,)) for n in range(1, 21)]


# -- claims ---------------------------------------------------------------------------------------


def test_an_append_of_an_engine_that_was_overtaken_changes_no_claims() -> None:
    place = Place()

    async def main() -> None:
        store, ports = place.store()
        await store.open(ports)
        for session in place.server.tables.sessions.values():
            session.live = False  # another engine has the log, and has written nothing yet
        write = Write("a:1", 0, [event(1)])
        with pytest.raises(StoreFailed) as failed:
            await append(store, AppendRequest([write], [TakeClaim("seat", "1", "a:1")]))
        assert failed.value.stopped

    place.run(main())
    assert (place.server.tables.events, place.server.tables.claims) == ([], {})


def test_claims_hold_whichever_engine_takes_them_and_whatever_breaks() -> None:
    told: Counter[str] = Counter()
    crashes = events = 0
    for seed in range(SEEDS):
        found = run_seats(seed)
        assert found.problems == [], f"seed {seed}: {found.problems}"
        told += found.answers
        crashes += found.crashes
        events += found.events

    assert crashes > SEEDS / 5
    assert events > SEEDS * 8
    assert told["Rejected"] > SEEDS * 5
    assert told["NoneType"] > 0


def test_a_seed_of_seats_replays_step_by_step() -> None:
    assert run_seats(3).digest == run_seats(3).digest
