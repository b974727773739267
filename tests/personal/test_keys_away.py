"""An engine whose keys in a server cannot be had: what waits, and what callers are told."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from engine import Engine, Ports, StoreFailed, Voided
from engine.personal import vault
from engine.runtime.ports import Clock
from engine.stores.postgres.keys import STALE_SECONDS
from tests.support.breaking_lines import Line, line_to
from tests.support.postgres import Server, asked
from tests.support.waiting import until

from .hotel import NAME, OTHER, Guest, Note, Register, hotel


class Ahead(msgspec.Struct):
    """A clock that a test moves on."""

    by: float = 0.0
    real: Clock = msgspec.field(default_factory=lambda: Ports().clock)

    def now(self) -> int:
        return self.real.now()

    def monotonic(self) -> float:
        return self.real.monotonic() + self.by


@asynccontextmanager
async def kept_behind(
    line: Line, postgres: Server, schema: str, folder: Path, clock: Clock, patience: float = 0.1
) -> AsyncGenerator[Engine]:
    """Give an engine whose keys are behind a line."""
    keys = postgres.url(schema, f"patience={patience}", port=line.port)
    ports = Ports(clock=clock)
    async with hotel(f"sqlite:{folder}/hotel.db", keys=keys, ports=ports) as engine:
        yield engine


async def test_commands_about_people_are_to_be_sent_again_while_the_keys_are_away(
    postgres: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, schema = Ahead(), postgres.new_schema()
    async with line_to(postgres.port) as line:
        async with kept_behind(line, postgres, schema, tmp_path, clock) as engine:
            await engine.execute(Register("g-1", NAME))
        async with kept_behind(line, postgres, schema, tmp_path, clock) as engine:
            there, line.server_port = line.server_port, 1
            line.cut()
            clock.by = STALE_SECONDS + 1
            with pytest.raises(Voided, match=r"guest:g-2: .*nothing is decrypted .* send again"):
                await engine.execute(Register("g-2", OTHER))  # which is to be encrypted
            with pytest.raises(Voided, match=r"guest:g-1: .*nothing is decrypted .* send again"):
                await engine.execute(Note("g-1", "late"))  # whose aggregate is to be decrypted
            line.server_port = there
            await until(lambda: _can_be_had(engine))
            await engine.execute(Register("g-2", OTHER))
            await engine.execute(Note("g-1", "late"))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_nobody_is_told_of_an_erasure_that_was_never_begun(
    postgres: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Ahead()
    async with line_to(postgres.port) as line:
        schema = postgres.new_schema()
        async with kept_behind(line, postgres, schema, tmp_path, clock) as engine:
            await engine.execute(Register("g-1", NAME))
            there, line.server_port = line.server_port, 1
            line.cut()
            clock.by = STALE_SECONDS + 1
            await until(lambda: "the keys of personal data" in caplog.text)
            line.server_port = there
            await until(lambda: _can_be_had(engine))
    assert "erasure" not in caplog.text


async def test_only_what_has_a_new_person_waits_for_keys_that_cannot_be_kept(
    postgres: Server, tmp_path: Path
) -> None:
    clock, schema = Ahead(), postgres.new_schema()
    async with line_to(postgres.port) as line:
        async with kept_behind(line, postgres, schema, tmp_path, clock) as engine:
            await engine.execute(Register("g-1", NAME))
            there, line.server_port = line.server_port, 1
            line.cut()
            for _ in range(2):
                with pytest.raises(Voided, match="keys of personal data cannot be written"):
                    await engine.execute(Register("g-2", OTHER))
                await engine.execute(Note("g-1", "taken"))
            line.server_port = there
            await engine.execute(Register("g-2", OTHER))
        async with kept_behind(line, postgres, schema, tmp_path, clock) as engine:
            assert (await engine.state(Guest, "g-1")).notes == 2
            assert (await engine.state(Guest, "g-2")).name == OTHER


async def test_what_comes_first_before_a_new_person_is_run_though_no_key_can_be_kept(
    postgres: Server, tmp_path: Path
) -> None:
    """The person's command is decided while this one is on its way to the store."""
    async with line_to(postgres.port) as line:
        known = postgres, postgres.new_schema(), tmp_path, Ahead()
        async with kept_behind(line, *known) as engine:
            await engine.execute(Register("g-1", NAME))
            line.server_port = 1
            line.cut()
            _vault(engine).seal("guest:g-2", OTHER.encode(), b"")
            await engine.execute(Note("g-1", "taken"))
            with pytest.raises(Voided, match="keys of personal data cannot be written"):
                await engine.execute(Register("g-2", OTHER))


async def test_nobody_waits_long_behind_a_new_person_whose_key_is_kept_when_it_can_be(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = postgres, postgres.new_schema(), tmp_path, Ahead()
    async with line_to(postgres.port) as line:
        async with kept_behind(line, *known, patience=10) as engine:
            await engine.execute(Register("g-1", NAME))
            there, line.server_port = line.server_port, 1
            line.cut()
            monkeypatch.setattr(vault, "_KEEP_SECONDS", 0.2)
            for guest in ("g-2", "g-3"):
                with pytest.raises(Voided, match=r"could not be kept for 0\.2 s.*send again"):
                    await engine.execute(Register(guest, OTHER))
                await engine.execute(Note("g-1", "taken"))
            line.server_port = there
            monkeypatch.undo()
            # It was given up by who waited, and goes on.
            await until(lambda: _vault(engine).store.current("guest:g-2"))
            await engine.execute(Register("g-2", OTHER))
        async with kept_behind(line, *known) as engine:
            assert (await engine.state(Guest, "g-1")).notes == 2
            assert (await engine.state(Guest, "g-2")).name == OTHER


async def test_a_server_that_refuses_the_user_ends_no_engine(
    postgres: Server, tmp_path: Path
) -> None:
    schema, role = postgres.new_schema(), "moved_away"
    await asked(postgres, f"CREATE ROLE {role} LOGIN")
    await asked(postgres, f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
    keys = postgres.url(schema).replace("postgres@", f"{role}@")
    async with hotel(f"sqlite:{tmp_path}/hotel.db", keys=keys) as engine:
        await engine.execute(Register("g-1", NAME))
        await asked(postgres, f"ALTER ROLE {role} NOLOGIN")
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"
        while await asked(postgres, query, role):
            pass  # until none is left that was asked to end
        with pytest.raises(Voided, match="does not take this user"):
            await engine.execute(Register("g-2", OTHER))
        await engine.execute(Note("g-1", "taken"))
        await asked(postgres, f"ALTER ROLE {role} LOGIN")
        await engine.execute(Register("g-2", OTHER))


def _can_be_had(engine: Engine) -> bool:
    try:
        _vault(engine).store.change_count()
    except StoreFailed:
        return False
    return True


def _vault(engine: Engine) -> vault.Vault:
    found = engine._wiring.vault  # pyright: ignore[reportPrivateUsage]
    assert found is not None, "its events have personal fields"
    return found
