"""Rules of retention in the console and among the tools of agents, and what the audit says then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from mcp import Client

from engine import Engine, Retention
from engine.errors import UsageError
from engine.integrations.console import Audit, Retained
from engine.integrations.mcp import McpTools
from engine.operations.beside import LogOperations
from engine.runtime.ports import Ports
from engine.stores.urls import open_backend
from tests.console.consoling import Note, Write, Written, console_of, notes
from tests.support.postgres import Server

RULES = [
    Retention(Note, [Written], archive_after=timedelta(0)),
    Retention(Note, [Written], erase_after=timedelta(0)),
]
PATH = "/api/v1/retention"


async def filled(engine: Engine) -> None:
    await engine.execute(Write("n-1", "one", "ann", "Ann Smith"))
    await engine.execute(Write("n-2", "two"))


def only(*actions: str) -> Callable[[str | None, str, str], bool]:
    def authorize(_principal: str | None, action: str, _target: str) -> bool:
        return action in actions

    return authorize


def bob(_scope: object) -> str:
    return "bob"


async def test_what_is_due_is_shown_done_and_kept_in_the_audit(tmp_path: Path) -> None:
    async with (
        notes(tmp_path) as engine,
        console_of(engine, rules=RULES, principal_of=bob) as asked,
    ):
        await filled(engine)
        info = (await asked.get("/api/v1/console")).json()
        looked = msgspec.json.decode((await asked.get(PATH)).content, type=list[Retained])
        assert (await engine.state(Note, "n-1")).signature == "Ann Smith"
        done = (await asked.post(PATH, json={})).json()
        audit = msgspec.json.decode((await asked.get("/api/v1/audit")).content, type=Audit)
        again = msgspec.json.decode((await asked.get(PATH)).content, type=list[Retained])

    assert info["has_rules"] is True
    assert "retain" in info["actions"]
    assert [(one.action, one.subject, one.events, one.done) for one in looked] == [
        ("erase", "ann", 0, False),
        ("archive", None, 1, False),
    ]
    assert done == {
        "state": "done",
        "text": "people erased: 1; events archived: 1; of streams: 1",
    }
    entries = {(one.action, one.target, one.principal) for one in audit.entries}
    assert entries >= {("archive", "note closed by written", None), ("erase", "ann", "bob")}
    assert audit.total == len(audit.entries)
    assert next(one.position for one in audit.entries if one.action == "archive") == 1
    assert [(one.action, one.events) for one in again] == [("archive", 0)]


async def test_to_look_and_to_run_are_actions_of_their_own(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        await filled(engine)
        async with console_of(engine, rules=RULES, authorize=only("look", "audit")) as asked:
            looked = (await asked.get(PATH)).status_code
            refused = (await asked.post(PATH, json={})).status_code
        async with console_of(engine, rules=RULES, authorize=only("look", "retain")) as asked:
            unseen = (await asked.get(PATH)).status_code
        async with console_of(engine) as asked:
            without = (await asked.get(PATH)).status_code, (await asked.post(PATH)).status_code
        audit = await engine.operations.audit()

    assert (looked, refused, unseen) == (200, 403, 403)
    assert without == (404, 404)
    assert audit.total == 0


async def test_an_agent_sees_what_is_due_and_does_none_of_it(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        await filled(engine)
        async with Client(McpTools(engine, rules=RULES).server) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            told = (await client.call_tool("retention", {})).structured_content
        async with Client(McpTools(engine).server) as client:
            without = [tool.name for tool in (await client.list_tools()).tools]
        assert (await engine.state(Note, "n-1")).signature == "Ann Smith"
        assert (await engine.operations.audit()).total == 0

    assert told is not None
    assert [one["action"] for one in told["items"]] == ["erase", "archive"]
    assert [name for name in names if name not in without] == ["retention"]


async def test_the_audit_beside_a_log_has_what_was_archived(tmp_path: Path) -> None:
    async with notes(tmp_path) as engine:
        await filled(engine)
        await engine.operations.retention(RULES[:1])
    backend = open_backend(f"sqlite:{tmp_path / 'notes.db'}")
    async with LogOperations(backend, Ports()) as operations:
        (entry,) = (await operations.audit()).entries
        with pytest.raises(UsageError, match="foldline retention"):
            await operations.retention(RULES)
    assert (entry.action, entry.reason.partition(";")[0]) == ("archive", "events: 1")


async def test_the_audit_of_a_log_in_postgresql_has_it_too(
    postgres: Server, tmp_path: Path
) -> None:
    url = postgres.url(postgres.new_schema())
    async with Engine([Note], store=url, keys=f"sqlite:{tmp_path / 'keys.db'}") as engine:
        await filled(engine)
        await engine.operations.retention(RULES[:1])
        (inside,) = (await engine.operations.audit()).entries
    async with LogOperations(open_backend(url), Ports()) as operations:
        (beside,) = (await operations.audit()).entries
    assert inside == beside
    assert inside.target == "note closed by written"
