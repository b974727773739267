"""The smoke tests: `python -m pytest -m smoke`, some 500 tests of each room in under 30 seconds.

Rules: a file stands here if its tests are fast and would fail first if its room were broken. With
`-m smoke` no other file is imported.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FILES"]

FILES: Final = frozenset(
    {
        "domain/test_orders.py",
        "domain/test_returns.py",
        "host/test_lifecycle.py",
        "integrations/test_asgi.py",
        "kit/test_scenario.py",
        "log/test_history.py",
        "model/test_aggregate.py",
        "model/test_upcasting.py",
        "outside/test_onlooker.py",
        "projections/test_slices.py",
        "projections/test_staging.py",
        "queries/test_answers.py",
        "queries/test_live.py",
        "stores/test_sqlite.py",
        "write/test_command_keys.py",
        "write/test_pipelining.py",
    }
)
"""By their place below `tests/`."""
