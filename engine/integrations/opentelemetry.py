"""OpenTelemetry for an engine: spans of its work, and its statistics as metrics.

Rules: it needs the API only (`foldline[otel]`), and does nothing where no SDK is set up. Names and
attributes are those of the code: commands, kinds, projections, queries, answer classes. No id goes
out unless `ids=True`, except the correlation and causation that the caller gave; a payload, a key,
an error's message or a traceback never does. The engine's own work (commits, loads, batches) has
spans without a parent and with at most 32 links to what led to it, since it is done for many at a
time. It never writes headers over a `traceparent` that the caller gave. Histograms
have the durations that the engine measured, so that spans or none make no difference to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Token
from functools import partial
from typing import Any, Final, TypeAlias

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..errors import Damaged
from ..model.codec import decode_meta
from ..model.messages import Meta
from ..model.stored import StoredEvent
from ..statistics import EngineStatistics
from ..telemetry import (
    LINKS_MAX,
    CommandBegan,
    CommitBegan,
    ForwardBegan,
    LoadBegan,
    Observation,
    ProjectionBegan,
    QueryBegan,
)
from .opentelemetry_metrics import Measure, Source, measured, measurer, publish, withdraw

__all__ = ["OpenTelemetry", "link_of"]

Attributes: TypeAlias = Mapping[str, str | bool | int | float]
Headers: TypeAlias = Mapping[str, str]

_NAME: Final = "foldline"
_TRACEPARENT: Final = "traceparent"
_LOOKED_AT_MAX: Final = 256
"""Events of a batch whose metadata is looked at for links."""
_DECIDED: Final = frozenset({"receipt", "cancelled", "rejected", "wrong-version", "key-reused"})
"""Answers with which nothing is wrong: the engine did what it is for."""
_propagator: Final = TraceContextTextMapPropagator()


class OpenTelemetry:
    """Pass one to `Engine(telemetry=...)`, one per engine.

    Providers are the global ones unless given. `attributes` go on every span and metric; give them
    where several engines are in one process. `ids` shows the stream of a command. `carry` stores a
    `traceparent` with the events of commands that are sampled (about 80 bytes in each): as `spans`,
    unless it says otherwise. With `spans=False` alone a command costs nothing more. With
    `measures`, every batch, load and query is recorded in a histogram of the SDK when it ends. Both
    happens in the event loop, so give the SDK a processor of spans that exports elsewhere, as
    BatchSpanProcessor does.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        spans: bool = True,
        measures: bool = True,
        carry: bool | None = None,
        ids: bool = False,
        attributes: Attributes | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        self._meter = metrics.get_meter(_NAME, meter_provider=meter_provider) if measures else None
        self._carry = spans if carry is None else carry
        self.wants_commands = spans or self._carry
        self._ids = ids
        self._attributes = dict(attributes or {})
        self._source: Source | None = None
        self._begins: dict[type, Callable[[Any], Observation | None]] = {
            CommandBegan: self._command if spans else self._command_unseen,
            ForwardBegan: self._forward if spans else self._command_unseen,
        }
        if spans:
            self._begins |= {
                CommitBegan: self._commit,
                LoadBegan: self._load,
                ProjectionBegan: self._projection,
                QueryBegan: self._query,
            }
        if self._meter is not None:
            for began in measured():
                measure = measurer(self._meter, began)
                self._begins[began] = partial(self._measured, measure, self._begins.get(began))

    # -- what the engine calls --------------------------------------------------------------

    def attach(self, statistics: Callable[[], EngineStatistics]) -> None:
        """Publish the engine's numbers; they are read when the SDK collects, in its thread."""
        if self._meter is not None:
            self._source = Source(statistics, self._attributes)
            publish(self._meter, self._source)

    def detach(self) -> None:
        """Publish them no more."""
        if self._meter is not None and self._source is not None:
            withdraw(self._meter, self._source)
            self._source = None

    def begin(self, began: object) -> Observation | None:
        """Begin a span, if there is one for this."""
        begin = self._begins.get(type(began))
        return None if begin is None else begin(began)

    def _measured(
        self, measure: Measure, begin: Callable[[Any], Observation | None] | None, began: object
    ) -> Observation:
        labels: dict[str, str | bool | int | float] = dict(self._attributes)
        if isinstance(began, ProjectionBegan):
            labels["foldline.projection"] = began.projection
        elif isinstance(began, QueryBegan):
            labels["foldline.query"] = began.query.query_name
        return _Measured(measure, labels, None if begin is None else begin(began))

    # -- spans ------------------------------------------------------------------------------

    def _command(self, began: CommandBegan) -> Observation | None:
        return self._sent(began, began.command.command_name, SpanKind.INTERNAL)

    def _forward(self, began: ForwardBegan) -> Observation | None:
        """Begin a span, in which the owner's process has one of its own."""
        return self._sent(began, f"forward {began.command.command_name}", SpanKind.CLIENT)

    def _sent(
        self, began: CommandBegan | ForwardBegan, name: str, kind: SpanKind
    ) -> Observation | None:
        attributes: dict[str, str | bool | int | float] = {
            **self._attributes,
            "foldline.command": began.command.command_name,
            "foldline.kind": began.kind,
        }
        if began.correlation is not None:
            attributes["foldline.correlation"] = began.correlation
        if began.causation is not None:
            attributes["foldline.causation"] = began.causation
        parent = None
        if began.headers and not trace.get_current_span().get_span_context().is_valid:
            parent = _extracted(began.headers)
        span = self._tracer.start_span(name, context=parent, kind=kind, attributes=attributes)
        if not span.is_recording():
            # Most commands where spans are sampled: there is nothing to end and nothing to carry.
            return None
        return _Observed(span, self._ids, self._carried(began.headers, span.get_span_context()))

    def _command_unseen(self, began: CommandBegan | ForwardBegan) -> Observation:
        """Without spans of its own the engine still carries on the caller's."""
        current = trace.get_current_span().get_span_context()
        return _Carried(self._carried(began.headers, current))

    def _carried(self, given: Headers | None, span: SpanContext) -> Headers | None:
        if not self._carry or not span.is_valid or not span.trace_flags.sampled:
            return given
        if given and any(name.lower() == _TRACEPARENT for name in given):
            return given
        carried = dict(given or {})
        carried[_TRACEPARENT] = (
            f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
        )
        if span.trace_state:
            carried["tracestate"] = span.trace_state.to_header()
        return carried

    def _commit(self, began: CommitBegan) -> Observation:
        facts = {
            "foldline.events": began.events,
            "foldline.commands": began.commands,
            "foldline.bytes": began.bytes,
        }
        return self._root("commit", facts, _links(began.headers))

    def _load(self, began: LoadBegan) -> Observation:
        return self._root("load", {"foldline.aggregates": began.aggregates}, ())

    def _projection(self, began: ProjectionBegan) -> Observation:
        facts: Attributes = {
            "foldline.projection": began.projection,
            "foldline.events": len(began.events),
        }
        links = _links(_headers_of(began.events))
        return self._root(f"project {began.projection}", facts, links)

    def _root(self, name: str, facts: Attributes, links: Sequence[Link]) -> Observation:
        # An empty context: the engine's tasks were started in that of whoever started the engine.
        span = self._tracer.start_span(
            name, context=Context(), attributes={**self._attributes, **facts}, links=links
        )
        return _Observed(span, self._ids)

    def _query(self, began: QueryBegan) -> Observation:
        attributes: dict[str, str | bool | int | float] = {
            **self._attributes,
            "foldline.query": began.query.query_name,
        }
        if began.at:
            attributes["foldline.at"] = began.at
        span = self._tracer.start_span(began.query.query_name, attributes=attributes)
        # What the answer does is inside: it runs in the caller's task, which ends the span too.
        token = context.attach(trace.set_span_in_context(span))
        return _Observed(span, self._ids, token=token)


