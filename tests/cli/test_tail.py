"""`python -m engine tail`: a log seen from another process, whatever its engine does."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from engine import Engine, StoreRefused
from engine.cli.layout import TableLines
from engine.cli.output import Output
from engine.cli.tail import CHECKS_EVERY, _Tail
from engine.log.selection import Selection
from engine.model.stored import checksum_of
from engine.runtime.ports import Ports
from engine.stores.sqlite.outside.log import SqliteLogReader
from tests.cli.looking import SECOND, START_US, counters_in, fill, outside, positions, shown
from tests.support import warm
from tests.support.counters import Add, Empty

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "log.db"
    asyncio.run(fill(made, 12))
    return made


@contextmanager
def child(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    with warm.Warm(
        [sys.executable, "-m", "engine", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: subprocess.Popen[str], count: int) -> list[int]:
    """Wait for so many JSON lines; give their positions."""
    return positions("".join(_out(process).readline() for _ in range(count)))


def _out(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=20)
    return process.returncode, err


async def add(engine: Engine, *numbers: int) -> None:
    for number in numbers:
        await engine.execute(Add("c-9", number))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_tail_follows_a_running_engine_until_it_is_told_to_stop(
    path: Path, number: signal.Signals
) -> None:
    async with counters_in(path) as engine:
        with child("tail", path, "--json", "--last", "2") as tail:
            assert read(tail, 2) == [11, 12]
            await add(engine, 1, 2)
            assert read(tail, 2) == [13, 14]
            await add(engine, *range(50))
            assert read(tail, 50) == [*range(15, 65)]
            tail.send_signal(number)

            assert ended(tail) == (0, "")


async def test_log_reads_beside_a_running_engine(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with counters_in(path) as engine:
        await add(engine, 1)
        with child("log", path, "--json", "--after", "11") as log:
            assert read(log, 2) == [12, 13]
            assert ended(log) == (0, "")


async def test_tail_does_not_mind_that_the_engine_ends_and_starts_again(path: Path) -> None:
    with child("tail", path, "--json", "--after", "12") as tail:
        for number in range(3):
            async with counters_in(path) as engine:
                await add(engine, number)
                assert read(tail, 1) == [13 + number]
        tail.terminate()
        assert ended(tail) == (0, "")


KILLED = """
import asyncio, os, signal, sys
from engine import Engine
from tests.support.counters import Add, Counter

async def main():
    async with Engine([Counter], store="sqlite:" + sys.argv[1]) as engine:
        for number in range(20):
            await engine.execute(Add("c-9", number))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_tail_shows_all_that_a_killed_engine_had_acknowledged_and_goes_on(path: Path) -> None:
    with child("tail", path, "--json", "--after", "12") as tail:
        died = warm.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
        assert died.returncode == -signal.SIGKILL
        assert read(tail, 20) == [*range(13, 33)]
        async with counters_in(path) as engine:
            await add(engine, 1)
            assert read(tail, 1) == [33]


async def test_tail_shows_only_what_is_selected(path: Path) -> None:
    async with counters_in(path) as engine:
        with (
            child("tail", path, "--json", "--stream", "counter:c-9") as stream,
            child("tail", path, "--json", "--name", "emptied", "--last", "1") as names,
            child("tail", path, "--json", "--since", "2026-01-31T08:05:10Z") as since,
        ):
            assert read(since, 2) == [11, 12]
            assert read(names, 1) == [12]
            await add(engine, 1)
            await engine.execute(Empty("c-9"))

            assert read(stream, 2) == [13, 14]
            assert read(names, 1) == [14]
            assert read(since, 2) == [13, 14]


async def test_tail_ends_when_whoever_reads_it_has_gone(path: Path) -> None:
    with child("tail", path) as tail:
        _out(tail).readline()
        _out(tail).close()
        assert tail.stderr is not None

        assert (tail.wait(20), tail.stderr.read()) == (0, "")


async def test_log_ends_quietly_when_whoever_reads_it_has_gone(path: Path) -> None:
    async with counters_in(path) as engine:
        await engine.execute(Add("c-9", 1, 3_000))
    with child("log", path, "--json", "--limit", "9999") as log:
        _out(log).readline()
        _out(log).close()
        assert log.stderr is not None

        assert (log.wait(20), log.stderr.read()) == (0, "")


async def test_a_damaged_event_ends_tail_with_its_position(path: Path) -> None:
    async with counters_in(path) as engine:
        with child("tail", path, "--json", "--after", "12") as tail:
            await add(engine, 1)
            assert read(tail, 1) == [13]
            outside(
                path,
                "INSERT INTO events SELECT 14, stream, 2, type, recorded, encoding, payload, "
                "metadata, checksum FROM events WHERE position = 13",
            )
            status, err = ended(tail)

    assert status == 1
    assert err.startswith("error: the event at position 14 cannot be used: ")


@pytest.mark.parametrize("how", ["another", "older", "gone"])
async def test_tail_does_not_mix_two_logs(path: Path, tmp_path: Path, how: str) -> None:
    other = tmp_path / "other.db"
    if how == "another":
        await fill(other, 20)
    else:
        other.write_bytes(path.read_bytes())
        async with counters_in(path) as engine:
            await add(engine, 1)
    with child("tail", path, "--json", "--last", "1") as tail:
        read(tail, 1)
        if how == "gone":
            path.unlink()
        else:
            other.replace(path)
        status, err = ended(tail)

    assert status == 1
    assert re.fullmatch(
        "error: (.* is another log now|there is no log |.* is not the file any more ).*\n", err
    )


class Exchanged:
    """A store that gives its first reader one log, and all others another: files tell by then."""

    name = "the store"

    def __init__(self, *paths: Path) -> None:
        self._paths = list(paths)

    def outside(self, ports: Ports) -> Any:
        return self

    def log_reader(self) -> SqliteLogReader:
        return SqliteLogReader(str(self._paths.pop(0)))


@pytest.mark.parametrize("how", ["another", "older"])
async def test_tail_ends_if_the_store_has_another_log_or_an_older_copy(
    path: Path, tmp_path: Path, how: str
) -> None:
    other = tmp_path / "other.db"
    if how == "another":
        await fill(other, 20)
    else:
        other.write_bytes(path.read_bytes())
        async with counters_in(path) as engine:
            await add(engine, 1)
    store: Any = Exchanged(path, other)
    tail = _Tail(store, Selection(), TableLines(payload=False), Output(utf8=False))
    tail.begin(None, 1)
    with closing(tail), pytest.raises(StoreRefused, match="the store is another log now"):
        for _ in range(CHECKS_EVERY):
            tail.follow()


async def test_a_payloads_numbers_are_shown_as_they_are_stored(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = b'{"amount": 1.50,\n "large": 123456789012345678901234567890}'
    recorded = START_US + 99 * SECOND
    checksum = checksum_of("counter:c-0", 5, "added", 1, recorded, 0, payload, b"")
    outside(
        path,
        f"INSERT INTO events VALUES (13, 1, 5, 1, {recorded}, 0, x'{payload.hex()}', x'', "
        f"{checksum})",
    )
    for form in ([], ["--json"]):
        out = shown(capsys, "log", path, "--payload", "--after", "12", *form)[1]
        assert '{"amount":1.50,"large":123456789012345678901234567890}' in out


def test_the_heading_comes_once(path: Path) -> None:
    table = TableLines(payload=False)
    with SqliteLogReader(str(path)) as reader:
        rows: Sequence[Any] = reader.read_feed(0, events_max=3, bytes_max=1 << 20)
        first = [len(list(table.lines(row))) for row in rows]

    assert first == [2, 1, 1]
