"""Cases of a log: requests that have events for several streams, stored all or none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ...stores.contract.claims import ClaimTaken, ReleaseClaim, TakeClaim
from ...stores.contract.log import (
    Appended,
    AppendRequest,
    Extra,
    Store,
    StreamConflict,
    Write,
)
from .given_log import LogCases, append, event, feed, numbers, request, stream

__all__ = ["JointCases"]


def _joint(*writes: tuple[str, int, int], extras: Sequence[Extra] = ()) -> AppendRequest:
    """Give a request of one event a stream, each with the version expected and a number."""
    return AppendRequest(
        [Write(stream, expected, [event(number)]) for stream, expected, number in writes], extras
    )


class JointCases(LogCases):
    """Requests over several streams."""

    async def test_joint_requests_follow_each_other_in_a_batch(self, store: Store) -> None:
        """Each goes on from what the ones before it have brought to its streams."""
        await append(store, request("a:1", 0, 0))
        outcomes = await append(
            store,
            _joint(("a:1", 1, 1), ("b:1", 0, 2)),
            _joint(("b:1", 1, 3), ("c:1", 0, 4)),
            request("b:1", 2, 5),
            _joint(("c:1", 1, 6), ("a:1", 2, 7)),
        )

        assert outcomes == [
            Appended(3, (2, 1)),
            Appended(5, (2, 1)),
            Appended(6, (3,)),
            Appended(8, (2, 3)),
        ]
        assert numbers(await feed(store)) == [0, 1, 2, 3, 4, 5, 6, 7]
        assert numbers(await stream(store, "b:1")) == [2, 3, 5]

    async def test_a_joint_request_that_does_not_fit_costs_no_other_stream(
        self, store: Store
    ) -> None:
        """Others of the batch are appended, but not those behind it on its streams."""
        await append(store, *(request(f"{name}:1", 0, 0) for name in "abcd"))
        outcomes = await append(
            store,
            request("a:1", 1, 1),
            _joint(("b:1", 1, 2), ("c:1", 7, 3)),
            _joint(("b:1", 1, 4), ("d:1", 1, 5)),
            request("d:1", 1, 6),
            _joint(("a:1", 2, 7), ("e:1", 0, 8)),
        )

        assert outcomes == [
            Appended(5, (2,)),
            StreamConflict("c:1", 7, 1),
            StreamConflict("b:1", 1, 1),
            StreamConflict("d:1", 1, 1),
            Appended(7, (3, 1)),
        ]
        assert numbers(await feed(store, 4)) == [1, 7, 8]
        assert await append(store, _joint(("b:1", 1, 9), ("d:1", 1, 9))) == [Appended(9, (2, 2))]

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
    async def test_a_stream_that_went_on_refuses_it_whole(
        self, store: Store, order: tuple[int, ...]
    ) -> None:
        """Whichever it is, and whatever a store remembers of its versions."""
        await append(store, *(request(f"a:{n}", 0, n) for n in range(3)))
        await append(store, request("a:1", 1, 9))
        writes = [("a:0", 1, 3), ("a:1", 1, 4), ("b:1", 0, 5)]
        outcomes = await append(store, _joint(*(writes[place] for place in order)))

        assert outcomes == [StreamConflict("a:1", 1, 2)]
        assert numbers(await feed(store)) == [0, 1, 2, 9]

    async def test_a_stream_that_has_begun_refuses_it_whole(self, store: Store) -> None:
        """A stream begins once, also for a store that has forgotten it."""
        await append(store, request("a:1", 0, 1), request("b:1", 0, 2))
        again = await self.reopened(store)
        outcomes = await append(again, _joint(("a:1", 1, 3), ("b:1", 0, 4)), request("c:1", 0, 5))

        assert outcomes == [StreamConflict("b:1", 0, 1), Appended(3, (1,))]
        assert await append(again, _joint(("a:1", 1, 3), ("b:1", 1, 4))) == [Appended(5, (2, 2))]
        await again.close()

    async def test_a_stream_that_went_on_before_the_store_was_opened_refuses_it_whole(
        self, store: Store
    ) -> None:
        """The store has forgotten all versions, and must ask for them."""
        await append(store, request("a:1", 0, 1), request("b:1", 0, 2))
        await append(store, request("b:1", 1, 3))
        again = await self.reopened(store)
        outcomes = await append(again, _joint(("a:1", 1, 4), ("b:1", 1, 5)), request("c:1", 0, 6))

        assert outcomes == [StreamConflict("b:1", 1, 2), Appended(4, (1,))]
        assert numbers(await feed(again, 3)) == [6]
        await again.close()

    async def test_each_stream_of_a_joint_request_claims_for_itself(self, store: Store) -> None:
        """A claim has the position of the first event for the stream that holds it."""
        takes = [TakeClaim("name", "x", "b:1"), TakeClaim("name", "y", "a:1")]
        await append(store, _joint(("a:1", 0, 1), ("b:1", 0, 2), extras=takes))
        moved: list[Extra] = [ReleaseClaim("name", "x", "b:1"), TakeClaim("name", "z", "c:1")]
        await append(store, _joint(("c:1", 0, 3), ("b:1", 1, 4), extras=moved))

        held = await store.read_claims(claims_max=9)
        assert [(claim.value, claim.stream, claim.position) for claim in held] == [
            ("y", "a:1", 1),
            ("z", "c:1", 3),
        ]

    async def test_a_claim_that_is_held_refuses_a_joint_request_whole(self, store: Store) -> None:
        """And what comes behind it on each of its streams; nothing else of the batch."""
        held = AppendRequest([Write("h:1", 0, [event(0)])], [TakeClaim("name", "x", "h:1")])
        await append(store, held, request("a:1", 0, 0), request("b:1", 0, 0))
        takes = [TakeClaim("name", "w", "a:1"), TakeClaim("name", "x", "b:1")]
        outcomes = await append(
            store,
            _joint(("a:1", 1, 1), ("b:1", 1, 2), extras=takes),
            request("a:1", 1, 3),
            request("b:1", 1, 4),
            request("c:1", 0, 5),
        )

        assert outcomes == [
            ClaimTaken(1),
            StreamConflict("a:1", 1, 1),
            StreamConflict("b:1", 1, 1),
            Appended(4, (1,)),
        ]
        assert [claim.value for claim in await store.read_claims(claims_max=9)] == ["x"]

    async def test_a_joint_request_has_many_streams(self, store: Store) -> None:
        """Some begin and some go on; each is answered with its version."""
        await append(store, *(request(f"a:{n}", 0, n) for n in range(20)))
        writes = [(f"a:{n}", int(n < 20), n) for n in range(40)]
        outcomes = await append(store, _joint(*writes))

        assert outcomes == [Appended(60, (*[2] * 20, *[1] * 20))]
        assert numbers(await feed(store, 20)) == list(range(40))

    async def test_many_joint_requests_at_once_all_find_their_place(self, store: Store) -> None:
        """Whoever sends them: each is whole, and positions have no holes."""
        batches = await asyncio.gather(
            *(append(store, _joint((f"a:{n}", 0, n), (f"b:{n}", 0, n))) for n in range(20))
        )
        found = sorted(
            outcome.position
            for batch in batches
            for outcome in batch
            if isinstance(outcome, Appended)
        )

        assert found == list(range(2, 41, 2))
        events = numbers(await feed(store))
        assert events[::2] == events[1::2]
