"""The reference is complete: errors, limits, commands, metrics, HTTP answers, as the code is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import engine
from docs.generate import commands, errors, hook, limits, metrics, mutants
from engine.__main__ import COMMANDS
from engine.integrations.asgi import problem_of
from engine.integrations.opentelemetry import OpenTelemetry
from engine.integrations.opentelemetry_metrics import DISTRIBUTIONS, INSTRUMENTS
from engine.testing.memory_engine import memory_engine
from tests.mutants.__main__ import load
from tests.support.counters import Add, Added, Counter

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = ROOT / "docs" / "reference"
ERRORS: Final = errors.public_errors()


def rows(table: str) -> list[list[str]]:
    """Give the cells of each row of all tables."""
    lines = [line for line in table.splitlines() if line.startswith("| ") and "| ---" not in line]
    return [[found.strip() for found in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_public_error_says_who_must_act() -> None:
    assert sorted(errors.WHO) == sorted(ERRORS)


def test_what_is_safe_to_send_again_is_what_the_class_says() -> None:
    found = {row[0].split("`")[1]: row[3] for row in rows(errors.tables())[1:]}

    assert sorted(found) == sorted(set(ERRORS) - {"EngineError"})
    for name, cls in ERRORS.items():
        if name != "EngineError" and not found[name].endswith("it is a query"):
            assert found[name].startswith("yes") == cls.safe_to_resend, name


def test_every_limit_stands_with_its_default() -> None:
    found = {row[0].strip("`"): row for row in rows(limits.tables(ROOT / "engine"))}

    for name in engine.Limits.__struct_fields__:
        shown = found[name][1].replace(",", "")
        value = int(shown.removesuffix(" MiB")) * (1024**2 if shown.endswith("MiB") else 1)
        assert value == getattr(engine.Limits(), name)
        assert found[name][3]


def test_every_command_stands_with_its_arguments() -> None:
    text = commands.sections()

    assert len(commands.parsers()) > len(COMMANDS)
    for name in commands.parsers():
        assert re.search(rf"^#+ {name}$", text, re.MULTILINE)
    assert "python -m" not in text
    assert "| `--limit N` | most events of a page (default: 50) |" in text


def test_every_metric_stands_with_its_unit() -> None:
    found = {row[0].strip("`"): row for row in rows(metrics.tables())}

    units = {each.name: each.unit for each in INSTRUMENTS}
    units |= {each.name: each.unit for each in DISTRIBUTIONS}
    for name, unit in units.items():
        assert f"`{unit}`" in found[f"foldline.{name}"]


class Sum(engine.Row, key="counter_id"):
    counter_id: str


class Counters(engine.Projection, name="counters", version=1):
    rows: engine.Table[Sum]

    @engine.projects
    def added(self, event: Added, meta: engine.Meta) -> None:
        self.rows.put(Sum(meta.id))


class GetCounter(engine.Query[Sum | None]):
    counter_id: str


@engine.answers
async def get_counter(query: GetCounter, views: engine.Views) -> Sum | None:
    return await views.get(Counters.rows, query.counter_id)


async def test_the_attributes_of_spans_are_those_that_the_bridge_sends() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = OpenTelemetry(tracer_provider=provider, measures=False)
    async with memory_engine(
        [Counter], projections=[Counters], answers=[get_counter], telemetry=telemetry
    ) as running:
        receipt = await running.execute(Add("c-1", 1), correlation="a", causation="b")
        await running.query(GetCounter("c-1"), at=receipt)
        with pytest.raises(engine.Rejected):
            await running.execute(Add("c-1", -100))

    sent: dict[str, set[str]] = {}
    for span in exporter.get_finished_spans():
        sent.setdefault(_kind_of_span(span.name), set()).update(span.attributes or {})
    table = (REFERENCE / "metrics.md").read_text().partition("## Correlation")[0]
    shown = {
        row[0].partition(":")[0].strip("`"): set(re.findall(r"foldline\.\w+", row[2]))
        for row in rows(table)[1:]
    }
    assert shown == sent


def _kind_of_span(name: str) -> str:
    if name.startswith("project "):
        return "project <projection>"
    return {"add": "command", "get-counter": "query"}.get(name, name)


def test_every_mutant_stands_below_its_promise() -> None:
    text = mutants.tables(REFERENCE / "promises.md")

    promises = (REFERENCE / "promises.md").read_text()
    numbered = re.findall(r"^### (\d+)\. ", promises, re.MULTILINE)
    assert re.findall(r"^## (\d+)\. ", text, re.MULTILINE) == numbered != []
    assert len(re.findall(r"^## \d+\. ", text, re.MULTILINE)) == 26
    for name, mutant in load([]).items():
        section = re.search(
            rf"^## {mutant.promise}\. .*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE
        )
        assert section
        assert f"`{name}`" in section[0]


RAISED: Final[dict[str, Any]] = {
    "Rejected": engine.Rejected("code", "no"),
    "WrongVersion": engine.WrongVersion("a:1", 1, 2),
    "Conflict": engine.Conflict("a:1", 1, 2),
    "EventUnread": engine.EventUnread("sold", 2, ["process 7"]),
    "ProjectionLag": engine.ProjectionLag(2, {"a": 1}, {"a": "live"}),
    "ProjectionUnserved": engine.ProjectionUnserved("a"),
    "TimeoutError": TimeoutError(),
}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (name, row)
        for row in rows((REFERENCE / "http.md").read_text())
        if len(row) == 5 and row[0] != "error"
        for name in re.findall(r"`(\w+)`", row[0]) or ["StoreFailed"]
    ],
)
def test_the_table_of_http_answers_is_what_the_middleware_does(name: str, row: list[str]) -> None:
    if name == "StoreFailed":
        error: Any = engine.StoreFailed("no", written=None)
    else:
        error = RAISED.get(name) or ERRORS[name]("no")
    problem = problem_of(error)

    assert row[1].startswith(str(problem.status))
    assert row[2].strip("`") in (problem.code, "its own")
    assert row[3] == problem.resend.replace("-", " ")
    assert row[4] == ("" if problem.retry_after is None else str(problem.retry_after))


def test_a_page_asks_for_each_generated_part() -> None:
    pages = [path for path in REFERENCE.glob("*.md") if "<!-- generated:" in path.read_text()]

    assert {path.stem for path in pages} == set(hook.GENERATED)