class _Carried:
    """Headers for a command's events, and no span."""

    def __init__(self, headers: Headers | None) -> None:
        self.headers = headers

    def end(self, error: BaseException | None, facts: Attributes) -> None:
        """Nothing has begun."""


class _Measured:
    """What is recorded in a histogram when it ends, and perhaps a span of it."""

    headers = None

    def __init__(self, measure: Measure, attributes: Attributes, span: Observation | None) -> None:
        self._measure = measure
        self._attributes = attributes
        self._span = span

    def end(self, error: BaseException | None, facts: Mapping[str, str | int | float]) -> None:
        """Record it, with the class of its error, and end its span."""
        span = self._span
        attributes = self._attributes
        if error is not None:
            attributes = {**attributes, "error.type": type(error).__qualname__}
        # Never the current context: the engine's own work runs in that of whoever started it.
        context = span.context if isinstance(span, _Observed) else Context()
        try:
            self._measure(facts, attributes, context)
        finally:
            if span is not None:
                span.end(error, facts)


class _Observed:
    """A span that has begun."""

    def __init__(
        self,
        span: Span,
        ids: bool,
        headers: Headers | None = None,
        token: Token[Context] | None = None,
    ) -> None:
        self.headers = headers
        self._span = span
        self._ids = ids
        self._token = token

    @property
    def context(self) -> Context:
        """Give one that has nothing but the span."""
        return trace.set_span_in_context(self._span, Context())

    def end(self, error: BaseException | None, facts: Attributes) -> None:
        """End it; of an error only the class goes out, and of a rejection its code."""
        if self._token is not None:
            context.detach(self._token)
        span = self._span
        # A span has its own duration.
        hidden = ("seconds",) if self._ids else ("seconds", "stream")
        # In one call: each takes a lock.
        told = {f"foldline.{n}": fact for n, fact in facts.items() if n not in hidden}
        span.set_attributes(told)
        if error is not None:
            code = getattr(error, "code", None)
            if isinstance(code, str):
                span.set_attribute("foldline.rejection", code)
            if facts.get("answer") not in _DECIDED:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
        span.end()


def link_of(meta: Meta) -> Link | None:
    """Give a link to the span of the command that wrote an event, for a span of its reader.

    None where the event carries no `traceparent`. For the command that a reader sends because of
    the event, see `engine.following`.
    """
    links = _links([meta.headers] if meta.headers else [])
    return links[0] if links else None


def _extracted(headers: Headers) -> Context:
    lowered = {name.lower(): value for name, value in headers.items()}
    return _propagator.extract(lowered, Context())


def _links(headers: Iterable[Headers]) -> Sequence[Link]:
    """Give a link to each span that is named, at most LINKS_MAX."""
    spans: dict[tuple[int, int], SpanContext] = {}
    for given in headers:
        span = trace.get_current_span(_extracted(given)).get_span_context()
        if span.is_valid:
            spans[span.trace_id, span.span_id] = span
        if len(spans) >= LINKS_MAX:
            break
    return [Link(span) for span in spans.values()]


def _headers_of(events: Sequence[StoredEvent]) -> Iterable[Headers]:
    last = b""
    for stored in events[:_LOOKED_AT_MAX]:
        # The further events of a command have the same metadata.
        if stored.metadata == last or b"traceparent" not in stored.metadata.lower():
            continue
        last = stored.metadata
        try:
            headers = decode_meta(stored).headers
        except Damaged:  # the projector will say so
            continue
        if headers:
            yield headers
