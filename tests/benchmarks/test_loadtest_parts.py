"""The parts of the load test: load, record, book, plots, and what a run concludes."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from benchmarks.loadtest.book import SLICE_SECONDS, Book
from benchmarks.loadtest.load import Load, Phase, key_of, number_of
from benchmarks.loadtest.plot import Plot, Series, draw
from benchmarks.loadtest.record import Answer, Record, Recorder, Shared, records_in
from benchmarks.loadtest.runs import MEMORY_GROWTH_MAX, Overload
from domain.model.orders import CreateOrder, ShipOrder
from domain.model.returns import RecordReturn

# -- load -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load() -> Load:
    return Load.of_shop(7)


def test_the_mix_is_that_of_the_real_orders(load: Load) -> None:
    one_lap = Counter(type(load.command(7 * n)).__name__ for n in range(len(load.sample)))

    assert one_lap == Counter(type(command).__name__ for command in load.sample)
    assert one_lap["CreateOrder"] == one_lap["ShipOrder"] == 1_118


def test_each_order_is_sent_once_by_one_client_in_its_own_order(load: Load) -> None:
    count = 7 * (len(load.sample) + 50)
    by_id: dict[str, list[int]] = {}
    for number in range(count):
        by_id.setdefault(load.id_of(number), []).append(number)

    for numbers in by_id.values():
        assert len({number % 7 for number in numbers}) == 1
        first = load.command(numbers[0])
        assert isinstance(first, CreateOrder | RecordReturn)
        creates = [n for n in numbers if isinstance(load.command(n), CreateOrder)]
        assert len(creates) <= 1
        last = load.command(numbers[-1])
        if isinstance(first, CreateOrder) and numbers[-1] + 7 < count:
            assert isinstance(last, ShipOrder)


def test_a_life_that_reads_the_sample_sends_the_same(load: Load, tmp_path: Path) -> None:
    load.save(tmp_path / "sample")
    read = Load.read(tmp_path / "sample", 7)

    for number in (0, 1, 999, 12_345, 1_000_000):
        assert read.command(number) == load.command(number)


def test_a_key_names_its_number() -> None:
    assert number_of(key_of(12)) == 12
    assert [number_of(key) for key in (None, "12", "load-", "load-x", "load-²")] == [None] * 5


def test_a_command_is_due_at_its_moment_and_not_before() -> None:
    phase = Phase(first=10, count=4, begin=100.0, rate=2.0)

    assert [phase.intended(number) for number in (10, 11, 13)] == [100.0, 100.5, 101.5]
    moments = (99.0, 100.0, 100.4, 100.5, 101.6, 500.0)
    assert [phase.due(now) for now in moments] == [10, 11, 11, 12, 14, 14]


# -- record ---------------------------------------------------------------------------------------


def a_record(number: int) -> Record:
    return Record(number, 1, number / 8, 0.5, 0.25, number * 2, number)


def test_what_was_written_is_read_once_and_kept(tmp_path: Path) -> None:
    shared = Shared()
    recorder = Recorder(shared.descriptor)
    read: list[Record] = []
    for number in range(100):
        recorder.add(a_record(number))
        if number % 30 == 0:
            read += shared.records()
    read += shared.records()
    shared.close(tmp_path / "kept")

    assert read == [a_record(number) for number in range(100)]
    assert list(records_in(tmp_path / "kept")) == read


def test_a_record_that_was_not_counted_is_no_answer() -> None:
    shared = Shared()
    recorder = Recorder(shared.descriptor)
    recorder.add(a_record(1))
    # What a process that is killed in the middle of a record leaves behind.
    os.pwrite(shared.descriptor, b"\x01" * 20, 8 + 37)

    assert list(shared.records()) == [a_record(1)]
    os.close(shared.descriptor)


def test_the_record_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.loadtest.record._GROWS_BY", 4_096)
    shared = Shared()
    recorder = Recorder(shared.descriptor)
    for number in range(1_000):
        recorder.add(a_record(number))

    assert list(shared.records()) == [a_record(number) for number in range(1_000)]
    os.close(shared.descriptor)


def test_the_record_outlives_a_process_that_is_killed() -> None:
    shared = Shared()
    program = (
        "import os; from benchmarks.loadtest.record import Record, Recorder;"
        f"Recorder({shared.descriptor}).add(Record(*{tuple(a_record(3))}));"
        "os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], pass_fds=(shared.descriptor,), cwd=root)

    assert done.returncode == -9
    assert list(shared.records()) == [a_record(3)]
    os.close(shared.descriptor)


# -- book -----------------------------------------------------------------------------------------


def test_a_latency_counts_from_when_it_was_due_and_stands_there() -> None:
    book = Book()
    numbers = book.begin(Phase(0, 3, 50.0, 10.0))
    at = 50.0 + 3 * SLICE_SECONDS
    book.note(Record(0, Answer.RECEIPT, at, 2 * SLICE_SECONDS, 0.001, 1, 1))
    book.note(Record(2, Answer.OVERLOADED, at, 0.2, 0.002))

    due, answered = book.slices[1], book.slices[3]
    assert due.latency.ms(100) == [2_000 * SLICE_SECONDS]
    assert (due.answered, answered.answered, answered.overloaded) == (0, 1, 1)
    assert (numbers.refusal.max, numbers.refusal_due.max) == (0.002, 0.2)
    assert (numbers.complete, book.complete) == (False, False)
    assert (list(book.open()), book.next) == ([1], 3)


def test_answers_are_counted_in_the_phase_of_their_command() -> None:
    book = Book()
    first = book.begin(Phase(0, 2, 0.0, 10.0))
    second = book.begin(Phase(2, 1, 1.0, 10.0))
    for number in (2, 0, 1):
        book.note(Record(number, Answer.RECEIPT, 2.0, 0.1, 0.1, number + 1, 1))

    assert (first.run, second.run) == (2, 1)
    assert first.throughput == 1.0
    assert book.complete


# -- plots and conclusions ------------------------------------------------------------------------


def test_a_plot_is_sound_and_leaves_gaps() -> None:
    points = [(0.0, 1.0), (1.0, None), (2.0, 1_000.0), (3.0, 0.0)]
    for logarithmic in (False, True):
        figure = ET.fromstring(
            draw(Plot("a < b", [Series("x & y", points)], logarithmic, marks=[1.5]))
        )
        (line,) = (path for path in figure.iter("path") if "line" in path.attrib["class"])
        assert line.attrib["d"].count("M") == 2
        assert line.attrib["d"].count("L") == 1
        assert sum(path.attrib["class"] == "mark" for path in figure.iter("path")) == 1


def test_a_plot_of_nothing_is_sound() -> None:
    for logarithmic in (False, True):
        ET.fromstring(draw(Plot("nothing", [Series("x", [])], logarithmic)))


GOOD = Overload(
    saturation=1_000.0,
    before=500.0,
    during=900.0,
    after=490.0,
    refused=2_000,
    refusal_p50_ms=0.1,
    refusal_p99_ms=1.0,
    refusal_due_p50_ms=1.0,
    refusal_due_p99_ms=20.0,
    rss_before=100 << 20,
    rss_peak=150 << 20,
    drained_seconds=0.5,
)


def test_an_overload_that_the_engine_stands_is_found_good() -> None:
    assert GOOD.findings() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"refused": 0}, "nothing was answered Overloaded"),
        ({"rss_peak": (100 << 20) + MEMORY_GROWTH_MAX + 1}, "memory grew by 512 MiB"),
        ({"after": 200.0}, "throughput did not recover: 200/s after the overload, 500/s before"),
    ],
)
def test_an_overload_that_the_engine_does_not_stand_is_told(
    change: dict[str, float], said: str
) -> None:
    (finding,) = msgspec.structs.replace(GOOD, **change).findings()

    assert said in finding
