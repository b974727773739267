"""OpenTelemetry with its real SDK: spans, links, metrics, and what never goes out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from engine import Engine, HandlerFailed, InvalidInput, Meta, Rejected, following
from engine.integrations.opentelemetry import OpenTelemetry, link_of
from engine.integrations.opentelemetry_metrics import DISTRIBUTIONS, INSTRUMENTS
from engine.model.codec import decode_meta
from engine.statistics import ProjectorState
from engine.stores.memory import MemoryStore
from engine.stores.sqlite.log.store import SqliteStore
from engine.telemetry import LINKS_MAX
from tests.support.counters import Add, Look, Spoil, counters
from tests.support.held_store import HeldStore
from tests.support.opentelemetry import Sdk, attributes, context_of
from tests.support.tallies import AILING, GetTallies, Tallies, get_tallies
from tests.support.waiting import until


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    made = Sdk()
    yield made
    made.meters.shutdown()
    made.tracers.shutdown()


def running(telemetry: OpenTelemetry, store: Any = None) -> Any:
    return counters(store, projections=[Tallies], answers=[get_tallies], telemetry=telemetry)


async def metas(store: MemoryStore) -> list[Meta]:
    events = await store.read_feed(0, events_max=1_000_000, bytes_max=1 << 40)
    return [decode_meta(stored) for stored in events]


async def test_a_command_has_a_span_in_that_of_its_caller(sdk: Sdk) -> None:
    async with running(sdk.telemetry()) as engine:
        with sdk.tracers.get_tracer("host").start_as_current_span("request") as request:
            await engine.execute(Add("a-1", 5), correlation="order 7", causation="click", key="k")
            with pytest.raises(Rejected):
                await engine.execute(Look("a-1"))
            with pytest.raises(HandlerFailed):
                await engine.execute(Spoil("a-1", "raise"))

    [add], [look], [spoil] = sdk.spans("add"), sdk.spans("look"), sdk.spans("spoil")
    assert all(span.parent == request.get_span_context() for span in (add, look, spoil))
    assert add.kind is SpanKind.INTERNAL
    assert attributes(add) == {
        "foldline.command": "add",
        "foldline.kind": "counter",
        "foldline.correlation": "order 7",
        "foldline.causation": "click",
        "foldline.answer": "receipt",
        "foldline.version": 1,
        "foldline.position": 1,
    }
    assert attributes(look)["foldline.answer"] == "rejected"
    assert attributes(look)["foldline.rejection"] == "looked"
    # A rejection is an answer; a failure is an error, and its message and traceback stay here.
    assert (add.status.status_code, look.status.status_code) == (StatusCode.UNSET,) * 2
    assert (spoil.status.status_code, spoil.status.description) == (
        StatusCode.ERROR,
        "HandlerFailed",
    )
    assert not spoil.events
    assert "a-1" not in "".join(span.to_json() for span in sdk.all_spans())


async def test_ids_go_out_only_when_asked(sdk: Sdk) -> None:
    async with running(sdk.telemetry(ids=True)) as engine:
        await engine.execute(Add("a-1", 5))

    assert attributes(sdk.spans("add")[0])["foldline.stream"] == "counter:a-1"


async def test_the_engines_own_work_has_no_parent_and_links_to_the_commands(sdk: Sdk) -> None:
    # The host starts the engine inside a span of its own, as many do.
    with sdk.tracers.get_tracer("host").start_as_current_span("startup"):
        context = running(sdk.telemetry())
        engine = await context.__aenter__()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_exit(context)
        receipt = await engine.execute(Add("a", 1, 2))
        await engine.query(GetTallies(), at=receipt)

    [add], [commit], [load] = sdk.spans("add"), sdk.spans("commit"), sdk.spans("load")
    [batch] = sdk.spans("project tallies")
    assert [span.parent for span in (add, commit, load, batch)] == [None] * 4
    assert [link.context.span_id for link in commit.links] == [context_of(add).span_id]
    assert [link.context.span_id for link in batch.links] == [context_of(add).span_id]
    assert attributes(commit)["foldline.committed_events"] == 2
    assert attributes(batch)["foldline.projection"] == "tallies"
    assert attributes(load) == {"foldline.aggregates": 1, "foldline.loaded": 1}


async def test_links_are_bounded(sdk: Sdk) -> None:
    store = HeldStore()
    store.hold()
    async with running(sdk.telemetry(), store) as engine:
        first = asyncio.create_task(engine.execute(Add("a", 1)))
        await until(lambda: store.batches)
        rest = asyncio.gather(first, *(engine.execute(Add(f"c{n}", 1)) for n in range(500)))
        await until(lambda: engine.statistics().journal.undurable_events == 500)
        store.release()
        await rest
        await engine.query(GetTallies(), at=501)

    assert [len(span.links) for span in sdk.spans("commit")] == [1, LINKS_MAX]
    assert max(len(span.links) for span in sdk.spans("project tallies")) == LINKS_MAX


async def test_a_query_tells_how_long_it_waited_and_holds_what_its_answer_does(sdk: Sdk) -> None:
    async with running(sdk.telemetry()) as engine:
        receipt = await engine.execute(Add("a", 1))
        await engine.query(GetTallies(), at=receipt)
        assert not trace.get_current_span().get_span_context().is_valid

    [query] = sdk.spans("get-tallies")
    told = attributes(query)
    assert (told["foldline.query"], told["foldline.at"]) == ("get-tallies", 1)
    assert told["foldline.wait_seconds"] > 0


async def test_a_projection_that_stops_ends_its_span_with_the_class_of_the_error(sdk: Sdk) -> None:
    AILING.add("secret-id")
    try:
        async with running(sdk.telemetry()) as engine:
            await engine.execute(Add("secret-id", 1))
            await until(lambda: engine.statistics().projectors["tallies"].failure)
    finally:
        AILING.discard("secret-id")

    [batch] = sdk.spans("project tallies")
    assert (batch.status.status_code, batch.status.description) == (StatusCode.ERROR, "ValueError")
    assert "secret-id" not in batch.to_json()


async def test_the_trace_is_carried_over_a_restart(sdk: Sdk, tmp_path: Path) -> None:
    path = str(tmp_path / "shop.db")
    async with counters(SqliteStore(path), telemetry=sdk.telemetry()) as engine:
        await engine.execute(Add("a", 1), correlation="order 7")

    later = Sdk()
    store = SqliteStore(path)
    async with running(later.telemetry(), store) as engine:
        await engine.query(GetTallies(), at=1)
        [meta] = [
            decode_meta(stored)
            for stored in await store.read_feed(0, events_max=10, bytes_max=1 << 20)
        ]
        # A reader of the event: its span is linked, and its command says what it came from.
        link = link_of(meta)
        assert link
        with later.tracers.get_tracer("host").start_as_current_span("react", links=[link]):
            await engine.execute(Add("b", 1), **following(meta))

    written = context_of(sdk.spans("add")[0])
    [batch] = [s for s in later.spans("project tallies") if s.links[0].context == link.context]
    assert batch.links[0].context.trace_id == link.context.trace_id == written.trace_id
    assert link.context.span_id == written.span_id
    [second] = later.spans("add")
    assert attributes(second)["foldline.correlation"] == "order 7"
    assert attributes(second)["foldline.causation"] == "counter:a@1"


async def test_following_keeps_a_correlation_and_begins_one_where_there_is_none() -> None:
    store = MemoryStore()
    async with counters(store) as engine:
        await engine.execute(Add("a", 1))
        await engine.execute(Add("b", 1), **following((await metas(store))[0]))
        await engine.execute(Add("c", 1), **following((await metas(store))[1]))

    chain = [(meta.correlation, meta.causation) for meta in await metas(store)]
    assert chain == [
        (None, None),
        ("counter:a@1", "counter:a@1"),
        ("counter:a@1", "counter:b@1"),
    ]


GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_traceparent_of_the_caller_is_kept_and_is_the_parent(sdk: Sdk) -> None:
    store = MemoryStore()
    async with running(sdk.telemetry(), store) as engine:
        await engine.execute(Add("a", 1), headers={"Traceparent": GIVEN, "mine": "1"})
        await engine.execute(Add("a", 1), headers={"mine": "1"})
        kept, added = (meta.headers for meta in await metas(store))

    first, second = sdk.spans("add")
    assert kept == {"Traceparent": GIVEN, "mine": "1"}
    assert first.parent
    assert first.parent.span_id == 0xB7AD6B7169203331
    span = context_of(second)
    assert added == {
        "mine": "1",
        "traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}",
    }


async def test_without_spans_the_callers_trace_is_carried_all_the_same(sdk: Sdk) -> None:
    store = MemoryStore()
    async with running(sdk.telemetry(spans=False, carry=True), store) as engine:
        await engine.execute(Add("a", 1))
        with sdk.tracers.get_tracer("host").start_as_current_span("request") as request:
            await engine.execute(Add("a", 1))
        none, carried = await metas(store)

    assert none.headers is None
    link = link_of(carried)
    assert link
    assert link.context.span_id == request.get_span_context().span_id
    assert [span.name for span in sdk.all_spans()] == ["request"]


def test_without_spans_it_asks_for_no_command(sdk: Sdk) -> None:
    assert not sdk.telemetry(spans=False).wants_commands
    assert sdk.telemetry().wants_commands


async def test_what_is_not_sampled_costs_no_bytes() -> None:
    never, store = TracerProvider(sampler=ALWAYS_OFF), MemoryStore()
    async with running(OpenTelemetry(tracer_provider=never), store) as engine:
        await engine.execute(Add("a", 1), headers={"mine": "1"})
        [meta] = await metas(store)

    assert meta.headers == {"mine": "1"}


async def test_nothing_is_stored_when_it_shall_not_carry(sdk: Sdk) -> None:
    store = MemoryStore()
    async with running(sdk.telemetry(carry=False), store) as engine:
        await engine.execute(Add("a", 1))
        [meta] = await metas(store)

    assert meta.headers is None
    assert link_of(meta) is None


async def test_metrics_are_the_statistics(sdk: Sdk) -> None:
    async with running(sdk.telemetry(attributes={"shop": "north"})) as engine:
        for number in range(5):
            receipt = await engine.execute(Add(f"c{number}", 1), key=f"k{number}")
        await engine.execute(Add("c0", 1), key="k0")
        with pytest.raises(Rejected):
            await engine.execute(Look("c0"))
        await engine.query(GetTallies(), at=receipt)
        found, numbers = sdk.metrics(), engine.statistics()

    shop = {"shop": "north"}
    answers = {told["foldline.answer"]: n for told, n in found["foldline.commands.answered"]}
    none_yet = {"outcome-unknown": 0, "stream-unreadable": 0}
    assert answers == {**none_yet, **numbers.commands.answers}
    assert found["foldline.events"] == [(shop, 5)]
    assert found["foldline.projector.lag"] == [({**shop, "foldline.projection": "tallies"}, 0)]
    live = {told["foldline.state"]: n for told, n in found["foldline.projector.state"]}
    assert [state for state, n in live.items() if n] == ["live"]
    assert set(live) == set(get_args(ProjectorState))
    assert {**shop, "foldline.query": "get-tallies", "foldline.outcome": "answered"} in [
        told for told, n in found["foldline.queries"] if n == 1
    ]


@pytest.mark.parametrize("spans", [True, False])
async def test_histograms_are_the_engines_own_bucket_for_bucket(sdk: Sdk, spans: bool) -> None:
    telemetry = sdk.telemetry(attributes={"shop": "north"}, spans=spans)
    async with running(telemetry) as engine:
        for number in range(5):
            receipt = await engine.execute(Add(f"c{number % 2}", number + 1))
            await engine.query(GetTallies(), at=receipt)
        await engine.query(GetTallies())
        found, numbers = sdk.histograms(), engine.statistics()

    tallies = {"foldline.projection": "tallies"}
    asked = {"foldline.query": "get-tallies"}
    query = numbers.queries["get-tallies"]
    for name, own, labels in (
        ("commit.duration s", numbers.journal.commit_seconds, {}),
        ("commit.events {event}", numbers.journal.batch_events, {}),
        ("load.duration s", numbers.aggregates.load_seconds, {}),
        ("projector.batch.duration s", numbers.projectors["tallies"].batch_seconds, tallies),
        ("query.duration s", query.seconds, asked),
        ("query.wait.duration s", query.wait_seconds, asked),
    ):
        [point] = found.pop(f"foldline.{name}")
        assert dict(point.attributes or {}) == {"shop": "north", **labels}
        assert tuple(point.explicit_bounds) == own.bounds
        assert list(point.bucket_counts) == own.counts, name
        assert (point.count, point.max) == (own.count, own.max)
        assert point.sum == pytest.approx(own.sum)
    assert found == {}


async def test_a_query_that_fails_is_measured_with_the_class_of_its_error(sdk: Sdk) -> None:
    async with running(sdk.telemetry()) as engine:
        with pytest.raises(InvalidInput):
            await engine.query(GetTallies(), at=9)
        found = sdk.histograms()

    [point] = found["foldline.query.duration s"]
    failed = {"foldline.query": "get-tallies", "error.type": "InvalidInput"}
    assert (dict(point.attributes or {}), point.count) == (failed, 1)


async def test_an_exemplar_leads_from_a_duration_to_its_span(sdk: Sdk) -> None:
    async with running(sdk.telemetry()) as engine:
        with sdk.tracers.get_tracer("host").start_as_current_span("request"):
            receipt = await engine.execute(Add("a", 1))
            await engine.query(GetTallies(), at=receipt)
        found = sdk.histograms()

    for name, span in (("commit.duration s", "commit"), ("query.duration s", "get-tallies")):
        [point] = found[f"foldline.{name}"]
        [exemplar] = point.exemplars
        assert exemplar.span_id == context_of(sdk.spans(span)[0]).span_id


async def test_the_number_of_series_does_not_grow_with_ids(sdk: Sdk) -> None:
    async def series(engine: Engine, ids: range) -> int:
        receipts = await asyncio.gather(
            *(engine.execute(Add(f"id-{n}", 1), correlation=f"{n}") for n in ids)
        )
        await engine.query(GetTallies(), at=receipts[-1])
        counted = sum(len(points) for points in sdk.metrics().values())
        return counted + sum(len(points) for points in sdk.histograms().values())

    async with running(sdk.telemetry()) as engine:
        few = await series(engine, range(1))
        many = await series(engine, range(1, 400))

    assert few == many < 500
    assert "id-" not in repr((sdk.metrics(), sdk.histograms()))


async def test_an_engine_that_is_started_again_is_measured_again(
    sdk: Sdk, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(sdk.telemetry()) as engine:
        await engine.execute(Add("a", 1))
        assert sdk.metrics()["foldline.events"] == [({}, 1)]
    assert "foldline.events" not in sdk.metrics()
    async with running(sdk.telemetry()) as engine:
        await engine.execute(Add("a", 1, 7))
        assert sdk.metrics()["foldline.events"] == [({}, 7)]

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_two_engines_are_told_apart_by_their_attributes(sdk: Sdk) -> None:
    north, south = (sdk.telemetry(attributes={"shop": name}) for name in ("north", "south"))
    async with running(north) as one, running(south) as two:
        await one.execute(Add("a", 1))
        await two.execute(Add("a", 1, 2))
        found = sdk.metrics()["foldline.events"]

    assert found == [({"shop": "north"}, 1), ({"shop": "south"}, 2)]


async def test_metrics_are_collected_in_another_thread_while_the_engine_works(
    sdk: Sdk, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[int | float] = []
    ended = threading.Event()

    def collect() -> None:
        while not ended.is_set():
            counted.extend(n for _, n in sdk.metrics().get("foldline.events", ()))

    async with running(sdk.telemetry()) as engine:
        thread = threading.Thread(target=collect)
        thread.start()
        try:
            for _ in range(20):
                await asyncio.gather(*(engine.execute(Add(f"c{n}", 1)) for n in range(50)))
        finally:
            ended.set()
            thread.join()

    assert len(counted) > 1
    assert counted == sorted(counted)
    # The SDK catches and logs what a callback raises.
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_names_and_units_follow_the_conventions() -> None:
    instruments = [(each.name, each.unit) for each in INSTRUMENTS]
    instruments += [(each.name, each.unit) for each in DISTRIBUTIONS]
    names = [name for name, _ in instruments]

    assert len(set(names)) == len(names)
    for name, unit in instruments:
        assert name == name.lower()
        assert unit in ("s", "By", "1") or unit.startswith("{")
        if name.endswith(".duration"):
            assert unit == "s"


async def test_without_an_sdk_nothing_happens() -> None:
    store = MemoryStore()
    async with running(OpenTelemetry(), store) as engine:
        await engine.execute(Add("a", 1))
        numbers = engine.statistics()
        [meta] = await metas(store)

    assert (numbers.telemetry_failures, meta.headers) == (0, None)
