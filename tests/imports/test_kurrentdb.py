"""Files of KurrentDB's events: each form in which they come, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine import StoreRefused
from engine.imports.drafts import MappedDrafts
from engine.imports.importing import ImportedLog, import_log
from engine.imports.kurrentdb import KurrentSource
from engine.model.aggregate import definitions_of
from engine.model.codec import decode_metadata
from engine.outside.copying import CopyProgress
from engine.runtime.ports import Ports
from engine.stores.urls import open_backend
from tests.imports import bank
from tests.imports.bank import Account, make_engine
from tests.imports.running import Ended, command
from tests.support.other_stores import ANN, BOB, HISTORY

NOW = 1_800_000_000_000_000
_ID = "00000000-0000-4000-8000-00000000000"
Row = Mapping[str, Any]


def of_http(number: int) -> Row:
    """An entry of a page with `embed=body`: its id is its address, its content is a text."""
    own_id, version, name, data, time = HISTORY[number]
    stream = f"account-{own_id}"
    return {
        "eventId": f"{_ID}{number}",
        "eventType": name,
        "eventNumber": version - 1,
        "data": json.dumps(data, indent=2),
        "metaData": json.dumps({"correlation_id": "cor-1"}),
        "streamId": stream,
        "isJson": True,
        "isMetaData": True,
        "isLinkMetaData": False,
        "positionEventNumber": version - 1,
        "positionStreamId": stream,
        "title": f"{version - 1}@{stream}",
        "id": f"http://localhost:2113/streams/{stream}/{version - 1}",
        "updated": time.replace("+00:00", "7Z"),  # a digit more, as .NET writes it
        "author": {"name": "EventStore"},
    }


def of_javascript(number: int) -> Row:
    """What JSON makes of a resolved event, whose numbers are texts then."""
    own_id, version, name, data, time = HISTORY[number]
    return {
        "event": {
            "streamId": f"account-{own_id}",
            "revision": str(version - 1),
            "created": time.replace("+00:00", "Z"),
            "id": f"{_ID}{number}",
            "isJson": True,
            "type": name,
            "data": data,
            "metadata": {"correlation_id": "cor-1"},
            "position": {"commit": str(100 * number), "prepare": str(100 * number)},
        },
        "commitPosition": str(100 * number),
    }


def of_python(number: int) -> Row:
    """The fields of the Python client's RecordedEvent, as the page writes them."""
    own_id, version, name, data, time = HISTORY[number]
    return {
        "type": name,
        "data": json.dumps(data),
        "metadata": json.dumps({"correlation_id": "cor-1"}),
        "content_type": "application/json",
        "id": f"{_ID}{number}",
        "stream_name": f"account-{own_id}",
        "stream_position": version - 1,
        "commit_position": 100 * number,
        "prepare_position": 100 * number,
        "recorded_at": time,
    }


FORMS: Mapping[str, Callable[[int], Row]] = {
    "HTTP": of_http,
    "JavaScript": of_javascript,
    "Python": of_python,
}
ALL = range(len(HISTORY))


def file_of(path: Path, rows: Sequence[Row]) -> KurrentSource:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return KurrentSource(str(path))


def pages(*numbers: Sequence[int]) -> Sequence[Row]:
    """Give pages of HTTP, from the oldest on, each with its newest event first."""
    return [{"title": "All", "entries": [of_http(n) for n in reversed(page)]} for page in numbers]


def imported(source: KurrentSource, path: Path, **given: Any) -> ImportedLog:
    engine = make_engine()
    drafts = MappedDrafts(
        source.name, bank.moved, engine.registry, definitions_of(engine.aggregates), engine.limits
    )
    target = open_backend(f"sqlite:{path}").outside(Ports()).copy_target()
    return import_log(source, drafts, target, NOW, **given)


