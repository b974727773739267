"""Cases of a log: the claims that an append takes and releases, in its own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ...errors import StoreFailed
from ...model.stored import EventType
from ...stores.contract.claims import ClaimTaken, HeldClaim, ReleaseClaim, TakeClaim
from ...stores.contract.log import Appended, AppendRequest, Extra, Store, StreamConflict, Write
from .given_log import ADDED, LogCases, append, event, feed, numbers, request

__all__ = ["ClaimingCases"]


def _take(stream: str, value: str, name: str = "email") -> TakeClaim:
    return TakeClaim(name, value, stream)


def _release(stream: str, value: str, name: str = "email") -> ReleaseClaim:
    return ReleaseClaim(name, value, stream)


def _with(stream: str, expected: int, number: int, *extras: Extra) -> AppendRequest:
    return AppendRequest([Write(stream, expected, [event(number)])], extras)


async def _held(store: Store) -> Sequence[tuple[str, str, str, int]]:
    """Read all claims, in pages of two."""
    found: list[HeldClaim] = []
    after = "", ""
    while page := await store.read_claims(after, claims_max=2):
        found += page
        after = page[-1].name, page[-1].value
    return [(claim.name, claim.value, claim.stream, claim.position) for claim in found]


class ClaimingCases(LogCases):
    """Claims of an append."""

    async def test_a_new_log_has_no_claims(self, store: Store) -> None:
        """Nothing is held, and asking is no error."""
        assert await store.read_claims(claims_max=10) == []

    async def test_a_claim_is_taken_with_the_events(self, store: Store) -> None:
        """It is held by its stream, from the position of the request's first event."""
        await append(store, request("b:1", 0, 0))
        writes = [Write("a:1", 0, [event(1), event(2)])]
        outcomes = await append(store, AppendRequest(writes, [_take("a:1", "ann")]))

        assert outcomes == [Appended(3, (2,))]
        assert await _held(store) == [("email", "ann", "a:1", 2)]

    async def test_a_claim_of_another_stream_is_refused(self, store: Store) -> None:
        """The answer says which one it was; nothing of the request is written."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann")))
        outcomes = await append(store, _with("a:2", 0, 2, _take("a:2", "bob"), _take("a:2", "ann")))

        assert outcomes == [ClaimTaken(1)]
        assert numbers(await feed(store)) == [1]
        assert await _held(store) == [("email", "ann", "a:1", 1)]

    async def test_a_taken_claim_fails_no_other_stream_of_the_batch(self, store: Store) -> None:
        """Whatever stands before and behind it in the batch is appended."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann")))
        outcomes = await append(
            store,
            request("b:1", 0, 2),
            _with("a:2", 0, 3, _take("a:2", "ann")),
            _with("a:3", 0, 4, _take("a:3", "bob")),
            request("b:1", 1, 5),
        )

        assert outcomes == [
            Appended(2, (1,)),
            ClaimTaken(0),
            Appended(3, (1,)),
            Appended(4, (2,)),
        ]
        assert numbers(await feed(store)) == [1, 2, 4, 5]
        assert [(claim[1], claim[3]) for claim in await _held(store)] == [("ann", 1), ("bob", 3)]

    async def test_a_taken_claim_fails_the_rest_of_its_stream(self, store: Store) -> None:
        """What was decided on an event that does not exist is not tried."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann")))
        outcomes = await append(
            store, _with("a:2", 0, 2, _take("a:2", "ann")), request("a:2", 1, 3)
        )

        assert outcomes == [ClaimTaken(0), StreamConflict("a:2", 1, 0)]
        assert await append(store, request("a:2", 0, 4)) == [Appended(2, (1,))]

    async def test_the_first_of_a_batch_has_the_claim(self, store: Store) -> None:
        """The order of the batch decides."""
        outcomes = await append(
            store, *(_with(f"a:{n}", 0, n, _take(f"a:{n}", "ann")) for n in range(3))
        )

        assert outcomes == [Appended(1, (1,)), ClaimTaken(0), ClaimTaken(0)]
        assert await _held(store) == [("email", "ann", "a:0", 1)]

    async def test_what_is_released_can_be_taken(self, store: Store) -> None:
        """In a later batch, and by a later request of the same one."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann"), _take("a:1", "bob")))
        await append(store, _with("a:1", 1, 2, _release("a:1", "ann")))
        outcomes = await append(
            store,
            _with("a:2", 0, 3, _take("a:2", "ann")),
            _with("a:3", 0, 4, _take("a:3", "bob")),
            _with("a:1", 2, 5, _release("a:1", "bob")),
            _with("a:4", 0, 6, _take("a:4", "bob")),
        )

        assert outcomes == [Appended(3, (1,)), ClaimTaken(0), Appended(4, (3,)), Appended(5, (1,))]
        assert await _held(store) == [("email", "ann", "a:2", 3), ("email", "bob", "a:4", 5)]

    async def test_a_claim_changes_often_in_one_batch(self, store: Store) -> None:
        """The last one has it; what nobody holds in the end is not there."""
        outcomes = await append(
            store,
            _with("a:1", 0, 1, _take("a:1", "ann"), _take("a:1", "bob")),
            _with("a:1", 1, 2, _release("a:1", "ann"), _release("a:1", "bob")),
            _with("a:2", 0, 3, _take("a:2", "ann")),
            _with("a:2", 1, 4, _release("a:2", "ann")),
            _with("a:1", 2, 5, _take("a:1", "ann")),
        )

        assert [type(outcome) for outcome in outcomes] == [Appended] * 5
        assert await _held(store) == [("email", "ann", "a:1", 5)]

    async def test_who_has_a_claim_takes_it_again_without_an_effect(self, store: Store) -> None:
        """It is no conflict, and the claim keeps its position."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann")))
        outcomes = await append(store, _with("a:1", 1, 2, _take("a:1", "ann")))

        assert outcomes == [Appended(2, (2,))]
        assert await _held(store) == [("email", "ann", "a:1", 1)]

    async def test_who_has_no_claim_releases_nothing(self, store: Store) -> None:
        """A claim that is free, or another's, stays so."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann")))
        outcomes = await append(
            store, _with("a:2", 0, 2, _release("a:2", "ann"), _release("a:2", "bob"))
        )

        assert outcomes == [Appended(2, (1,))]
        assert await _held(store) == [("email", "ann", "a:1", 1)]

    async def test_a_request_that_conflicts_changes_no_claim(self, store: Store) -> None:
        """It is refused whole, whatever its claims are."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann")))
        outcomes = await append(
            store,
            _with("a:1", 7, 2, _release("a:1", "ann")),
            _with("a:2", 3, 3, _take("a:2", "bob")),
            _with("a:3", 0, 4, _take("a:3", "ann")),
        )

        assert outcomes == [StreamConflict("a:1", 7, 1), StreamConflict("a:2", 3, 0), ClaimTaken(0)]
        assert await _held(store) == [("email", "ann", "a:1", 1)]

    async def test_a_batch_that_fails_changes_no_claim(self, store: Store) -> None:
        """Claims are in the transaction of the events."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann")))
        changed = EventType(ADDED.name, ADDED.version, "ffff")
        bad = AppendRequest([Write("b:1", 0, [event(3, changed)])])
        with pytest.raises(StoreFailed):
            await append(
                store,
                _with("a:1", 1, 2, _release("a:1", "ann"), _take("a:1", "bob")),
                bad,
            )

        assert await _held(store) == [("email", "ann", "a:1", 1)]
        assert await append(store, _with("a:2", 0, 4, _take("a:2", "bob"))) == [Appended(2, (1,))]

    async def test_names_tell_claims_apart(self, store: Store) -> None:
        """The same value under another name is another claim."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "x", "email")))
        outcomes = await append(store, _with("a:2", 0, 2, _take("a:2", "x", "e")))

        assert outcomes == [Appended(2, (1,))]
        assert await _held(store) == [("e", "x", "a:2", 2), ("email", "x", "a:1", 1)]

    @pytest.mark.parametrize(
        "value",
        ["1", "1.0", "null", "é", "e\u0301", "\U0001f600" * 500, "a\nb", '"', "'", "\\", " "],
    )
    async def test_a_value_is_compared_as_it_is(self, store: Store, value: str) -> None:
        """Nothing is normalized, and no value is anything else than a text."""
        await append(store, _with("a:1", 0, 1, _take("a:1", value), _take("a:1", "É")))
        assert await append(store, _with("a:2", 0, 2, _take("a:2", value))) == [ClaimTaken(0)]
        assert {claim[1] for claim in await _held(store)} == {value, "É"}

        await append(store, _with("a:1", 1, 3, _release("a:1", value)))
        assert [claim[1] for claim in await _held(store)] == ["É"]

    async def test_claims_are_in_order(self, store: Store) -> None:
        """By name, then by value, both by code points."""
        values = ["b", "B", "a", "é", "", "\U0001f600", "\uffee", "aa"]
        takes = [_take("a:1", value, name) for name in ("n", "m") for value in values if value]
        await append(store, _with("a:1", 0, 1, *takes))

        expected = [(name, value) for name in ("m", "n") for value in sorted(values) if value]
        assert [(claim[0], claim[1]) for claim in await _held(store)] == expected

    async def test_claims_are_there_after_reopening(self, store: Store) -> None:
        """They are in the log's own place."""
        await append(store, _with("a:1", 0, 1, _take("a:1", "ann")))
        again = await self.reopened(store)

        assert await _held(again) == [("email", "ann", "a:1", 1)]
        assert await append(again, _with("a:2", 0, 2, _take("a:2", "ann"))) == [ClaimTaken(0)]
        await again.close()

    async def test_one_of_many_at_once_has_the_claim(self, store: Store) -> None:
        """Whoever sends them."""
        batches = await asyncio.gather(
            *(append(store, _with(f"a:{n}", 0, n, _take(f"a:{n}", "ann"))) for n in range(20))
        )
        outcomes = [outcome for batch in batches for outcome in batch]

        assert outcomes.count(ClaimTaken(0)) == 19
        assert [claim[:2] for claim in await _held(store)] == [("email", "ann")]
        assert len(await feed(store)) == 1

    async def test_a_batch_takes_many_claims(self, store: Store) -> None:
        """No number falls between the statements that a store may have prepared."""
        outcomes = await append(
            store, *(_with(f"a:{n}", 0, n, _take(f"a:{n}", f"{n % 700}")) for n in range(1_000))
        )

        assert outcomes.count(ClaimTaken(0)) == 300
        assert len(await feed(store)) == len(await _held(store)) == 700
