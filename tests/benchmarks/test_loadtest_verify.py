"""The verification of the load test: each record that breaks one rule is found, and named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec
import pytest

from benchmarks.loadtest.book import Book
from benchmarks.loadtest.left import FilesViews, Logged
from benchmarks.loadtest.load import Load, Phase, key_of
from benchmarks.loadtest.record import PUT_OFF, Answer, Record
from benchmarks.loadtest.verify import (
    PROJECTIONS,
    Findings,
    check_answers,
    check_log,
    check_views,
)
from domain.model.lines import Buyer, Line
from domain.model.orders import AdjustOrderItemQuantity, CreateOrder, Order, ShipOrder
from domain.model.returns import RecordReturn, Return
from engine import Aggregate, Command, Event
from engine.stores.sqlite.views.tables import TableSql
from engine.testing.scenario import Folded, Scenario, given

BUYER = Buyer("France", "17850")
LINE = Line("71053", "LANTERN", 6, 339)
SAMPLE: tuple[Command, ...] = (
    CreateOrder("1", BUYER, "2010-12-01T08:26:00", (LINE,)),
    AdjustOrderItemQuantity("1", LINE.id, 8),
    ShipOrder("1"),
    RecordReturn("C2", BUYER, "2010-12-01T09:00:00", (LINE,)),
    CreateOrder("3", BUYER, "2010-12-02T09:00:00", (Line("22", "CUP", -1, 5),)),
    ShipOrder("3"),
)
COUNT = 2 * len(SAMPLE)
REFUSED = {4, 5, 10, 11}


def told(number: int, answer: Answer, position: int = 0, version: int = 0) -> Record:
    return Record(number, answer, 0.0, 0.0, 0.0, position, version)


class Case:
    """What an engine that keeps its promises leaves of twelve commands of one client."""

    def __init__(self) -> None:
        self.load = Load(SAMPLE, 1)
        self.book = Book()
        self.book.begin(Phase(0, COUNT, 0.0, 1_000.0))
        self.log: list[Logged] = []
        self.records: list[Record] = []
        states: dict[str, Scenario[Order] | Scenario[Return]] = {}
        for number in range(COUNT):
            command, id_ = self.load.command(number), self.load.id_of(number)
            kind: type[Aggregate] = Return if isinstance(command, RecordReturn) else Order
            stream = f"{'return' if kind is Return else 'order'}:{id_}"
            decision = states.get(stream, given(kind, aggregate_id=id_)).when(command)
            states[stream] = decision  # type: ignore[assignment]
            if decision.rejection is not None:
                self.records.append(told(number, Answer.REJECTED))
                continue
            (event,) = decision.events
            self.write(stream, len(decision.history), event, key_of(number))
            last = self.log[-1]
            self.records.append(told(number, Answer.RECEIPT, last.position, last.version))

    def write(self, stream: str, version: int, event: Event, key: str | None) -> None:
        payload = msgspec.json.encode(event)
        place = len(self.log) + 1
        name = event.event_name
        self.log.append(Logged(place, stream, version, name, place, payload, key))

    def change(self, place: int, **fields: object) -> None:
        self.log[place] = self.log[place]._replace(**fields)  # type: ignore[arg-type]

    def findings(self) -> list[str]:
        for record in self.records:
            self.book.note(record)
        findings = Findings()
        check_answers(self.book, findings)
        check_log(self.load, self.book, self.log, findings)
        return [line for line in findings.lines() if not line.startswith("    ")]


def test_what_holds_is_found_good() -> None:
    case = Case()

    assert {record.number for record in case.records if record.answer == Answer.REJECTED} == REFUSED
    assert len(case.log) == COUNT - len(REFUSED)
    assert case.findings() == []


def lose_the_last(case: Case) -> None:
    case.log.pop()


def lose_one_in_between(case: Case) -> None:
    del case.log[1]


def write_twice(case: Case) -> None:
    again = case.log[3]
    case.log.append(again._replace(position=len(case.log) + 1, version=2))


def write_what_was_rejected(case: Case) -> None:
    case.records[0] = told(0, Answer.REJECTED)


def write_what_was_not_run(case: Case) -> None:
    case.records[2] = told(2, Answer.OVERLOADED)


def name_another_position(case: Case) -> None:
    case.records[0] = case.records[0]._replace(position=2)


def name_another_version(case: Case) -> None:
    case.records[1] = case.records[1]._replace(version=1)


def jump_a_version(case: Case) -> None:
    case.change(2, version=4)
    case.records[2] = case.records[2]._replace(version=4)


def write_for_nobody(case: Case) -> None:
    last = case.log[-1]
    case.log.append(last._replace(position=last.position + 1, version=2, key=None))


def write_for_a_number_that_is_none(case: Case) -> None:
    last = case.log[-1]
    key = key_of(COUNT)
    case.log.append(last._replace(position=last.position + 1, version=2, key=key))


def write_something_else(case: Case) -> None:
    payload = case.log[1].payload.replace(b'"quantity_after":8', b'"quantity_after":9')
    case.change(1, payload=payload)


def write_another_event(case: Case) -> None:
    case.change(2, event="order-cancelled")


def write_to_another_stream(case: Case) -> None:
    case.change(3, stream="return:C2-0-1")


def reject_what_the_rules_allow(case: Case) -> None:
    case.records[9] = told(9, Answer.REJECTED)
    case.log.pop()


def forget_what_the_order_was_like(case: Case) -> None:
    payload = case.log[1].payload.replace(b'"quantity_before":6', b'"quantity_before":7')
    case.change(1, payload=payload)


def give_no_answer(case: Case) -> None:
    del case.records[4]


def give_two_answers(case: Case) -> None:
    case.records.append(case.records[0])


def answer_what_nobody_asked(case: Case) -> None:
    case.records.append(told(COUNT, Answer.RECEIPT, 1, 1))


def refuse_for_no_reason(case: Case) -> None:
    case.records[4] = told(4, Answer.OTHER)


def give_another_receipt(case: Case) -> None:
    for record in case.records:
        case.book.note(record)
    case.book.ask_again({0})
    case.records = [told(0, Answer.RECEIPT, 9, 1)]


def reject_what_was_acknowledged(case: Case) -> None:
    give_another_receipt(case)
    case.records = [told(0, Answer.REJECTED)]


ONE_ANSWER = "an answer is not the one answer of its command: 1"


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lose_the_last, ["P1: acknowledged commands are not in the log: 1"]),
        (
            lose_one_in_between,
            [
                "P4: positions have holes: 1",
                "P3: versions have holes: 1",
                "P1: acknowledged commands are not in the log: 1",
            ],
        ),
        (
            write_twice,
            ["P8: commands were run twice: 1", "P8: receipts name another place than the log: 1"],
        ),
        (
            write_what_was_rejected,
            [
                "P6: what was refused is in the log: 1",
                "P5: commands of an order were not decided one after the other: 1",
            ],
        ),
        (write_what_was_not_run, ["P6: what was refused is in the log: 1"]),
        (name_another_position, ["P8: receipts name another place than the log: 1"]),
        (name_another_version, ["P8: receipts name another place than the log: 1"]),
        (jump_a_version, ["P3: versions have holes: 1"]),
        (write_for_nobody, ["P2: events belong to no command: 1"]),
        (write_for_a_number_that_is_none, ["P2: events belong to no command: 1"]),
        (write_something_else, ["P2: events are not what their commands asked for: 1"]),
        (write_another_event, ["P2: events are not what their commands asked for: 1"]),
        (
            write_to_another_stream,
            ["P2: events are not what their commands asked for: 1", "P3: versions have holes: 1"],
        ),
        (
            reject_what_the_rules_allow,
            ["P5: commands of an order were not decided one after the other: 1"],
        ),
        (forget_what_the_order_was_like, ["P2: events are not what their commands asked for: 1"]),
        (give_no_answer, ["P6: commands have no answer: 1"]),
        (give_two_answers, [ONE_ANSWER]),
        (answer_what_nobody_asked, [ONE_ANSWER]),
        (refuse_for_no_reason, ["P6: commands were refused for no reason: 1"]),
        (give_another_receipt, [ONE_ANSWER]),
        (reject_what_was_acknowledged, [ONE_ANSWER]),
    ],
)
def test_what_breaks_a_rule_is_found(spoil: Callable[[Case], None], found: list[str]) -> None:
    case = Case()
    spoil(case)

    assert case.findings() == found


def test_a_receipt_that_is_asked_for_again_and_is_the_same_is_no_fault() -> None:
    case = Case()
    assert case.findings() == []
    case.book.ask_again({0})
    case.records = [case.records[0]]

    assert case.findings() == []
    assert case.book.repeated == 1


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (forget_what_the_order_was_like, []),
        (write_something_else, ["P2: events are not what their commands asked for: 1"]),
    ],
)
def test_of_an_order_that_missed_a_command_only_what_was_asked_is_expected(
    spoil: Callable[[Case], None], found: list[str]
) -> None:
    case = Case()
    spoil(case)
    case.book.put_off.add(0)

    assert case.findings() == found


def test_a_command_that_is_put_off_has_no_answer_yet() -> None:
    case = Case()
    case.records.insert(0, told(3, PUT_OFF))  # type: ignore[arg-type]

    assert case.findings() == []
    assert case.book.put_off == {3}


def test_of_many_findings_a_few_are_told_and_all_are_counted() -> None:
    case = Case()
    case.records = []
    for record in Case().records:
        case.book.note(record)
    findings = Findings()
    check_log(case.load, case.book, [], findings)

    lines = findings.lines()
    assert lines[0] == "P1: acknowledged commands are not in the log: 8"
    assert len(lines) == 1 + 5


# -- the views ------------------------------------------------------------------------------------


@pytest.fixture
def views() -> Iterator[sqlite3.Connection]:
    """Give views that are right for the log of a case."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE checkpoints (projection TEXT, position INTEGER)")
        log = Case().log
        for projection in PROJECTIONS:
            definition = projection.__definition__
            fold = Folded(projection)
            for logged in log:
                event = msgspec.json.decode(logged.payload, type=event_class(logged.event))
                fold.fold(event, stream=logged.stream, recorded=logged.recorded)
            connection.execute("INSERT INTO checkpoints VALUES (?, ?)", (definition.name, len(log)))
            for attribute, table in definition.tables.items():
                sql = TableSql(table, floats_exact=True)
                for statement in sql.create():
                    connection.execute(statement)
                flats = [table.shape.flatten(r) for r in fold.rows(getattr(projection, attribute))]
                for upsert, values in sql.upserts(flats):
                    connection.execute(upsert, values)
        yield connection


