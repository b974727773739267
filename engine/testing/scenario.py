"""Given these events, when this command, then those events: tests of aggregates and projections.

Rules: a scenario runs the real handlers and appliers, in the way in which the engine runs them and
without an engine, a loop or a store: events are encoded, decoded and folded as copies, and a
handler that changes the state is caught. Time and ids are the test's. A scenario never changes:
`when` gives a new one, so that a beginning can be shared by many tests.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, cast

import msgspec

from ..errors import Rejected, UsageError
from ..limits import Limits
from ..model.aggregate import Aggregate, CommandHandler, Context
from ..model.codec import EventRegistry
from ..model.decisions import Claim, Decision, UniqueValue, opened
from ..model.difference import difference
from ..model.ids import as_id, check_id
from ..model.messages import Command, Event, Meta
from ..model.process import arrival, refusal_of
from ..model.returned import as_events, check_declared
from ..model.timers import Timer
from .clocks import ManualClock, SequentialIds, microseconds
from .folded import TEST_ID, Folded, deliveries
from .pending import NOTHING_PENDING, Pending
from .shown import called, fail, listed, shown_state

# What a test of the domain needs can all be taken from here.
__all__ = [
    "Decided",
    "Folded",
    "ManualClock",
    "Passed",
    "Scenario",
    "SequentialIds",
    "claim_refusal",
    "claimed",
    "deliveries",
    "given",
]

A = TypeVar("A", bound=Aggregate)

NO_DECISION: Decision[Any, Any] = Decision()


def given(aggregate: type[A], *events: Event, aggregate_id: str = TEST_ID) -> Scenario[A]:
    """Begin with an aggregate that has these events; with none, it does not exist yet.

    Its id is the one that the first command names, unless `aggregate_id` says another.
    """
    return Scenario(aggregate, events, aggregate_id)


class Scenario(Generic[A]):
    """An aggregate with a history."""

    def __init__(
        self,
        aggregate: type[A],
        events: Sequence[Event],
        aggregate_id: str,
        pending: Pending = NOTHING_PENDING,
    ) -> None:
        cls: Any = aggregate
        if not isinstance(cls, type) or not hasattr(
            getattr(cls, "__definition__", None), "appliers"
        ):
            raise UsageError(
                f"given(...) takes a class of aggregates first, and not {called(aggregate)}: a "
                f"projection is tested with Folded, a reactor with foldline.testing.reactions"
            )
        self._aggregate = aggregate
        self._pending = pending
        self._registry = EventRegistry(aggregate.__definition__.appliers)
        self._id = aggregate_id
        self.history: tuple[Event, ...] = tuple(events)
        """All events that it has."""
        self.state: A = self._fold()
        """What they come to."""

    def _fold(self, aggregate_id: str | None = None) -> A:
        state = self._aggregate(id=aggregate_id or self._id)
        for event in cast("Sequence[Any]", self.history):
            if not isinstance(event, Event):
                raise UsageError(
                    f"given(...) takes events behind the class, each by itself, as given(Order, "
                    f"Placed(...), Paid()), and not {called(event)}"
                )
            apply = self._aggregate.__definition__.appliers.get(type(event))
            if apply is None:
                raise UsageError(
                    f"nothing in {self._aggregate.__name__} applies {type(event).__name__}: an "
                    f"event of an older version is given as what its upcaster makes of it"
                )
            apply(state, self._registry.copy(event))
            state.version += 1
        return state

    def when(
        self,
        command: Command | Event,
        *,
        meta: Meta | None = None,
        resources: Mapping[type, object] | None = None,
        now: datetime | int | None = None,
        key: str | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        principal: str | None = None,
        headers: Mapping[str, str] | None = None,
        taken: Sequence[UniqueValue] = (),
    ) -> Decided[A]:
        """Let the aggregate decide a command; a process manager, an event of others.

        `meta` is that of an event: where it stands, if the manager looks at that.
        `now` is an aware datetime, or µs since 1970-01-01 UTC. If it is not given, it is the time
        of what came before, and 1970 at first. New ids are `id-1`, `id-2` ….
        `taken` are values that other aggregates hold, so that a claim of one is refused.

        What a handler raises besides Rejected comes through. Raises AssertionError if it changed
        the state, and UsageError if the aggregate does not handle the command. InvalidInput is for
        an id that no aggregate can have.
        """
        __tracebackhide__ = True  # pytest shows the test's own line
        trial = self._trial(command, meta)
        pending = self._pending.at(None if now is None else microseconds(now))
        if trial.handler.is_async:
            raise UsageError(
                f"{trial.handler.decide.__qualname__} is async: write `await ....when_async(...)`"
            )
        about = (key, correlation, causation, principal, headers)
        context = Context(pending.now, SequentialIds().new_id, *about)
        try:
            trial.returned = trial.call(context, resources)
        except Rejected as rejected:
            trial.rejection = rejected
        return self._decision(trial, taken, pending)

    async def when_async(
        self,
        command: Command | Event,
        *,
        meta: Meta | None = None,
        resources: Mapping[type, object] | None = None,
        now: datetime | int | None = None,
        key: str | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        principal: str | None = None,
        headers: Mapping[str, str] | None = None,
        taken: Sequence[UniqueValue] = (),
    ) -> Decided[A]:
        """Like `when`, for a handler that is `async def`."""
        __tracebackhide__ = True  # pytest shows the test's own line
        trial = self._trial(command, meta)
        pending = self._pending.at(None if now is None else microseconds(now))
        about = (key, correlation, causation, principal, headers)
        context = Context(pending.now, SequentialIds().new_id, *about)
        try:
            returned = trial.call(context, resources)
            trial.returned = await returned if inspect.isawaitable(returned) else returned
        except Rejected as rejected:
            trial.rejection = rejected
        return self._decision(trial, taken, pending)

    def when_rejected(
        self,
        command: Command,
        code: str,
        message: str = "",
        *,
        resources: Mapping[type, object] | None = None,
    ) -> Decided[A]:
        """Let a process manager decide what follows if a command that it gave is rejected.

        Raises UsageError if it has no method for that.
        """
        __tracebackhide__ = True  # pytest shows the test's own line
        told = refusal_of(self._aggregate, self._id, command, Rejected(code, message))
        if told is None:
            raise UsageError(
                f"{self._aggregate.__name__} has no method with @when_rejected for a rejected "
                f"{type(command).__name__}"
            )
        return self.when(told, resources=resources)

    def _trial(self, message: Command | Event, meta: Meta | None) -> _Trial:
        sent: Any = message
        if not isinstance(sent, Command | Event):
            raise UsageError(f"when(...) takes a command, as Pay(...), and not {called(sent)}")
        command = message if isinstance(message, Command) else self._arrival(message, meta)
        handler = self._aggregate.__definition__.handlers.get(type(command))
        if handler is None:
            raise UsageError(f"{self._aggregate.__name__} handles no {type(command).__name__}")
        named = as_id(getattr(command, handler.id_field))
        check_id(named)
        state = self._fold(named if self._id == TEST_ID else None)
        return _Trial(handler, state, command, shown_state(state))

    def _arrival(self, event: Event, meta: Meta | None) -> Command:
        """Give the command that an event becomes for this instance."""
        name = self._aggregate.__name__
        routed = arrival(self._aggregate, event, meta or Meta(f"{TEST_ID}:1", 1, 1, 0))
        instance = None if routed is None else getattr(routed, "instance")  # noqa: B009 - of any
        if routed is None or self._id not in (instance, TEST_ID):
            raise UsageError(
                f"the event is for instance {instance!r} of {name}, and this one is {self._id!r}: "
                f"write given({name}, ..., aggregate_id=...), or give the event its meta"
            )
        return routed

    def when_time_passes(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> Passed[A]:
        """Let time pass, after which timers are due that the aggregate has set before.

        They are not run: send their commands with `when`, to this aggregate or to another one.
        """
        passed = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        commands, pending = self._pending.due_after(passed.total_seconds())
        return Passed(self._aggregate, self.history, self._id, pending, commands)

    def _decision(
        self, trial: _Trial, taken: Sequence[UniqueValue], pending: Pending
    ) -> Decided[A]:
        __tracebackhide__ = True  # pytest shows the test's own line
        handler = trial.handler
        given, reply = trial.returned, None
        claims: Sequence[UniqueValue] = ()
        if handler.gives_decisions and trial.rejection is None:
            where = handler.decide.__qualname__
            given, reply, _, claims = opened(where, handler.reply, trial.returned, Limits())
        events = tuple(as_events(handler, given))
        if trial.rejection is None:
            check_declared(handler, trial.returned)
        before, after = trial.before, shown_state(trial.state)
        if after != before:
            fail(
                f"{handler.decide.__qualname__} changed the state; a handler returns events, and "
                f"appliers change the state",
                [str(change) for change in difference(self._fold(trial.state.id), trial.state)]
                or ["before: " + before, "after:  " + after],
            )
        rejection = trial.rejection or claim_refusal(claims, taken)
        found = self._aggregate, self.history, trial.state.id, pending
        if rejection is not None:
            return Decided(*found, (), rejection, None, NO_DECISION)
        where, version = handler.decide.__qualname__, len(self.history) + 1
        pending = pending.decided(where, trial.returned, version)
        found = self._aggregate, (*self.history, *events), trial.state.id, pending
        decided = isinstance(trial.returned, Decision)
        whole: Decision[Any, Any] = trial.returned if decided else NO_DECISION
        decision = msgspec.structs.replace(whole, claims=tuple(claims))
        return Decided(*found, events, None, reply, decision)


class _Trial(msgspec.Struct):
    """One run of a handler."""

    handler: CommandHandler
    state: Aggregate
    command: Command
    before: str
    """The state before it, as text."""
    returned: Any = None
    rejection: Rejected | None = None

    def call(self, context: Context, resources: Mapping[type, object] | None) -> Any:
        try:
            arguments = self.handler.arguments(lambda: context, resources or {})
        except KeyError as missing:
            name = getattr(missing.args[0], "__name__", missing.args[0])
            raise UsageError(
                f"{self.handler.decide.__qualname__} takes a {name}: give when(..., "
                f"resources={{{name}: ...}})"
            ) from None
        return self.handler.decide(self.state, self.command, *arguments)


class Decided(Scenario[A]):
    """What a command led to; a scenario itself, to go on with."""

    def __init__(
        self,
        aggregate: type[A],
        history: Sequence[Event],
        aggregate_id: str,
        pending: Pending,
        events: tuple[Event, ...],
        rejection: Rejected | None,
        reply: Any,
        decision: Decision[Any, Any],
    ) -> None:
        super().__init__(aggregate, history, aggregate_id, pending)
        self.events = events
        """The events of the command."""
        self.rejection = rejection
        """Why it was rejected, if it was."""
        self.reply = reply
        """What the handler replied."""
        self.claims = tuple(decision.claims)
        """What it claimed and released."""
        self.timers = tuple(decision.timers)
        """What it set and cancelled."""
        self.commands = tuple(decision.commands)
        """What it leads to at once."""

    def then(self, *events: Event) -> Decided[A]:
        """Expect exactly these events, in this order; with none, expect that nothing happened."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.rejection is not None:
            fail("the command was rejected", [f"expected: {listed(events)}", self._found()])
        if self.events != events:
            fail("other events came", _difference(events, self.events))
        return self

    def then_rejected(self, code: str, **details: Any) -> Decided[A]:
        """Expect a rejection with this code, and with these details where they are given."""
        __tracebackhide__ = True  # pytest shows the test's own line
        rejection = self.rejection
        if rejection is None or rejection.code != code:
            fail("it was to be rejected", [f"expected: rejected as {code!r}", self._found()])
        found = {name: rejection.details.get(name) for name in details}
        if found != details:
            fail(f"{code} has other details", [f"expected: {details}", f"found:    {found}"])
        return self

    def then_reply(self, reply: Any) -> Decided[A]:
        """Expect this reply."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.rejection is not None:
            fail("the command was rejected", [f"expected: the reply {reply!r}", self._found()])
        if self.reply != reply:
            fail("another reply came", [f"expected: {reply!r}", f"found:    {self.reply!r}"])
        return self

    def then_claims(self, *claims: UniqueValue) -> Decided[A]:
        """Expect exactly these claims and releases, in any order; with none, expect none."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.rejection is not None:
            fail("the command was rejected", [f"expected: {listed(claims)}", self._found()])
        if {*map(claimed, claims)} != {*map(claimed, self.claims)}:
            lines = [f"expected: {listed(claims)}", f"found:    {listed(self.claims)}"]
            fail("other claims came", lines)
        return self

    def then_timers(self, *timers: Timer) -> Decided[A]:
        """Expect that exactly these are set and cancelled, in any order; with none, expect none."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.rejection is not None:
            fail("the command was rejected", [f"expected: {listed(timers)}", self._found()])
        rest = list(self.timers)
        if len(timers) != len(rest) or not all(_struck(rest, timer) for timer in timers):
            lines = [f"expected: {listed(timers)}", f"found:    {listed(self.timers)}"]
            fail("other timers came", lines)
        return self

    def then_commands(self, *commands: Command) -> Decided[A]:
        """Expect exactly these commands at once, in this order; with none, expect none."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.rejection is not None:
            fail("the command was rejected", [f"expected: {listed(commands)}", self._found()])
        if self.commands != commands:
            lines = [f"expected: {listed(commands)}", f"found:    {listed(self.commands)}"]
            fail("other commands came", lines)
        return self

    def _found(self) -> str:
        if self.rejection is not None:
            return f"found:    rejected as {self.rejection.code!r}: {self.rejection.message}"
        return f"found:    {listed(self.events)}"


