"""Cases of a store of keys: what encrypts for a person, and what is left of it once he is erased.

Subclass `KeyStoreConformance`, and say how a store of new keys is made, and how the same keys are
opened by another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ...errors import EngineError, StoreRefused
from ...model.personal import SNAPSHOTS
from ...runtime.ports import Ports
from ...stores.contract.keys import Erasure, KeyStore, SubjectKey

__all__ = ["KeyStoreConformance"]

LOG_ID = "0123456789abcdef0123456789abcdef"
OTHER_LOG_ID = "f" * 32
_SEEN_SECONDS = 20.0
"""For how long another process's change may take to be seen before a case fails."""


def key(number: int, subject: str) -> SubjectKey:
    """Give a key whose secret is told from all others."""
    return SubjectKey(number, subject, number.to_bytes(32, "big"))


def without(given: SubjectKey) -> SubjectKey:
    """Give what is left of a key that was destroyed."""
    return SubjectKey(given.number, given.subject, None)


async def _seen(keys: KeyStore, count: int) -> None:
    """Wait until another one's change was seen, as an engine does."""
    async with asyncio.timeout(_SEEN_SECONDS):
        while keys.change_count() == count:  # noqa: ASYNC110 - it is asked, and tells nobody
            await asyncio.sleep(0.01)


