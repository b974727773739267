"""What watches the engine in a benchmark: the real OpenTelemetry SDK, exporting to nobody.

Needs `foldline[bench]`, which is imported only where a mode other than `off` is measured. `again`
is `off` once more: its distance to the run before it is what the machine does by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any, Final

import engine

MODES: Final = ("again", "metrics", "sampled", "spans")
"""Metrics collected every second; spans too, of which one in a hundred or all are exported."""


@contextlib.contextmanager
def telemetry_of(mode: str) -> Generator[engine.Telemetry | None]:
    """Give what to pass to the engine."""
    if mode in ("off", "again"):
        yield None
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        MetricExporter,
        MetricExportResult,
        PeriodicExportingMetricReader,
    )
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    from engine.integrations.opentelemetry import OpenTelemetry

    class NoMetrics(MetricExporter):
        def export(self, *_: Any, **__: Any) -> MetricExportResult:
            return MetricExportResult.SUCCESS

        def force_flush(self, *_: Any, **__: Any) -> bool:
            return True

        def shutdown(self, *_: Any, **__: Any) -> None:
            return

    class NoSpans(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
            return SpanExportResult.SUCCESS

    meters = MeterProvider([PeriodicExportingMetricReader(NoMetrics(), 1_000)])
    tracers = TracerProvider(sampler=TraceIdRatioBased(1.0 if mode == "spans" else 0.01))
    tracers.add_span_processor(BatchSpanProcessor(NoSpans()))
    try:
        yield OpenTelemetry(
            meter_provider=meters, tracer_provider=tracers, spans=mode in ("spans", "sampled")
        )
    finally:
        meters.shutdown()
        tracers.shutdown()
