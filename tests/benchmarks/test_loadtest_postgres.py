"""The load test on PostgreSQL: killed, and read from outside by the server's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.loadtest.left import Schema, Unreadable
from engine import Engine, Projection, Query, Row, Table, Views, answers, projects
from tests.support.counters import Add, Added, Counter
from tests.support.postgres import Server

ROOT = Path(__file__).parents[2]


class Amount(Row, key="id"):
    id: str
    weight: float
    cover: bytes
    note: str | None


class Amounts(Projection, name="amounts", version=1):
    rows: Table[Amount]

    @projects
    def added(self, event: Added) -> None:
        text = 'say "yes"\\\n' + "\u20ac" * 3_000
        self.rows.put(Amount(text, event.amount / 3, b"\0\xff", None))


class HowMany(Query[int]):
    """Asks for the number of rows."""


@answers
async def how_many(_: HowMany, views: Views) -> int:
    return await views.count(Amounts.rows)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.loadtest", "--folder", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_run_with_kills_holds_what_was_promised(tmp_path: Path) -> None:
    words = ("--rate", "200", "--duration", "2", "--kill-every", "1.5", "--store", "postgresql")
    done = run(tmp_path, *words, "--keep")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is wrong" in done.stdout
    report = json.loads((tmp_path / "loadtest.json").read_text())
    assert sum(report["answers"].values()) == 400
    assert len(report["kills"]) >= 1
    (kept,) = tmp_path.glob("loadtest-*/")
    assert "CREATE TABLE shop_views.checkpoints" in (kept / "dump.sql").read_text()
    again = run(tmp_path, "--verify", str(kept))
    assert (again.returncode, "server is gone" in again.stderr) == (2, True)


async def test_what_an_engine_left_is_read_by_the_servers_own_client(postgres: Server) -> None:
    schema = postgres.new_schema()
    store = postgres.url(schema)
    made = Engine([Counter], projections=[Amounts], answers=[how_many], store=store)
    async with made as engine:
        await engine.execute(Add("a", 1), key="first")
        receipt = await engine.execute(Add("a", 2))
        assert await engine.query(HowMany(), at=receipt) == 1
    left = Schema(postgres, schema, views=True)

    first, second = left.log()
    assert (first.position, first.stream, first.version, first.event) == (
        1,
        "counter:a",
        1,
        "added",
    )
    assert (first.key, second.key) == ("first", None)
    assert json.loads(second.payload)["amount"] == 2
    assert left.checkpoints() == {"amounts": 2}
    shape = Amounts.rows.definition.shape
    (row,) = left.rows(Amounts.rows.definition.name, shape.columns)
    assert row == ('say "yes"\\\n' + "\u20ac" * 3_000, 2 / 3, b"\0\xff", None)

    with pytest.raises(Unreadable, match="does not exist"):
        list(Schema(postgres, "nowhere", views=False).log())
