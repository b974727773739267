"""Given several aggregates with their events, when one command, then events for each of them.

Rules: as in `scenario`: the real function and the real appliers are run without an engine, on
copies, and a function that changes a state is caught. An aggregate that the command names and the
test does not give has no events yet. Nothing here changes: `when` gives a new beginning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from ..errors import InvalidInput, Rejected, UsageError
from ..limits import Limits
from ..model.aggregate import Aggregate, Context
from ..model.boundary import selects
from ..model.decisions import UniqueValue
from ..model.ids import as_id
from ..model.joint import JointHandler, Share, joint_handlers_of, shares_of
from ..model.messages import Command, Event
from .clocks import SequentialIds, microseconds
from .scenario import Scenario, claim_refusal, claimed
from .shown import fail, listed, shown_state

__all__ = ["JointlyDecided", "Together", "given_all"]

A = TypeVar("A", bound=Aggregate)


def given_all(*scenarios: Scenario[Any]) -> Together:
    """Begin with several aggregates: `given_all(given(Account, ..., aggregate_id="a"), ...)`."""
    return Together({_stream_of(scenario.state): scenario for scenario in scenarios})


class Together:
    """Several aggregates with their histories."""

    def __init__(self, scenarios: Mapping[str, Scenario[Any]]) -> None:
        self._scenarios = scenarios

    def aggregate(self, aggregate: type[A], aggregate_id: str) -> Scenario[A]:
        """Give one of them, to look at or to go on with alone."""
        stream = f"{aggregate.__definition__.kind}:{aggregate_id}"
        return self._scenarios.get(stream) or Scenario(aggregate, (), aggregate_id)

    def when(
        self,
        decision: Callable[..., Any],
        command: Command,
        *,
        resources: Mapping[type, object] | None = None,
        now: datetime | int = 0,
        key: str | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        principal: str | None = None,
        headers: Mapping[str, str] | None = None,
        taken: Sequence[UniqueValue] = (),
    ) -> JointlyDecided:
        """Let a function that is marked with `@decides` decide a command.

        The arguments are those of `Scenario.when`. What the function raises besides Rejected comes
        through. Raises AssertionError if it changed a state, HandlerFailed if what it gives cannot
        be stored, UsageError if it does not decide the command, and InvalidInput if the command
        names an aggregate twice.
        """
        __tracebackhide__ = True  # pytest shows the test's own line
        trial = self._trial(decision, command)
        if trial.handler.is_async:
            raise UsageError(
                f"{trial.handler.decide.__qualname__} is async: write `await ....when_async(...)`"
            )
        about = (key, correlation, causation, principal, headers)
        context = Context(microseconds(now), SequentialIds().new_id, *about)
        try:
            trial.returned = trial.call(context, resources)
        except Rejected as rejected:
            trial.rejection = rejected
        return self._decided(trial, taken)

    async def when_async(
        self,
        decision: Callable[..., Any],
        command: Command,
        *,
        resources: Mapping[type, object] | None = None,
        now: datetime | int = 0,
        key: str | None = None,
        correlation: str | None = None,
        causation: str | None = None,
        principal: str | None = None,
        headers: Mapping[str, str] | None = None,
        taken: Sequence[UniqueValue] = (),
    ) -> JointlyDecided:
        """Like `when`, for a function that is `async def`."""
        __tracebackhide__ = True  # pytest shows the test's own line
        trial = self._trial(decision, command)
        about = (key, correlation, causation, principal, headers)
        context = Context(microseconds(now), SequentialIds().new_id, *about)
        try:
            returned = trial.call(context, resources)
            trial.returned = await returned if inspect.isawaitable(returned) else returned
        except Rejected as rejected:
            trial.rejection = rejected
        return self._decided(trial, taken)

    def _trial(self, decision: Callable[..., Any], command: Command) -> _Trial:
        (handler,) = joint_handlers_of([decision])
        if type(command) is not handler.command:
            raise UsageError(
                f"{handler.decide.__qualname__} decides {handler.command.__name__}, and not "
                f"{type(command).__name__}"
            )
        states: list[Aggregate] = []
        for party in handler.parties:
            for aggregate_id in map(as_id, party.ids(command)):
                known = self.aggregate(party.aggregate, aggregate_id)
                # Folded anew: what the function changes is changed nowhere else.
                states.append(Scenario(party.aggregate, known.history, aggregate_id).state)
        streams = [_stream_of(state) for state in states]
        if len({*streams}) < len(streams):
            raise InvalidInput(
                f"{type(command).__name__} names an aggregate twice: {', '.join(streams)}"
            )
        return _Trial(handler, states, command, [shown_state(state) for state in states])

    def _decided(self, trial: _Trial, taken: Sequence[UniqueValue]) -> JointlyDecided:
        __tracebackhide__ = True  # pytest shows the test's own line
        shares: Sequence[Share] = ()
        reply: Any = None
        if trial.rejection is None:
            shares, reply, _ = shares_of(trial.handler, trial.states, trial.returned, Limits())
        for state, before in zip(trial.states, trial.before, strict=True):
            if shown_state(state) != before:
                fail(
                    f"{trial.handler.decide.__qualname__} changed the state of "
                    f"{_stream_of(state)}; it returns events, and appliers change the state",
                    ["before: " + before, "after:  " + shown_state(state)],
                )
        claims = [claim for share in shares for claim in share.claims]
        rejection = trial.rejection or claim_refusal(claims, taken)
        if rejection is not None:
            return JointlyDecided(self._scenarios, {}, rejection, None, {})
        after = dict(self._scenarios)
        for share in shares:
            state = trial.states[share.place]
            if type(state).__definition__.tags:
                continue  # it folds by tags, as do the others below
            history = (*self.aggregate(type(state), state.id).history, *share.events)
            after[_stream_of(state)] = Scenario(type(state), history, state.id)
        decided = [event for share in shares for event in share.events]
        self._fold_tagged(after, [*(s.state for s in after.values()), *trial.states], decided)
        named = {_stream_of(trial.states[share.place]): share for share in shares}
        return JointlyDecided(
            after,
            {stream: tuple(share.events) for stream, share in named.items()},
            None,
            reply,
            {stream: share.claims for stream, share in named.items() if share.claims},
        )

    def _fold_tagged(
        self, after: dict[str, Scenario[Any]], states: Sequence[Aggregate], decided: Sequence[Event]
    ) -> None:
        """Give each boundary the events with its tags."""
        for state in {_stream_of(state): state for state in states}.values():
            cls = type(state)
            found = [e for e in decided if selects(cls.__definition__, state.id, e)]
            if cls.__definition__.tags and found:
                history = (*self.aggregate(cls, state.id).history, *found)
                after[_stream_of(state)] = Scenario(cls, history, state.id)


class _Trial(msgspec.Struct):
    """One run of a function."""

    handler: JointHandler
    states: list[Aggregate]
    command: Command
    before: list[str]
    """The states before it, as text."""
    returned: Any = None
    rejection: Rejected | None = None

    def call(self, context: Context, resources: Mapping[type, object] | None) -> Any:
        handler = self.handler
        try:
            given = handler.arguments(lambda: context, resources or {})
        except KeyError as missing:
            name = getattr(missing.args[0], "__name__", missing.args[0])
            raise UsageError(
                f"{handler.decide.__qualname__} takes a {name}: give when(..., "
                f"resources={{{name}: ...}})"
            ) from None
        return handler.decide(self.command, *handler.states(self.command, self.states), *given)


class JointlyDecided(Together):
    """What a command led to; a beginning itself, to go on with."""

    def __init__(
        self,
        scenarios: Mapping[str, Scenario[Any]],
        events: Mapping[str, tuple[Event, ...]],
        rejection: Rejected | None,
        reply: Any,
        claims: Mapping[str, Sequence[UniqueValue]],
    ) -> None:
        super().__init__(scenarios)
        self.events = events
        """The events of the command, by stream (`kind:id`), in the order of the log."""
        self.rejection = rejection
        """Why it was rejected, if it was."""
        self.reply = reply
        """What the function replied."""
        self.claims = claims
        """What each aggregate claimed and released, by stream."""

    def then(self, events: Mapping[str, Sequence[Event]]) -> JointlyDecided:
        """Expect exactly these events, by stream: `then({"account:a": [Withdrawn(5)], ...})`.

        With none, expect that nothing happened.
        """
        __tracebackhide__ = True  # pytest shows the test's own line
        expected = {stream: tuple(given) for stream, given in events.items() if given}
        if self.rejection is not None:
            fail("the command was rejected", [f"expected: {_shown(expected)}", self._found()])
        if self.events != expected:
            lines: list[str] = []
            for stream in dict.fromkeys((*expected, *self.events)):
                wanted, found = expected.get(stream, ()), self.events.get(stream, ())
                same = wanted == found
                lines += [f"  {stream}: {listed(found)}"] if same else []
                lines += [] if same else [f"- {stream}: {listed(wanted)}"]
                lines += [] if same else [f"+ {stream}: {listed(found)}"]
            fail("other events came", [*lines, "(- expected, + found)"])
        return self

    def then_rejected(self, code: str, **details: Any) -> JointlyDecided:
        """Expect a rejection with this code, and with these details where they are given."""
        __tracebackhide__ = True  # pytest shows the test's own line
        rejection = self.rejection
        if rejection is None or rejection.code != code:
            fail("it was to be rejected", [f"expected: rejected as {code!r}", self._found()])
        found = {name: rejection.details.get(name) for name in details}
        if found != details:
            fail(f"{code} has other details", [f"expected: {details}", f"found:    {found}"])
        return self

    def then_reply(self, reply: Any) -> JointlyDecided:
        """Expect this reply."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.rejection is not None:
            fail("the command was rejected", [f"expected: the reply {reply!r}", self._found()])
        if self.reply != reply:
            fail("another reply came", [f"expected: {reply!r}", f"found:    {self.reply!r}"])
        return self

    def then_claims(self, claims: Mapping[str, Sequence[UniqueValue]]) -> JointlyDecided:
        """Expect exactly these claims and releases, by stream, in any order."""
        __tracebackhide__ = True  # pytest shows the test's own line
        if self.rejection is not None:
            fail("the command was rejected", [f"expected: {_shown(claims)}", self._found()])
        expected = {stream: {*map(claimed, given)} for stream, given in claims.items() if given}
        found = {stream: {*map(claimed, given)} for stream, given in self.claims.items()}
        if expected != found:
            lines = [f"expected: {_shown(claims)}", f"found:    {_shown(self.claims)}"]
            fail("other claims came", lines)
        return self

    def _found(self) -> str:
        if self.rejection is not None:
            return f"found:    rejected as {self.rejection.code!r}: {self.rejection.message}"
        return f"found:    {_shown(self.events)}"


def _stream_of(state: Aggregate) -> str:
    return f"{type(state).__definition__.kind}:{state.id}"


def _shown(found: Mapping[str, Sequence[object]]) -> str:
    return "; ".join(f"{stream}: {listed(given)}" for stream, given in found.items()) or "nothing"
