"""A plugin of pytest's: whatever tests keep in memory, they keep in PostgreSQL instead.

    python -m pytest -p tests.support.on_postgres tests/write tests/queries

So the engine's own tests are run over a log in a server, in a schema each, with their views
in memory. What looks into a `MemoryStore`, reads it after its end, or counts turns of the loop is
left out here, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import pytest

import engine.engine as engine_module
import engine.stores.memory as memory_module
import engine.stores.urls as urls_module
from engine.stores.own import views_in_memory
from engine.stores.postgres.address import read_address
from engine.stores.postgres.backend import PostgresBackend
from engine.stores.postgres.log.store import PostgresStore
from tests.support.postgres import Server, postgres_server, wheel_programs

_READS_WHAT_ENDED: Final = "it reads the store after its end"
_COUNTS_TURNS: Final = "it counts turns of the loop, in which a server does not answer"
_LOOKS_INSIDE: Final = "it looks into a store in memory"
_IN_MEMORY: Final = "it is of views in memory, which may be seen in two states"
_NEEDS_SPEED: Final = "it fills what waits before the writer comes, which a busy server may not"
_LEFT_OUT: Final = {
    "test_metadata_is_stored_with_every_event_and_the_key_with_the_first": _READS_WHAT_ENDED,
    "test_absent_metadata_takes_no_bytes": _READS_WHAT_ENDED,
    "test_a_kind_without_snapshots_writes_none": _READS_WHAT_ENDED,
    "test_a_voided_version_leaves_no_snapshot": _READS_WHAT_ENDED,
    "test_a_snapshot_that_does_not_fit_is_not_used_and_replaced": _COUNTS_TURNS,
    "test_a_snapshot_of_another_history_is_noticed": _READS_WHAT_ENDED,
    "test_a_snapshot_of_a_former_release_is_not_believed": _READS_WHAT_ENDED,
    "test_many_boards_load_together_and_one_bad_snapshot_costs_only_its_own": _READS_WHAT_ENDED,
    "test_a_state_that_does_not_come_back_equal_is_never_kept": _READS_WHAT_ENDED,
    "test_snapshots_are_written_while_the_engine_runs": _COUNTS_TURNS,
    "test_snapshot_bytes_bounds_what_waits_to_be_written": _NEEDS_SPEED,
    "test_a_damaged_event_behind_a_snapshot_still_stops_the_load": _LOOKS_INSIDE,
    "test_an_unknown_event_stops_the_history_after_what_stands_before": _LOOKS_INSIDE,
    "test_an_event_whose_fold_fails_is_named": _LOOKS_INSIDE,
    "test_all_events_in_order_page_by_page": _COUNTS_TURNS,
    "test_who_follows_is_woken_by_the_bus_and_reads_nothing_while_it_waits": _COUNTS_TURNS,
    "test_the_longest_text_can_be_searched": _READS_WHAT_ENDED,
    "test_a_table_without_searched_fields_says_how_to_have_them": _READS_WHAT_ENDED,
    "test_an_answer_that_has_seen_two_states_is_asked_again": _IN_MEMORY,
    "test_an_answer_that_never_sees_one_state_is_given_all_the_same": _IN_MEMORY,
    "test_in_memory_writes_wait_for_an_answer_that_saw_two_states_twice": _IN_MEMORY,
    "test_in_memory_a_read_whose_answer_has_ended_holds_no_write_up": _IN_MEMORY,
    "test_in_memory_answers_beside_each_other_see_one_state_each": _IN_MEMORY,
    "test_in_memory_an_answer_has_as_long_as_one_state_may_be_read": _IN_MEMORY,
}
_ended: Final = ExitStack()
_servers: list[Server] = []
_made = 0
_views_too = False


def keep_views_there() -> None:
    """Keep the views of the tests in the server too, and not in memory."""
    global _views_too
    _views_too = True


def _url() -> str:
    global _made
    if not _servers:
        _servers.append(_ended.enter_context(postgres_server(wheel_programs())))
    _made += 1
    return _servers[0].url(_servers[0].new_schema(), "lease=3600")


class InPostgres(PostgresStore):
    """A store that is made as one in memory is."""

    def __init__(self) -> None:
        super().__init__(read_address(_url()))


_real_backend: Final = urls_module.open_backend


def _open_backend(store: Any, views: str | None = None) -> Any:
    if store == "memory:" or isinstance(store, InPostgres):
        made = store if isinstance(store, InPostgres) else InPostgres()
        return PostgresBackend(made, None if _views_too else views_in_memory)
    return _real_backend(store, views)


# Before any module of tests is imported, which take the names as they are then.
for module in (memory_module, urls_module):
    vars(module)["MemoryStore"] = InPostgres
vars(engine_module)["backends"] = lambda *given: partial(_open_backend, *given)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Leave out what cannot be so."""
    for item in items:
        why = _LEFT_OUT.get(item.name.partition("[")[0])
        if why is not None:
            item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that it was so."""
    terminalreporter.write_line(f"logs in PostgreSQL: {_made}")


def pytest_unconfigure() -> None:
    """End the server."""
    _ended.close()
