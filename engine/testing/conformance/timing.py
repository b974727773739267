"""Cases of a log: the timers that an append sets, drops and has fired, in its own transaction."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ...errors import StoreFailed
from ...model.stored import EventType
from ...stores.contract.log import (
    Appended,
    AppendRequest,
    Batch,
    Extra,
    Store,
    StreamConflict,
    Write,
)
from ...stores.contract.timers import (
    BEGINNING,
    FOREVER,
    DropTimer,
    FiredTimer,
    SetTimer,
    SettledTimer,
    TimerGone,
    WaitingTimer,
)
from .given_log import ADDED, LogCases, append, event, feed, needing, numbers, request

__all__ = ["TimingCases"]


def _set(stream: str, name: str, due: int, payload: bytes = b"{}") -> SetTimer:
    return SetTimer(stream, name, due, "expire", payload, b"")


def _with(stream: str, expected: int, number: int, *extras: Extra) -> AppendRequest:
    return AppendRequest([Write(stream, expected, [event(number)])], extras)


async def _all(store: Store) -> Sequence[WaitingTimer]:
    """Read all timers, in pages of two."""
    found: list[WaitingTimer] = []
    after = "", ""
    while page := await store.read_timers(after, timers_max=2):
        found += page
        after = page[-1].key
    return found


async def _due(store: Store, until: int = FOREVER) -> Sequence[str]:
    """Read the names of what is due, in pages of two."""
    found: list[WaitingTimer] = []
    after = BEGINNING
    while page := await store.read_due(after, until=until, timers_max=2):
        found += page
        after = page[-1].place
    return [f"{timer.stream}/{timer.name}" for timer in found]


@needing("timers")
class TimingCases(LogCases):
    """Timers of an append."""

    async def test_a_new_log_has_no_timers(self, store: Store) -> None:
        """Nothing waits, and asking is no error."""
        assert await store.read_due(until=FOREVER, timers_max=10) == []
        assert await store.read_timers(timers_max=10) == []
        assert await store.count_timers() == (0, 0, 0)

    async def test_a_timer_is_set_with_the_events(self, store: Store) -> None:
        """All of it comes back, with position and version of its stream's first event."""
        await append(store, request("b:1", 0, 0), request("a:1", 0, 0))
        payload = b'{"id":"\xc3\xa9\\u0000"}'
        timer = SetTimer("a:1", "pay", 2**52 + 1, "expire-order", payload, b"{}")
        writes = [Write("a:1", 1, [event(1), event(2)])]
        outcomes = await append(store, AppendRequest(writes, [timer]))

        assert outcomes == [Appended(4, (3,))]
        expected = WaitingTimer(
            "a:1",
            "pay",
            2**52 + 1,
            3,
            2,
            "expire-order",
            timer.payload,
            b"{}",
            2**52 + 1,
        )
        assert await _all(store) == [expected]
        assert await store.count_timers() == (1, 0, 0)

    async def test_a_timer_is_at_the_first_event_of_its_own_stream(self, store: Store) -> None:
        """A request of several streams sets one for each."""
        writes = [Write("a:1", 0, [event(1), event(2)]), Write("a:2", 0, [event(3)])]
        extras = [_set("a:1", "t", 5), _set("a:2", "t", 5)]
        await append(store, AppendRequest(writes, extras))

        assert [(t.stream, t.position, t.version) for t in await _all(store)] == [
            ("a:1", 1, 1),
            ("a:2", 3, 1),
        ]

    async def test_a_timer_that_is_set_again_is_replaced(self, store: Store) -> None:
        """In a later batch, in the same one, and that of another name or stream is not."""
        committed = await store.append(
            Batch([_with("a:1", 0, 1, _set("a:1", "t", 5), _set("a:1", "u", 6))], 0)
        )
        assert committed.timers == 2
        committed = await store.append(
            Batch(
                [
                    _with("a:1", 1, 2, _set("a:1", "t", 7)),
                    _with("a:1", 2, 3, _set("a:1", "t", 8)),
                    _with("a:2", 0, 4, _set("a:2", "t", 9)),
                ],
                0,
            )
        )
        assert committed.timers == 1
        assert [(t.stream, t.name, t.due, t.position) for t in await _all(store)] == [
            ("a:1", "t", 8, 3),
            ("a:1", "u", 6, 1),
            ("a:2", "t", 9, 4),
        ]

    async def test_a_timer_is_dropped_with_the_events(self, store: Store) -> None:
        """One that is not there is no error; another stream's of that name stays."""
        await append(
            store,
            _with("a:1", 0, 1, _set("a:1", "t", 5)),
            _with("a:2", 0, 2, _set("a:2", "t", 5)),
        )
        dropped = [DropTimer("a:1", "t"), DropTimer("a:1", "u")]
        committed = await store.append(Batch([_with("a:1", 1, 3, *dropped)], 0))

        assert committed.timers == -1
        assert await _due(store) == ["a:2/t"]

    async def test_what_is_set_and_dropped_in_one_batch_is_not_there(self, store: Store) -> None:
        """The last request says what stands."""
        committed = await store.append(
            Batch(
                [
                    _with("a:1", 0, 1, _set("a:1", "t", 5)),
                    _with("a:1", 1, 2, DropTimer("a:1", "t")),
                ],
                0,
            )
        )
        assert committed.timers == 0
        assert await _all(store) == []

    async def test_due_ones_are_in_order_of_their_time_then_position(self, store: Store) -> None:
        """And those that are not due yet are left out."""
        await append(
            store,
            _with("a:1", 0, 1, _set("a:1", "b", 9), _set("a:1", "a", 9)),
            _with("a:2", 0, 2, _set("a:2", "t", 5), _set("a:2", "u", 5)),
            _with("a:0", 0, 3, _set("a:0", "t", 9)),
            _with("a:3", 0, 4, _set("a:3", "t", 11)),
        )

        assert await _due(store, 4) == []
        assert await _due(store, 5) == ["a:2/t", "a:2/u"]
        assert await _due(store, 10) == ["a:2/t", "a:2/u", "a:1/a", "a:1/b", "a:0/t"]
        assert len(await _due(store)) == 6
        after = 10, FOREVER, "", ""
        [later] = await store.read_due(after, until=FOREVER, timers_max=1)
        assert later.key == ("a:3", "t")

    async def test_a_command_takes_its_timer_away(self, store: Store) -> None:
        """Also where the timer is of another stream, which the request does not write to."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5), _set("a:1", "u", 5)))
        committed = await store.append(Batch([_with("b:1", 0, 2, FiredTimer("a:1", "t", 1))], 0))

        assert committed.outcomes == [Appended(2, (1,))]
        assert committed.timers == -1
        assert await _due(store) == ["a:1/u"]

    @pytest.mark.parametrize("how", ["dropped", "replaced", "fired", "never"])
    async def test_the_command_of_a_timer_that_is_gone_is_refused(
        self, store: Store, how: str
    ) -> None:
        """Nothing of it is written, nor of what was decided on it; others lose nothing."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5)))
        change: dict[str, Extra] = {
            "dropped": DropTimer("a:1", "t"),
            "replaced": _set("a:1", "t", 6),
            "fired": FiredTimer("a:1", "t", 1),
            "never": _set("a:1", "other", 6),
        }
        await append(store, _with("a:1", 1, 2, change[how]))
        fired = FiredTimer("a:1", "missing" if how == "never" else "t", 1)
        outcomes = await append(
            store,
            _with("b:1", 0, 3, fired, _set("b:1", "next", 9)),
            request("b:1", 1, 4),
            request("b:2", 0, 5),
        )

        assert outcomes == [TimerGone(0), StreamConflict("b:1", 1, 0), Appended(3, (1,))]
        assert numbers(await feed(store)) == [1, 2, 5]
        assert "b:1/next" not in await _due(store)

    async def test_a_timer_is_fired_once_in_a_batch(self, store: Store) -> None:
        """The first has it; one that is set in the batch can be fired in it."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5)))
        outcomes = await append(
            store,
            _with("b:1", 0, 2, FiredTimer("a:1", "t", 1)),
            _with("b:2", 0, 3, FiredTimer("a:1", "t", 1)),
            _with("a:1", 1, 4, _set("a:1", "t", 5)),
            _with("b:3", 0, 5, FiredTimer("a:1", "t", 3)),
        )

        assert outcomes == [Appended(2, (1,)), TimerGone(0), Appended(3, (2,)), Appended(4, (1,))]
        assert await _all(store) == []

    async def test_a_command_sets_its_own_timer_again(self, store: Store) -> None:
        """It is taken away first, and set then."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5)))
        extras: list[Extra] = [FiredTimer("a:1", "t", 1), _set("a:1", "t", 7)]
        outcomes = await append(store, _with("a:1", 1, 2, *extras))

        assert outcomes == [Appended(2, (2,))]
        assert [(t.due, t.position) for t in await _all(store)] == [(7, 2)]

    async def test_a_request_that_conflicts_changes_no_timer(self, store: Store) -> None:
        """It is refused whole."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5)))
        await append(
            store,
            _with("a:1", 7, 2, DropTimer("a:1", "t"), _set("a:1", "u", 5)),
            _with("b:1", 3, 3, FiredTimer("a:1", "t", 1)),
        )

        assert await _due(store) == ["a:1/t"]

    async def test_a_batch_that_fails_changes_no_timer(self, store: Store) -> None:
        """Timers are in the transaction of the events."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5)))
        changed = EventType(ADDED.name, ADDED.version, "ffff")
        bad = AppendRequest([Write("b:1", 0, [event(3, changed)])])
        with pytest.raises(StoreFailed):
            await append(store, _with("a:1", 1, 2, DropTimer("a:1", "t"), _set("a:1", "u", 5)), bad)

        assert await _due(store) == ["a:1/t"]

    async def test_settled_timers_are_taken_away(self, store: Store) -> None:
        """Only those that stand as they were read; the number of them is given."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5), _set("a:1", "u", 5)))
        await append(store, _with("a:1", 1, 2, _set("a:1", "u", 6)))
        settled = [SettledTimer("a:1", "t", 1), SettledTimer("a:1", "u", 1)]

        assert await store.settle_timers([*settled, SettledTimer("a:1", "v", 1)]) == 1
        assert await store.settle_timers(settled) == 0
        assert await _due(store) == ["a:1/u"]

    async def test_settled_timers_wait_again_or_are_parked(self, store: Store) -> None:
        """What is parked is not due any more; the command of neither is lost."""
        names = "tuv"
        await append(store, _with("a:1", 0, 1, *(_set("a:1", name, 5) for name in names)))
        settled = [
            SettledTimer("a:1", "t", 1, 50, 2, cause="it failed"),
            SettledTimer("a:1", "u", 1, 60, 6, parked=True, cause="é"),
        ]

        assert await store.settle_timers(settled) == 0
        assert await _due(store, 5) == ["a:1/v"]
        assert await _due(store) == ["a:1/v", "a:1/t"]
        assert await store.count_timers() == (3, 1, 0)
        first, second, _ = await _all(store)
        assert (first.next, first.due, first.attempts, first.parked) == (50, 5, 2, False)
        assert (second.attempts, second.parked, second.cause) == (6, True, "é")
        outcomes = await append(store, _with("b:1", 0, 2, FiredTimer("a:1", "u", 1)))
        assert outcomes == [Appended(2, (1,))]
        assert await store.count_timers() == (2, 0, 0)
        await store.settle_timers([SettledTimer("a:1", "v", 1, 5, parked=True, cause="no")])
        assert await store.count_timers() == (1, 0, 1)

    async def test_a_timer_that_is_set_again_is_parked_no_more(self, store: Store) -> None:
        """It begins anew."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5)))
        await store.settle_timers([SettledTimer("a:1", "t", 1, 60, 6, parked=True, cause="x")])
        await append(store, _with("a:1", 1, 2, _set("a:1", "t", 7)))

        [timer] = await _all(store)
        assert (timer.parked, timer.attempts, timer.cause, timer.next) == (False, 0, "", 7)
        assert await _due(store) == ["a:1/t"]

    async def test_timers_are_there_after_reopening(self, store: Store) -> None:
        """They are in the log's own place."""
        await append(store, _with("a:1", 0, 1, _set("a:1", "t", 5)))
        again = await self.reopened(store)

        assert await _due(again) == ["a:1/t"]
        outcomes = await append(again, _with("b:1", 0, 2, FiredTimer("a:1", "t", 1)))
        assert outcomes == [Appended(2, (1,))]
        assert await _all(again) == []
        await again.close()

    async def test_many_timers_are_set_and_fired_at_once(self, store: Store) -> None:
        """No number falls between the statements that a store may have prepared."""
        await append(
            store, *(_with(f"a:{n}", 0, n, _set(f"a:{n}", "t", 5 + n % 7)) for n in range(1_000))
        )
        assert await store.count_timers() == (1_000, 0, 0)
        fired = (FiredTimer(f"a:{n}", "t", n + 1) for n in range(1_000))
        requests = [_with(f"b:{n}", 0, n, each) for n, each in enumerate(fired)]

        assert {type(outcome) for outcome in await append(store, *requests)} == {Appended}
        assert await store.count_timers() == (0, 0, 0)