class KeyStoreConformance:
    """The contract of `KeyStore`."""

    def new_keys(self, folder: Path) -> KeyStore:
        """Give the store of keys that are not there yet, not open."""
        raise NotImplementedError

    def same_keys(self, keys: KeyStore) -> KeyStore:
        """Give the store of the same keys as another process would, not open."""
        raise NotImplementedError

    @pytest.fixture
    async def keys(self, tmp_path: Path) -> AsyncIterator[KeyStore]:
        """Give keys of a log that were never opened before."""
        keys = self.new_keys(tmp_path)
        assert await keys.open(Ports(), LOG_ID) == 0
        yield keys
        await keys.close()

    async def test_a_key_is_found_by_its_number_and_its_subject(self, keys: KeyStore) -> None:
        """As soon as it was added, and nothing is found for others."""
        ann, bob = key(5, "guest:ann"), key(7, "guest:bob")
        await keys.add([ann, bob])
        assert [keys.find(n) for n in (5, 6, 7)] == [ann, None, bob]
        assert keys.current("guest:ann") == ann
        assert keys.current("guest:cid") is None

    async def test_the_newest_key_of_a_subject_is_the_one_in_use(self, keys: KeyStore) -> None:
        """The older one still opens what it has encrypted."""
        old, new = key(5, "guest:ann"), key(9, "guest:ann")
        await keys.add([new])
        await keys.add([old])
        assert keys.current("guest:ann") == new
        assert keys.find(5) == old

    async def test_what_was_added_comes_again_for_nothing(self, keys: KeyStore) -> None:
        """As after a call whose answer was lost; a destroyed one does not come back."""
        ann, bob = key(5, "guest:ann"), key(7, "guest:bob")
        await keys.add([ann])
        await keys.add([ann, bob])
        assert (keys.find(5), keys.find(7)) == (ann, bob)
        await keys.erase(Erasure(0, "guest:ann", 1, 0))
        await keys.add([ann])
        assert keys.find(5) == without(ann)

    async def test_a_number_of_another_key_is_refused(self, keys: KeyStore) -> None:
        """Neither of the call's keys is kept."""
        ann = key(5, "guest:ann")
        await keys.add([ann])
        with pytest.raises(EngineError):
            await keys.add([key(6, "guest:bob"), SubjectKey(5, "guest:bob", b"b" * 32)])
        assert keys.find(5) == ann
        assert (keys.find(6), keys.current("guest:bob")) == (None, None)

    async def test_an_erasure_destroys_all_keys_of_one_subject(self, keys: KeyStore) -> None:
        """It gives its number and their count; keys of others stay."""
        ann, old, bob = key(9, "guest:ann"), key(5, "guest:ann"), key(7, "guest:bob")
        await keys.add([ann, old, bob])
        erasure = await keys.erase(Erasure(0, "guest:ann", 123, 0, "asked by mail", "desk"))
        assert erasure == Erasure(1, "guest:ann", 123, 2, "asked by mail", "desk")
        assert [keys.find(n) for n in (5, 7, 9)] == [without(old), bob, without(ann)]
        assert keys.current("guest:ann") is None
        assert keys.current("guest:bob") == bob

    async def test_who_was_erased_has_a_key_again_afterwards(self, keys: KeyStore) -> None:
        """A new one, which opens nothing of what was erased."""
        old, new = key(5, "guest:ann"), key(9, "guest:ann")
        await keys.add([old])
        await keys.erase(Erasure(0, "guest:ann", 1, 0))
        await keys.add([new])
        assert keys.current("guest:ann") == new
        assert keys.find(5) == without(old)

    async def test_states_have_a_key_whose_subject_no_person_can_have(self, keys: KeyStore) -> None:
        """It is destroyed with each erasure, since a state may have anybody in it."""
        states = key(5, SNAPSHOTS)
        await keys.add([states])
        assert keys.current(SNAPSHOTS) == states
        erasure = await keys.erase(Erasure(0, SNAPSHOTS, 10, 0))
        assert (keys.find(5), erasure.keys) == (without(states), 1)
        assert list(await keys.erasures(SNAPSHOTS)) == [erasure]
        again = self.same_keys(keys)
        await again.open(Ports(), LOG_ID, only_reads=True)
        assert again.find(5) == without(states)
        await again.close()

    async def test_erasures_are_listed_until_and_after_they_are_finished(
        self, keys: KeyStore
    ) -> None:
        """The oldest first; a subject without a key has one too."""
        await keys.add([key(5, "guest:ann")])
        first = await keys.erase(Erasure(0, "guest:ann", 10, 0))
        second = await keys.erase(Erasure(0, "guest:bob", 20, 0, "", "desk"))
        assert (first.keys, second.keys, second.number > first.number) == (1, 0, True)
        assert list(await keys.unfinished()) == [first, second]
        await keys.finish(first.number, 30)
        assert list(await keys.unfinished()) == [second]
        done = Erasure(first.number, "guest:ann", 10, 1, finished=30)
        assert list(await keys.erasures()) == [done, second]
        assert list(await keys.erasures("guest:ann")) == [done]
        assert list(await keys.erasures("guest:cid")) == []

    async def test_all_of_it_is_there_after_a_restart(self, keys: KeyStore) -> None:
        """With the largest number that there ever was."""
        ann, bob = key(5, "guest:ann"), key(7, "guest:bob")
        await keys.add([ann, bob])
        erasure = await keys.erase(Erasure(0, "guest:bob", 10, 0))
        await keys.close()
        again = self.same_keys(keys)
        assert await again.open(Ports(), LOG_ID) == 7
        assert [again.find(n) for n in (5, 7)] == [ann, without(bob)]
        assert list(await again.unfinished()) == [erasure]
        await again.close()

    async def test_the_keys_of_another_log_are_refused(self, keys: KeyStore) -> None:
        """By name, for a writer and for a reader."""
        await keys.add([key(5, "guest:ann")])
        for only_reads in (False, True):
            other = self.same_keys(keys)
            with pytest.raises(StoreRefused, match="of another log"):
                await other.open(Ports(), OTHER_LOG_ID, only_reads=only_reads)
            await other.close()
        assert keys.find(5) == key(5, "guest:ann")

    async def test_who_only_reads_makes_nothing(self, tmp_path: Path) -> None:
        """It is refused where there are no keys, and the next one to write finds a new place."""
        keys = self.new_keys(tmp_path)
        with pytest.raises(StoreRefused, match="no keys"):
            await keys.open(Ports(), LOG_ID, only_reads=True)
        await keys.close()
        new = self.same_keys(keys)
        assert await new.open(Ports(), OTHER_LOG_ID) == 0
        await new.close()

    async def test_changes_of_another_process_are_seen(self, keys: KeyStore) -> None:
        """New keys, destroyed ones, and an erasure of who has none."""
        ann = key(5, "guest:ann")
        await keys.add([ann])
        other = self.same_keys(keys)
        await other.open(Ports(), LOG_ID)
        assert other.find(5) == ann
        count = other.change_count()
        bob = key(7, "guest:bob")
        await keys.add([bob])
        await _seen(other, count)
        assert other.current("guest:bob") == bob
        count = other.change_count()
        await keys.erase(Erasure(0, "guest:ann", 10, 0))
        await _seen(other, count)
        assert other.find(5) == without(ann)
        count = other.change_count()
        await keys.erase(Erasure(0, "guest:nobody", 20, 0))
        await _seen(other, count)
        assert len(await other.unfinished()) == 2
        await other.close()

    async def test_closing_twice_does_nothing(self, keys: KeyStore) -> None:
        """Nor does closing what was never opened."""
        await keys.close()
        await keys.close()
        await self.same_keys(keys).close()