class Passed(Scenario[A]):
    """Time that has passed; a scenario itself, to go on with."""

    def __init__(
        self,
        aggregate: type[A],
        history: Sequence[Event],
        aggregate_id: str,
        pending: Pending,
        due: tuple[Command, ...],
    ) -> None:
        super().__init__(aggregate, history, aggregate_id, pending)
        self.due = due
        """The commands of timers that are due now, in the order of their times."""

    def then_due(self, *commands: Command) -> Passed[A]:
        """Expect exactly these commands to be due, in this order; with none, expect none."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.due != commands:
            lines = [f"expected: {listed(commands)}", f"found:    {listed(self.due)}"]
            fail("other commands are due", lines)
        return self


def claimed(value: UniqueValue) -> tuple[type[UniqueValue], str, str]:
    """Give what counts of a claim: its code and message go with the rejection."""
    return type(value), value.name, value.value


def _struck(rest: list[Timer], timer: Timer) -> bool:
    """Strike a timer out of a list; tell whether it was there."""
    if timer not in rest:
        return False
    rest.remove(timer)
    return True


def claim_refusal(claims: Sequence[UniqueValue], taken: Sequence[UniqueValue]) -> Rejected | None:
    """Give the rejection of the first claim of a value that others hold."""
    theirs = {(each.name, each.value) for each in taken}
    wanted = (each for each in claims if isinstance(each, Claim))
    return next((c.refusal() for c in wanted if (c.name, c.value) in theirs), None)


def _difference(expected: Sequence[Event], found: Sequence[Event]) -> list[str]:
    """Give a line per event, marked where the two lists differ."""
    lines: list[str] = []
    for one, other in itertools.zip_longest(expected, found):
        if one == other:
            lines.append(f"  {one!r}")
            continue
        lines += [f"- {one!r}"] if one is not None else []
        lines += [f"+ {other!r}"] if other is not None else []
    return [*lines, "(- expected, + found)"]
