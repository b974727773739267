"""A function that does nothing when it is called, as an async one, is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from engine import DefinitionError, ProcessManager, ProjectionLag, Retention, reacts
from engine.integrations.redis import RedisReadModel
from engine.integrations.sqlalchemy import SqlReadModel
from engine.relays import Consumer, Relay
from tests.integrations.places import TABLES, TOTALS, Kept, keeping
from tests.support.counters import Add, Added, Counter

NATS, REDIS = "nats://localhost", "redis://localhost"


def no_row(*_: object) -> None: ...


async def waits(*_: Any) -> None: ...


def yields(*_: Any) -> Generator[None]:
    yield


async def both(*_: Any) -> AsyncGenerator[None]:
    yield


class Waits:
    async def __call__(self, *_: Any) -> None: ...


def managed(by: Any) -> type[ProcessManager]:
    class Managed(ProcessManager, kind="managed", begins="now"):
        @reacts(by=by)
        def added(self, event: Added) -> None: ...

    return Managed


TAKERS: dict[str, Callable[[Any], object]] = {
    "apply-of-rows": lambda f: RedisReadModel("r", to=REDIS, events=[Added], apply=f),
    "key-of-rows": lambda f: RedisReadModel("r", to=REDIS, events=[Added], apply=no_row, key=f),
    "apply-of-sql": lambda f: SqlReadModel(
        "s", engine=sql.create_engine("sqlite://"), tables=TABLES, events=[Added], apply=f
    ),
    "topic": lambda f: Relay("r", to=NATS, events=[Added], topic=f),
    "encode": lambda f: Relay("r", to=NATS, events=[Added], topic="t", encode=f),
    "to-command": lambda f: Consumer(NATS, topic="t", name="c", to_command=f, dead="d"),
    "closed-if": lambda f: Retention(
        Counter, [Added], archive_after=timedelta(days=1), closed_if=f
    ),
    "by": managed,
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (waits, "is async"),
        (both, "is async"),
        (Waits(), "is async"),
        (partial(waits, 1), "is async"),
        (yields, "yields"),
    ],
    ids=["async", "async-yields", "async-call", "async-partial", "yields"],
)
def test_a_function_that_does_nothing_when_it_is_called_is_refused(
    taker: str, function: Any, said: str
) -> None:
    with pytest.raises(DefinitionError, match=said):
        TAKERS[taker](function)


def test_a_class_of_events_that_is_in_no_list_is_refused_by_name() -> None:
    alone: Any = Added
    with pytest.raises(DefinitionError, match="relay 'r': events= is a list"):
        Relay("r", to=NATS, events=alone, topic="t")
    with pytest.raises(DefinitionError, match="model 'r': events= is a list"):
        RedisReadModel("r", to=REDIS, events=alone, apply=no_row)


@pytest.mark.parametrize("function", [waits, yields], ids=["async", "yields"])
async def test_a_read_model_whose_apply_did_nothing_stops_and_passes_over_no_event(
    tmp_path: Path, function: Any
) -> None:
    """Behind a lambda nobody sees it before the first event."""
    database = sql.create_engine(f"sqlite:///{tmp_path / 'model.db'}")
    hidden = SqlReadModel(
        "totals",
        engine=database,
        tables=TABLES,
        events=[Added],
        apply=lambda connection, event, meta: function(connection, event, meta),
    )
    log = tmp_path / "log.db"
    async with keeping(hidden, log) as engine:
        added = await engine.execute(Add("a", 1))
        with pytest.raises(ProjectionLag, match="stopped"):
            await engine.query(Kept(), at=added)
        status = await engine.projections.status("totals")
        assert status.position == 0
        assert status.failure is not None
        assert "nothing was run" in status.failure.cause
    with database.connect() as connection:
        assert not connection.execute(TOTALS.select()).all()
    database.dispose()