def event_class(name: str) -> type[Event]:
    known = {
        cls.event_name: cls for kind in (Order, Return) for cls in kind.__definition__.appliers
    }
    return known[name]


def of_views(views: sqlite3.Connection) -> list[str]:
    findings = Findings()
    log = Case().log
    check_views(FilesViews(views), lambda: log, len(log), findings, lambda what, count: None)
    return [line for line in findings.lines() if not line.startswith("    ")]


def test_views_that_are_a_fold_are_found_good(views: sqlite3.Connection) -> None:
    assert views.execute("SELECT count(*) FROM orders_summaries").fetchone() == (2,)
    assert of_views(views) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            "UPDATE sales_countries SET sales = sales + 1",
            "P9: the view sales_countries is not what a fold gives: 1",
        ),
        (
            "DELETE FROM catalogue_products",
            "P9: the view catalogue_products is not what a fold gives: 1",
        ),
        (
            "INSERT INTO customers_customers VALUES ('x', 1, 0, 0, 0, '')",
            "P9: the view customers_customers is not what a fold gives: 1",
        ),
        (
            "UPDATE orders_summaries SET shipped_at = 0",
            "P9: the view orders_summaries is not what a fold gives: 2",
        ),
    ],
)
def test_a_view_that_is_no_fold_is_found(
    views: sqlite3.Connection, statement: str, found: str
) -> None:
    views.execute(statement)

    assert of_views(views) == [found]


def test_a_view_that_is_right_for_an_earlier_position_has_not_seen_all(
    views: sqlite3.Connection,
) -> None:
    views.execute("UPDATE checkpoints SET position = 7 WHERE projection = 'sales'")

    # The last event recorded a return, which this view counts: it is ahead of its checkpoint too.
    assert of_views(views) == [
        "P9: views do not stand at the log's end: 1",
        "P9: the view sales_countries is not what a fold gives: 1",
        "P9: the view sales_days is not what a fold gives: 1",
    ]
