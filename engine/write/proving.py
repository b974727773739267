"""Debug mode: finds handlers that change the state, and appliers that fold otherwise each time.

Rules: before a handler runs, its state is copied, and afterwards compared with the copy; what its
events lead to is folded a second time from that copy. A difference fails the command, and the
error names the method and the field. It costs a copy of the state or two per command, so it is for
tests and development. A state that cannot be copied is compared as text.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from ..errors import HandlerFailed, Rejected
from ..model.aggregate import Aggregate, CommandHandler
from ..model.returned import check_declared
from ..model.sameness import first_difference
from .kind import EventBinding
from .sampling import Samples, decide_and_look

__all__ = ["Refold", "Refolds", "decide_and_compare", "decide_checked"]


def decide_checked(
    handler: CommandHandler,
    states: Sequence[Aggregate],
    decide: Callable[[], Any],
    samples: Samples | None,
    *,
    debug: bool,
) -> Any:
    """Run a handler; an async one gives its awaitable.

    Raises what the handler raises. If it has changed one of the states, raises HandlerFailed in
    debug mode; without, raises `Caught` if there are `samples`, to which this decision belongs.
    """
    if debug:
        for state in states:
            decide = partial(decide_and_compare, handler, state, decide)
        return decide()
    return decide() if samples is None else decide_and_look(handler, states, decide, samples)


def decide_and_compare(handler: CommandHandler, state: Aggregate, decide: Callable[[], Any]) -> Any:
    """Run a handler; raise HandlerFailed where it has changed the state. An async one is awaited.

    Raises what the handler raises, unless it changed the state before.
    """
    before = _Kept(state)

    def compare(*returned: object) -> None:
        where = before.difference(state)
        if where is not None:
            raise HandlerFailed(
                f"{handler.decide.__qualname__} changed the state, at {where}: a handler returns "
                f"events, and only appliers change the state. Nothing was written. Mend the "
                f"handler; Engine(debug=True) has found it."
            )
        for each in returned:
            check_declared(handler, each)

    if handler.is_async:
        return _await_and_compare(decide, compare)
    try:
        returned = decide()
    except Rejected:
        compare()
        raise
    compare(returned)
    return returned


async def _await_and_compare(
    decide: Callable[[], Awaitable[Any]], compare: Callable[..., None]
) -> Any:
    try:
        returned = await decide()
    except Rejected:
        compare()
        raise
    compare(returned)
    return returned


class _Kept:
    """A state as it was."""

    def __init__(self, state: Aggregate) -> None:
        self.copy: Aggregate | None
        try:
            self.copy = copy.deepcopy(state)
        except Exception:
            self.copy, self._text = None, _as_text(state)

    def difference(self, state: Aggregate) -> str | None:
        """Give where a state is another than it was."""
        if self.copy is not None:
            return first_difference(self.copy, state)
        return None if self._text == _as_text(state) else "a field"


def _as_text(state: Aggregate) -> bytes:
    return msgspec.json.encode(state, enc_hook=repr)


class Refold:
    """Folds the events of one command a second time, from the state before them."""

    def __init__(self, state: Aggregate) -> None:
        self._copy = _Kept(state).copy

    def compare(
        self, state: Aggregate, folds: Sequence[tuple[Callable[[Any, Any], None], Any]]
    ) -> None:
        """Apply fresh events with their appliers; raise HandlerFailed where that differs."""
        again = self._copy
        if again is None:
            return
        for apply, event in folds:
            apply(again, event)
            again.version += 1
        where = first_difference(again, state)
        if where is not None:
            names = sorted({apply.__qualname__ for apply, _ in folds})
            raise HandlerFailed(
                f"{', '.join(names)}: the same events were folded twice, and the states differ at "
                f"{where}. An applier takes all it knows from the state and the event (no clock, "
                f"no random number, nothing shared). Nothing was written. Mend the applier; "
                f"Engine(debug=True) has found it."
            )


class Refolds:
    """Does so with the states of several, each with what it has folded."""

    def __init__(self, states: Sequence[Aggregate]) -> None:
        self._of = [(state, Refold(state)) for state in states]
        self._noted: list[tuple[Aggregate, EventBinding, bytes]] = []

    def note(self, state: Aggregate, binding: EventBinding, payload: bytes) -> None:
        """Keep what one of them has folded, as JSON."""
        self._noted.append((state, binding, payload))

    def compare(self) -> None:
        """Fold it again; raise HandlerFailed where that differs."""
        for state, refold in self._of:
            folds = [(b.apply, b.decode(p)) for own, b, p in self._noted if own is state]
            refold.compare(state, folds)