@pytest.mark.parametrize("form", FORMS)
async def test_a_log_keeps_streams_versions_times_order_and_ids(form: str, tmp_path: Path) -> None:
    rows = [FORMS[form](number) for number in ALL]
    source = file_of(tmp_path / "x.jsonl", pages([0, 1], [2, 3, 4]) if form == "HTTP" else rows)
    found = list(source.events())
    done = imported(source, tmp_path / "new.db")

    assert [event.id for event in found] == [f"{_ID}{number}" for number in ALL]
    assert [str(event.stream).removeprefix("account-") for event in found] == [
        *(ANN, BOB, ANN, BOB, ANN)
    ]
    assert [event.version for event in found] == [1, 1, 2, 2, 3]
    assert [event.recorded for event in found] == [datetime.fromisoformat(h[4]) for h in HISTORY]
    assert [event.data for event in found] == [history[3] for history in HISTORY]
    assert {event.metadata["correlation_id"] for event in found} == {"cor-1"}
    assert (done.events, done.streams) == (5, 2)
    with open_backend(f"sqlite:{tmp_path / 'new.db'}").outside(Ports()).log_reader() as reader:
        stored = reader.read_feed(0, events_max=10, bytes_max=10**6)
    times = [datetime.fromtimestamp(event.recorded / 10**6, UTC) for event in stored]
    assert times == [event.recorded for event in found]
    assert [decode_metadata(event).headers for event in stored] == [
        {"old-id": event.id} for event in found
    ]
    async with make_engine(f"sqlite:{tmp_path / 'new.db'}") as engine:
        assert (await engine.state(Account, ANN.replace("-", ""))).cents == 750


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([[0, 1], [0, 1], [2]], "line 2, entry 2: revision 0 of its stream stands twice"),
        ([[2], [0]], "line 2, entry 1: revision 0 of its stream stands twice, or too late"),
        (
            [[0], [4]],
            "line 2, entry 1: revision 2 of its stream comes too early, behind revision 0",
        ),
    ],
    ids=["twice", "turned round", "missing"],
)
def test_a_page_that_is_out_of_place_is_told(
    numbers: Sequence[Sequence[int]], said: str, tmp_path: Path
) -> None:
    source = file_of(tmp_path / "x.jsonl", pages(*numbers))
    with pytest.raises(StoreRefused) as refused:
        imported(source, tmp_path / "new.db")

    assert said in str(refused.value)
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("form", ["JavaScript", "Python"])
def test_streams_that_are_exported_one_after_the_other_are_no_log(
    form: str, tmp_path: Path
) -> None:
    """The order of the whole log would be another one."""
    rows = [FORMS[form](number) for number in (0, 2, 4, 1, 3)]
    with pytest.raises(StoreRefused, match=r"line 4: its place in the whole log is before"):
        list(file_of(tmp_path / "x.jsonl", rows).events())


def test_a_stream_that_was_truncated_begins_later(tmp_path: Path) -> None:
    found = list(file_of(tmp_path / "x.jsonl", [of_python(2), of_python(4)]).events())
    assert [event.version for event in found] == [2, 3]


def test_what_is_no_json_is_left_to_the_mapping_function(tmp_path: Path) -> None:
    binary = {**of_python(0), "content_type": "application/octet-stream", "data": "aGk="}
    (found,) = file_of(tmp_path / "x.jsonl", [binary]).events()
    assert (found.data, found.raw) == (None, b"aGk=")


@pytest.mark.parametrize(
    "left_out", ["type", "stream_name", "id", "recorded_at", "stream_position"]
)
def test_a_line_that_is_no_event_is_told_without_its_content(left_out: str, tmp_path: Path) -> None:
    row = {name: value for name, value in of_python(0).items() if name != left_out}
    with pytest.raises(StoreRefused, match="line 1: it is no event as KurrentDB") as refused:
        list(file_of(tmp_path / "x.jsonl", [row]).events())
    assert "Ann" not in str(refused.value)


def test_an_import_that_ended_goes_on_when_it_is_made_again(tmp_path: Path) -> None:
    source = file_of(tmp_path / "x.jsonl", pages([0, 1, 2], [3, 4]))

    def end(progress: CopyProgress) -> None:
        if (progress.what, progress.position) == ("written", 2):
            raise Ended

    with pytest.raises(Ended):
        imported(source, tmp_path / "new.db", on_progress=end, page_events=2)
    done = imported(source, tmp_path / "new.db")

    assert (done.resumed_at, done.events) == (2, 5)


def test_the_command_needs_a_mapping_function(tmp_path: Path) -> None:
    file_of(tmp_path / "x.jsonl", [of_javascript(number) for number in ALL])
    app = ("--app", "tests.imports.bank:make_engine", "--format", "kurrentdb")
    bare = command(tmp_path, "x.jsonl", "new.db", *app)
    done = command(tmp_path, "x.jsonl", "new.db", *app, "--map", "tests.imports.bank:moved")

    assert "--map is needed" in bare.stderr
    assert "imported 5 events of 2 streams, and verified" in done.stdout
