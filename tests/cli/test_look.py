"""`python -m engine log` and `tail`: a log seen from another process, whatever its engine does."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import apsw
import msgspec
import pytest

from engine import Engine, Ports
from engine.__main__ import main
from engine.cli.layout import TableLines
from engine.cli.search import Search, Selection
from engine.model.stored import checksum_of
from engine.stores.sqlite.outside.log import SqliteReader
from engine.testing.scenario import ManualClock
from tests.support.counters import Add, Counter, Empty

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 31, 8, 5, tzinfo=UTC)
SECOND = 1_000_000


def counters_in(path: Path, clock: ManualClock | None = None) -> Engine:
    return Engine([Counter], store=f"sqlite:{path}", ports=Ports(clock=clock or ManualClock(START)))


async def fill(path: Path, events: int) -> None:
    """Write a log of three streams, two event types, some keys, a second between the events."""
    clock = ManualClock(START)
    async with counters_in(path, clock) as engine:
        for number in range(events):
            stream = f"c-{number % 3}"
            await engine.execute(
                Empty(stream) if number % 4 == 3 else Add(stream, 1_000 + number),
                key=f"k-{number}" if number % 2 else None,
                correlation=f"part-{number % 5}" if number % 5 else None,
                principal="ann" if number % 3 else None,
            )
            clock.advance(1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "log.db"
    asyncio.run(fill(made, 12))
    return made


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


def outside(path: Path, *statements: str) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()


# -- log: forms -----------------------------------------------------------------------------


def test_a_table_for_people(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = shown(capsys, "log", path, "--limit", "4")

    assert status == 0
    assert out == (
        "POSITION  RECORDED                     STREAM       VERSION  EVENT     KEY  PRINCIPAL"
        "  CORRELATION\n"
        "       1  2026-01-31T08:05:00.000000Z  counter:c-0        1  added v1\n"
        "       2  2026-01-31T08:05:01.000000Z  counter:c-1        1  added v1  k-1  ann      "
        "  part-1\n"
        "       3  2026-01-31T08:05:02.000000Z  counter:c-2        1  added v1       ann      "
        "  part-2\n"
        "       4  2026-01-31T08:05:03.000000Z  counter:c-0        2  emptied v1  k-3           "
        "  part-3\n"
    )
    assert err == "more after position 4: --after 4\n"


def test_json_lines_for_programs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = shown(capsys, "log", path, "--json", "--after", "1", "--limit", "1")

    assert status == 0
    assert out.endswith("\n")
    assert msgspec.json.decode(out) == {
        "position": 2,
        "recorded": "2026-01-31T08:05:01.000000Z",
        "stream": "counter:c-1",
        "version": 1,
        "event": "added",
        "event_version": 1,
        "key": "k-1",
        "correlation": "part-1",
        "causation": None,
        "principal": "ann",
    }
    assert err == "more after position 2: --after 2\n"


def test_payloads_are_shown_only_when_asked_for(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ([], ["--json"]):
        assert "1001" not in shown(capsys, "log", path, *form)[1]
    table = shown(capsys, "log", path, "--payload", "--after", "1", "--limit", "1")[1]
    lines = shown(capsys, "log", path, "--payload", "--json", "--after", "1", "--limit", "1")[1]

    assert table.endswith('\n    {"amount":1001,"tags":{}}\n')
    found = msgspec.json.decode(lines)
    assert (found["payload"], found["headers"], found["encoding"]) == (
        {"amount": 1001, "tags": {}},
        None,
        0,
    )


async def test_what_could_move_a_terminals_cursor_is_an_escape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.db"
    nasty = "\x1b[2J\x9b\u202e\nk"
    async with counters_in(path) as engine:
        await engine.execute(
            Add("ä", 1, tags={nasty: [1]}), key=nasty, principal="é", headers={"h": nasty}
        )
    for form in ([], ["--json"]):
        out = shown(capsys, "log", path, "--payload", *form)[1]
        assert out.replace("\n", "").isprintable()
        assert "counter:ä" in out
    found = msgspec.json.decode(shown(capsys, "log", path, "--payload", "--json")[1])

    assert found["key"] == nasty
    assert found["headers"] == {"h": nasty}
    assert found["payload"]["tags"] == {nasty: [1]}


async def test_a_payload_in_another_encoding_is_hexadecimal(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checksum = checksum_of("counter:c-0", 5, "added", 1, START_US + 99 * SECOND, 7, b"\xff\n", b"")
    outside(
        path,
        f"INSERT INTO events VALUES (13, 1, 5, 1, {START_US + 99 * SECOND}, 7, x'ff0a', x'', "
        f"{checksum})",
    )
    out = shown(capsys, "log", path, "--payload", "--json", "--after", "12")[1]

    assert msgspec.json.decode(out)["payload"] == "ff0a"
    assert msgspec.json.decode(out)["encoding"] == 7


START_US = round(START.timestamp() * SECOND)

# -- log: what is shown ---------------------------------------------------------------------

SELECTIONS: list[tuple[list[str], Selection]] = [
    ([], Selection()),
    (["--stream", "counter:c-1"], Selection(stream="counter:c-1")),
    (["--stream", "counter:none"], Selection(stream="counter:none")),
    (["--name", "emptied"], Selection(names=("emptied",))),
    (["--name", "emptied", "--name", "added"], Selection(names=("emptied", "added"))),
    (["--key", "k-7"], Selection(key="k-7")),
    (["--correlation", "part-2"], Selection(correlation="part-2")),
    (["--since", "2026-01-31T08:05:04"], Selection(since=START_US + 4 * SECOND)),
    (["--since", "2026-01-31T09:05:04+01:00"], Selection(since=START_US + 4 * SECOND)),
    (["--since", "2026-01-31T08:05:04.000001Z"], Selection(since=START_US + 4 * SECOND + 1)),
    (["--until", "2026-01-31T08:05:04Z"], Selection(until=START_US + 4 * SECOND)),
    (["--until", "2026-01-31"], Selection(until=START_US - (8 * 60 + 5) * 60 * SECOND)),
    (["--since", "2027-01-01"], Selection(since=START_US * 2)),
    (
        ["--stream", "counter:c-0", "--since", "2026-01-31T08:05:03", "--until", "2026-02-01"],
        Selection(stream="counter:c-0", since=START_US + 3 * SECOND, until=START_US * 2),
    ),
    (
        ["--stream", "counter:c-0", "--name", "added", "--correlation", "part-4"],
        Selection(stream="counter:c-0", names=("added",), correlation="part-4"),
    ),
]


def naive(path: Path, selection: Selection, after: int = 0) -> list[int]:
    """Look at every event of the log."""
    with SqliteReader(str(path)) as reader:
        events = reader.read_feed(0, events_max=99_999, bytes_max=1 << 40)
    return [
        e.position
        for e in events
        if e.position > after
        and (selection.stream is None or e.stream == selection.stream)
        and (selection.since is None or e.recorded >= selection.since)
        and (selection.until is None or e.recorded <= selection.until)
        and selection.takes(e)
    ]


@pytest.mark.parametrize(("arguments", "selection"), SELECTIONS, ids=range(len(SELECTIONS)))
def test_filters_show_what_a_look_at_every_event_finds(
    path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], selection: Selection
) -> None:
    for after in (0, 3, 12, 99):
        status, out, _ = shown(capsys, "log", path, "--json", "--after", str(after), *arguments)
        assert status == 0
        assert positions(out) == naive(path, selection, after)
    for limit in (1, 2, 50):
        out = shown(capsys, "log", path, "--json", "--last", "--limit", str(limit), *arguments)[1]
        assert positions(out) == naive(path, selection)[-limit:]


def positions(out: str) -> list[int]:
    return [msgspec.json.decode(line)["position"] for line in out.splitlines()]


def test_paging_on_shows_everything_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    after = "0"
    while after:
        _, out, err = shown(
            capsys, "log", path, "--json", "--limit", "2", "--after", after, "--name", "added"
        )
        seen += positions(out)
        after = "".join(re.findall(r"--after (\d+)", err))

    assert seen == naive(path, Selection(names=("added",)))


@pytest.mark.parametrize("selection", [s for _, s in SELECTIONS], ids=range(len(SELECTIONS)))
def test_a_search_over_many_pages_finds_the_same(
    path: Path, selection: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.cli.search.PAGE_EVENTS", 2)
    expected = naive(path, selection)
    with SqliteReader(str(path)) as reader:
        for after in range(14):
            search = Search(reader, selection)
            search.begin(after)
            assert [e.position for e in search.forward()] == [p for p in expected if p > after]
        for count in range(1, 14):
            search = Search(reader, selection)
            assert [e.position for e in search.last(count)] == expected[-count:]
            assert list(search.forward()) == []


def test_what_nothing_matches_says_so(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "log", path, "--key", "none") == (0, "", "no event matches\n")


# -- log: what cannot be --------------------------------------------------------------------


def damage(path: Path, position: int) -> None:
    outside(
        path,
        "DROP TRIGGER events_never_change",
        f"UPDATE events SET metadata = x'7b7d' WHERE position = {position}",
    )


@pytest.mark.parametrize("arguments", [[], ["--key", "k-11"], ["--name", "none"]])
def test_a_damaged_event_ends_it_even_where_another_is_looked_for(
    path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    damage(path, 7)
    status, out, err = shown(capsys, "log", path, "--json", *arguments)

    assert status == 1
    assert positions(out) == ([*range(1, 7)] if not arguments else [])
    assert re.fullmatch("error: the event at position 7 cannot be used: .*checksum.*\n", err)


def test_what_need_not_pass_the_damage_is_shown(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(path, 7)

    assert positions(shown(capsys, "log", path, "--json", "--last", "--limit", "5")[1]) == [
        *range(8, 13)
    ]
    assert positions(shown(capsys, "log", path, "--json", "--after", "7")[1]) == [*range(8, 13)]
    status, out, _ = shown(capsys, "log", path, "--json", "--stream", "counter:c-1")
    assert (status, positions(out)) == (0, [2, 5, 8, 11])
    status, out, err = shown(capsys, "log", path, "--json", "--limit", "6")
    assert (status, positions(out)) == (0, [*range(1, 7)])
    assert err == "more after position 6: --after 6\n"
    assert shown(capsys, "log", path, "--after", "6")[0] == 1


def test_a_file_that_is_no_log_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("log", "tail"):
        status, out, err = shown(capsys, command, tmp_path / "none.db")
        assert (status, out) == (1, "")
        assert re.fullmatch("error: there is no log .*none.db: no such file\n", err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["log"],
        ["nothing"],
        ["log", "x", "--since", "yesterday"],
        ["log", "x", "--limit", "0"],
        ["log", "x", "--after", "-1"],
        ["log", "x", "--after", "1", "--last"],
        ["tail", "x", "--last", "1", "--after", "1"],
    ],
)
def test_wrong_arguments_are_told_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m engine")


def test_help_names_commands_fields_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["log", "--help"], ["tail", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        told = capsys.readouterr().out
        words = ("log", "tail") if len(arguments) == 1 else ("exit status", "event_version", "UTC")
        assert [word for word in words if word not in told] == []


# -- other processes ------------------------------------------------------------------------


@contextmanager
def child(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
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
        died = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
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
    with SqliteReader(str(path)) as reader:
        rows: Sequence[Any] = reader.read_feed(0, events_max=3, bytes_max=1 << 20)
        first = [len(list(table.lines(row))) for row in rows]

    assert first == [2, 1, 1]
