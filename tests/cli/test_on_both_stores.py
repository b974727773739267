"""The commands print the same for the same log, whether it is in SQLite or in PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.cli import golden
from tests.outside.copied import copy


def test_each_command_prints_the_same_of_a_log_in_either_store(
    tmp_path: Path, postgres_url: str
) -> None:
    in_a_file = f"sqlite:{tmp_path / 'log.db'}"
    asyncio.run(golden.fill(in_a_file))
    copy(in_a_file, postgres_url)
    asyncio.run(golden.fold(postgres_url))
    kept = golden.KEPT.read_text()

    assert golden.printed(in_a_file) == kept
    assert golden.printed(postgres_url) == kept
