"""`python -m engine log`: forms, filters, damage, and wrong arguments."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest

from engine.__main__ import main
from engine.cli.search import Search
from engine.log.selection import Selection
from engine.model.stored import checksum_of
from engine.stores.sqlite.outside.log import SqliteLogReader
from tests.cli.looking import SECOND, START_US, counters_in, fill, outside, positions, shown
from tests.support.counters import Add


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "log.db"
    asyncio.run(fill(made, 12))
    return made


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
    with SqliteLogReader(str(path)) as reader:
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
    with SqliteLogReader(str(path)) as reader:
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
    status, _, told = shown(capsys, "log", path, "--name", "adde")
    assert (status, told) == (
        0,
        "no event matches: no event here is named 'adde'; there are added, emptied\n",
    )


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
        ["log", "x", "--stream", "c-1"],
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


def test_the_release_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("python -m engine ")


def test_help_names_commands_fields_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["log", "--help"], ["tail", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        told = capsys.readouterr().out
        words = ("log", "tail") if len(arguments) == 1 else ("exit status", "event_version", "UTC")
        assert [word for word in words if word not in told] == []
