"""The old log of the page about migration is what the library `eventsourcing` writes."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "howto" / "migrate-from-eventsourcing.md").read_text()
PROGRAM = """
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

{account}

bank = Application(env={{"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": "real.db"}})
ann, bob = Account("Ann"), Account("Bob")
bank.save(ann)
bank.save(bob)
for account, cents in ((ann, 500), (bob, 70), (ann, 250)):
    account.deposit(cents)
    bank.save(account)
"""


def written(path: Path) -> list[tuple[Any, ...]]:
    """Give what stands in a log, with other ids and times."""
    with closing(sqlite3.connect(path)) as connection:
        (made,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table'"
        ).fetchone()
        found: list[tuple[Any, ...]] = [("table", made)]
        ids: dict[str, int] = {}
        columns = "originator_id, originator_version, topic, state"
        stored = connection.execute(f"SELECT {columns} FROM stored_events ORDER BY rowid")
        for originator, version, topic, state in stored:
            fields = json.loads(state)
            fields["timestamp"]["_data_"] = len(fields["timestamp"].pop("_data_"))
            fields.pop("originator_topic", None)
            number = ids.setdefault(originator, len(ids))
            found.append((number, version, topic.partition(":")[2], fields, type(state)))
    return found


def test_the_given_log_is_what_the_library_writes(tmp_path: Path) -> None:
    pytest.importorskip("eventsourcing", reason="it comes with the extra `bench`")
    (account,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "bank_old.py").write_text(PROGRAM.format(account=account))
    subprocess.run([sys.executable, "bank_old.py"], cwd=tmp_path, check=True)
    given = (HERE / "given" / "migrate-from-eventsourcing.sql").read_text()
    with closing(sqlite3.connect(tmp_path / "given.db")) as connection:
        connection.executescript(given)

    assert written(tmp_path / "real.db") == written(tmp_path / "given.db")
