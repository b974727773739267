"""Somebody with an SQLite shell: what decisions look into beside events is kept from a slip too.

No event shows by its checksum that a row of the index of tags is gone, or a claim: a rule that
should have held would be broken in silence.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine import (
    After,
    Aggregate,
    Claim,
    Command,
    Decision,
    Engine,
    Event,
    Id,
    Rejected,
    applies,
    handles,
)
from engine.runtime.ports import Ports
from engine.testing.scenario import ManualClock
from tests.support.postgres import Server
from tests.support.waiting import until
from tests.write.courses import DECISIONS, KINDS, Course, Enrol, Offer, school

SECONDS = 20
SHELL = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    "for statement in sys.argv[2:]: c.execute(statement)"
)


class Register(Command):
    user: Id
    email: str


class Remind(Command):
    user: Id


class Registered(Event, name="registered"):
    email: str


class User(Aggregate, kind="user"):
    email: str = ""

    @handles
    def register(self, command: Register) -> Decision[Registered]:
        later = After(Remind(self.id), seconds=1)
        return Decision(
            Registered(command.email), claims=[Claim("email", command.email)], timers=[later]
        )

    @handles
    def remind(self, command: Remind) -> None:
        return None

    @applies
    def registered(self, event: Registered) -> None:
        self.email = event.email


def shell(path: Path, *statements: str) -> str:
    """Run statements in another process; give what it printed of an error."""
    ran = subprocess.run(
        [sys.executable, "-c", SHELL, str(path), *statements],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return ran.stderr


@pytest.mark.parametrize(
    "slip",
    ["DELETE FROM tags", "UPDATE tags SET tag = 'course:other'"],
    ids=["deleted", "changed"],
)
async def test_no_slip_takes_an_event_from_a_rule(tmp_path: Path, slip: str) -> None:
    path = tmp_path / "log.db"
    async with school(store=f"sqlite:{path}") as engine:
        await engine.execute(Offer("c", 1))
        assert "delete from tag_forms" in shell(path, slip)
        await engine.execute(Enrol("c", "ann"))
    assert "delete from tag_forms" in shell(path, slip)

    async with school(store=f"sqlite:{path}") as engine:
        with pytest.raises(Rejected, match="full"):
            await engine.execute(Enrol("c", "bob"))


async def test_who_means_it_has_the_index_made_again(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    async with school(store=f"sqlite:{path}") as engine:
        await engine.execute(Offer("c", 1))
        await engine.execute(Enrol("c", "ann"))
    assert shell(path, "DROP TRIGGER tags_never_go", "DELETE FROM tags") == ""
    assert shell(path, "DELETE FROM tag_forms") == ""

    async with school(store=f"sqlite:{path}") as engine:
        assert (await engine.state(Course, "c")).taken == 1
        with pytest.raises(Rejected, match="full"):
            await engine.execute(Enrol("c", "bob"))
    assert "delete from tag_forms" in shell(path, "DELETE FROM tags"), "it is put back"


@pytest.mark.parametrize(
    "slip",
    ["DELETE FROM claims", "UPDATE claims SET value = 'b@home.org'"],
    ids=["deleted", "changed"],
)
async def test_no_slip_gives_a_value_to_two(tmp_path: Path, slip: str) -> None:
    path = tmp_path / "log.db"
    async with Engine([User], store=f"sqlite:{path}") as engine:
        await engine.execute(Register("ann", "a@home.org"))
        assert "send" in shell(path, slip)
        with pytest.raises(Rejected):
            await engine.execute(Register("bob", "a@home.org"))


@pytest.mark.parametrize(
    ("slip", "told"),
    [
        ("DELETE FROM timers", "a timer is cancelled"),
        ("UPDATE timers SET due = due * 2, next = next * 2", "set again"),
    ],
    ids=["deleted", "changed"],
)
async def test_no_slip_takes_a_timer_away_or_puts_it_off(
    tmp_path: Path, slip: str, told: str
) -> None:
    path, clock = tmp_path / "log.db", ManualClock()
    ports = Ports(clock=clock)
    async with Engine([User], store=f"sqlite:{path}", ports=ports) as engine:
        await engine.execute(Register("ann", "a@home.org"))
        assert told in shell(path, slip)
    assert told in shell(path, slip)

    async with Engine([User], store=f"sqlite:{path}", ports=ports) as engine:
        clock.advance(2)
        await until(lambda: engine.statistics().timers.fired == 1)


async def test_a_text_of_a_timer_that_was_damaged_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.db"
    async with Engine([User], store=f"sqlite:{path}") as engine:
        await engine.execute(Register("ann", "a@home.org"))
    unguarded = "DROP TRIGGER timers_never_change"
    assert shell(path, unguarded, "UPDATE timers SET stream = CAST(x'ff' AS TEXT)") == ""

    async with Engine([User], store=f"sqlite:{path}") as engine:
        await until(lambda: "a text in it is no UTF-8. Run `foldline verify" in caplog.text)
        assert (await engine.state(User, "ann")).email == "a@home.org"


@pytest.mark.parametrize("table", ["claims", "timers", "tags"])
@pytest.mark.parametrize("slip", ["DELETE FROM", "TRUNCATE", "UPDATE"])
async def test_no_slip_of_an_administrator_takes_a_row_in_postgresql(
    postgres: Server, table: str, slip: str
) -> None:
    schema, clock = postgres.new_schema(), ManualClock()
    store, ports = postgres.url(schema, "lease=1"), Ports(clock=clock)
    change = " SET position = position + 1" if slip == "UPDATE" else ""
    kept = f"rows of {table} are changed by functions"
    async with Engine([User, *KINDS], decisions=DECISIONS, store=store, ports=ports) as e:
        await e.execute(Register("ann", "a@home.org"))
        await e.execute(Offer("c", 1))
        await e.execute(Enrol("c", "ann"))
        with pytest.raises(AssertionError, match=kept):
            postgres.sql(f"{slip} {schema}.{table}{change}")

        with pytest.raises(Rejected, match="taken"):
            await e.execute(Register("bob", "a@home.org"))
        with pytest.raises(Rejected, match="full"):
            await e.execute(Enrol("c", "bob"))
        clock.advance(2)
        await until(lambda: e.statistics().timers.fired == 1)
