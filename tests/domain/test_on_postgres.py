"""The shop on PostgreSQL: its main job, and kills in the middle of an import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.postgres import Server, asked

ROOT = Path(__file__).parents[2]
EXECUTED = 2_970
"""Commands that the rules accept, one event each."""
KILLED_AFTER = (1, 900, 400, 2_000)
"""Acknowledgements of each life; one gets no further than the life before it."""


def start(url: str, acks: str, *pass_fds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "domain", "--store", url, "--acks", acks],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )


def live(url: str, acknowledged: dict[str, int], kill_after: int) -> None:
    """Run one life until it is killed, and add what it acknowledged."""
    reading, writing = os.pipe()
    with start(url, f"/dev/fd/{writing}", writing) as process:
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as acks:
            for count, line in enumerate(acks, start=1):
                note(line, acknowledged)
                if count == kill_after:
                    process.kill()
        _, told = process.communicate()
    assert process.returncode == -9, f"it ended before it was killed: {told}"


def note(line: str, acknowledged: dict[str, int]) -> None:
    key, _, position = line.removesuffix("\n").partition("\t")
    first = acknowledged.setdefault(key, int(position))
    assert first == int(position), f"{key} was acknowledged at two positions"


def test_the_main_job_gives_the_same_report_twice(postgres_url: str, tmp_path: Path) -> None:
    for _ in range(2):
        with start(postgres_url, str(tmp_path / "acks")) as process:
            report, told = process.communicate()
        assert process.returncode == 0, told
        assert "540,161.30" in report


@pytest.mark.slow
async def test_an_import_that_is_killed_has_each_command_once(
    postgres: Server, tmp_path: Path
) -> None:
    schema = postgres.new_schema()
    url = postgres.url(schema, "lease=1")
    acknowledged: dict[str, int] = {}
    for kill_after in KILLED_AFTER:
        live(url, acknowledged, kill_after)
    with start(url, str(tmp_path / "acks")) as process:
        report, told = process.communicate()
    assert process.returncode == 0, told
    for line in (tmp_path / "acks").read_text().splitlines():
        note(line, acknowledged)
    rows = await asked(postgres, f"SELECT metadata->>'key', position FROM {schema}.log")

    assert "540,161.30" in report
    assert sorted(position for _, position in rows) == list(range(1, EXECUTED + 1))
    assert dict(rows) == acknowledged
