"""A plugin of pytest's: as `on_postgres`, with the views in PostgreSQL as well.

python -m pytest -p tests.support.views_on_postgres tests/queries
"""

from __future__ import annotations

from tests.support import on_postgres
from tests.support.on_postgres import (
    pytest_collection_modifyitems,
    pytest_terminal_summary,
    pytest_unconfigure,
)

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary", "pytest_unconfigure"]

on_postgres.keep_views_there()
