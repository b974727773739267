"""Cases of views: what is parked, what people decide, and the builds of a projection."""

from __future__ import annotations

import pytest

from ...errors import StoreRefused, UsageError
from ...model.projection import ProjectionDefinition
from ...statistics import ProjectionFailure
from ...stores.contract.acts import is_parked_there, stopped_there
from ...stores.contract.views import Checkpoint, ProjectionDecision, Standstill
from .given_views import (
    BackendCases,
    Book,
    Opened,
    Shelf,
    SlicedShelf,
    Tally,
    a_decision,
    a_parked,
    part,
)

__all__ = ["DecidingCases"]

SHELF: ProjectionDefinition = Shelf.__definition__


class DecidingCases(BackendCases):
    """Parked events, decisions, builds."""

    # -- what is parked

    async def test_parked_events_come_in_order_of_position(self, opened: Opened) -> None:
        """Those of one key or of all, behind a position, and so many at most."""
        all_ = [a_parked(n, "ab"[n % 2]) for n in range(1, 8)]
        await opened.write(Shelf, 0, 4, parked=[all_[3], all_[0]])
        await opened.write(Shelf, 4, 8, parked=[*all_[1:3], *all_[4:]])
        views = opened.views

        assert await views.parked("shelf") == all_
        assert await views.parked("shelf", limit=2) == all_[:2]
        assert await views.parked("shelf", after=2, limit=2) == all_[2:4]
        assert await views.parked("shelf", key="a") == all_[1::2]
        assert await views.parked("shelf", key="a", after=2, limit=1) == [all_[3]]
        assert list(await views.parked("shelf", key="c")) == []
        assert list(await views.parked("shelf", after=7)) == []
        assert list(await views.parked("shelf", limit=0)) == []
        assert await views.parked_keys(part(Shelf)) == {"a": 3, "b": 4}

    async def test_an_event_that_is_parked_again_takes_its_own_place(self, opened: Opened) -> None:
        """With what is known of it now: how often it was tried, and why it failed."""
        cause = "Traceback\n  \u00fc\n" + "x" * 5_000
        await opened.write(Shelf, 0, 2, parked=[a_parked(1), a_parked(2)])
        again = a_parked(1, attempts=3, cause=cause)
        await opened.write(Shelf, 2, 2, parked=[again])

        assert await opened.views.parked("shelf") == [again, a_parked(2)]
        assert await opened.views.parked_keys(part(Shelf)) == {"k": 2}

    async def test_what_is_released_is_parked_no_more(self, opened: Opened) -> None:
        """In the same write as its rows; what was not parked may be released too."""
        await opened.write(Shelf, 0, 3, parked=[a_parked(1), a_parked(2), a_parked(3, "x")])
        await opened.write(Shelf, 3, 4, {"books": [Book("a")]}, released=[1, 3, 9])

        assert await opened.views.parked("shelf") == [a_parked(2)]
        assert await opened.views.parked_keys(part(Shelf)) == {"k": 1}

    async def test_a_key_of_parked_events_may_be_any_text(self, opened: Opened) -> None:
        """Those that look alike are apart."""
        keys = ["x", "X", "x ", "", "\u00e9", "e\u0301", "'; drop table parked --", "x\0", "x\0y"]
        parked = [a_parked(n, key) for n, key in enumerate(keys, start=1)]
        await opened.write(Shelf, 0, 9, parked=parked)

        assert await opened.views.parked_keys(part(Shelf)) == dict.fromkeys(keys, 1)
        for event in parked:
            assert await opened.views.parked("shelf", key=event.key) == [event]

    async def test_parts_park_for_themselves(self, opened: Opened) -> None:
        """Slices and builds have keys of their own; people see those of the build that serves."""
        views = await opened.open(SlicedShelf)
        await opened.write(part(SlicedShelf, 1, 0), 0, 1, parked=[a_parked(1, "a")])
        await opened.write(part(SlicedShelf, 1, 1), 0, 2, parked=[a_parked(2, "b")])
        build = await views.begin_build(SlicedShelf.__definition__)
        beside = part(SlicedShelf, build.number, 1)
        await opened.write(beside, 0, 3, parked=[a_parked(3, "c")])

        assert await views.parked("sliced") == [a_parked(1, "a"), a_parked(2, "b")]
        assert await views.parked_keys(part(SlicedShelf, 1, 1)) == {"b": 1}
        assert await views.parked_keys(beside) == {"c": 1}

    # -- decisions

    async def test_decisions_come_back_as_they_were_made_the_oldest_first(
        self, opened: Opened
    ) -> None:
        """Every field of them, for one projection or all, whether it is declared or not."""
        made = [
            a_decision("skip", position=2**63 - 1, reason="x" * 3_000, checksum=2**32 - 1),
            ProjectionDecision(
                "other", "pause", 2**62, 77, None, "r\u00e9ason \U0001f4e6\n", "ann"
            ),
            a_decision("reset", decided=1, principal=""),
            a_decision("rebuild"),
            a_decision("drop"),
            a_decision("resume"),
        ]
        for decision in made:
            await opened.views.decide(decision)

        assert await opened.views.decisions() == made
        assert await opened.views.decisions("other") == [made[1]]
        assert list(await opened.views.decisions("nobody")) == []

    async def test_the_last_word_pauses_or_does_not(self, opened: Opened) -> None:
        """Other decisions in between say nothing about it."""
        views = opened.views
        await views.decide(a_decision("pause"))
        await views.decide(a_decision("reset"))
        await views.decide(a_decision("pause", projection="other"))
        assert await views.is_paused("shelf")
        await views.decide(a_decision("resume"))

        assert not await views.is_paused("shelf")
        assert await views.is_paused("other")

    async def test_a_skip_takes_its_event_out_of_what_is_parked_in_all_builds(
        self, opened: Opened
    ) -> None:
        """Those of its version; the position is told with the event's checksum."""
        both = [a_parked(1), a_parked(2)]
        build = await opened.views.begin_build(SHELF)
        await opened.write(Shelf, 0, 2, parked=both)
        await opened.write(part(Shelf, build.number), 0, 2, parked=both)
        await opened.views.decide(a_decision("skip", position=2, checksum=5, version=7))
        assert await opened.views.parked("shelf") == both
        await opened.views.decide(a_decision("skip", position=2, checksum=opened.at(2).checksum))

        assert await opened.views.parked("shelf") == both[:1]
        assert await opened.views.parked_keys(part(Shelf, build.number)) == {"k": 1}
        assert await opened.views.skipped(SHELF) == {2: opened.at(2).checksum}
        found = await opened.views.parked("shelf", after=0, limit=1)
        assert is_parked_there(1, found)
        assert not is_parked_there(2, await opened.views.parked("shelf", after=1, limit=1))

    async def test_what_is_skipped_is_known_by_version(self, opened: Opened) -> None:
        """The last checksum given counts; other decisions and projections are left out."""
        for more in (
            {"position": 3, "checksum": 1},
            {"position": 3, "checksum": 2},
            {"position": 4, "checksum": 9, "version": 2},
            {"position": 5, "checksum": 9, "projection": "other"},
        ):
            await opened.views.decide(a_decision("skip", **more))
        await opened.views.decide(a_decision("pause"))

        assert await opened.views.skipped(SHELF) == {3: 2}

    # -- builds

    async def test_a_build_is_begun_empty_beside_the_one_that_serves(self, opened: Opened) -> None:
        """With the decision to do so; a second call gives the same build, and decides nothing."""
        await opened.write(Shelf, 0, 3, {"books": [Book("a")]})
        made = a_decision("rebuild", reason="why")
        build = await opened.views.begin_build(SHELF, made)
        again = await opened.views.begin_build(SHELF, a_decision("rebuild", reason="again"))

        assert (build.number, build.version, build.state) == (2, 1, "building")
        assert (build.position, build.fits, build.builder) == (0, True, None)
        assert again == build
        assert await opened.views.decisions() == [made]
        assert await opened.views.checkpoint(part(Shelf, 2)) == Checkpoint()
        assert [b.number for b in await opened.views.builds("shelf")] == [1, 2]
        assert await opened.books() == ["a"]

    async def test_a_build_that_has_caught_up_is_swapped_in(self, opened: Opened) -> None:
        """Queries read its rows from then on; the one that served is kept and takes no write."""
        views = opened.views
        await opened.write(Shelf, 0, 3, {"books": [Book("old")]}, parked=[a_parked(1)])
        build = await views.begin_build(SHELF)
        await opened.write(part(Shelf, build.number), 0, 3, {"books": [Book("new")]})
        before = views.transactions("shelf")[1]
        swap = a_decision("swap")
        await views.swap(SHELF, build.number, swap)

        assert await opened.books() == ["new"]
        assert [(b.number, b.state) for b in await views.builds("shelf")] == [
            (1, "former"),
            (2, "serving"),
        ]
        assert list(await views.parked("shelf")) == []
        assert views.transactions("shelf")[0] > before
        with pytest.raises(StoreRefused):
            await opened.write(Shelf, 3, 4)
        await opened.write(part(Shelf, 2), 3, 4, {"books": [Book("z")]})
        assert await opened.books() == ["new", "z"]
        assert (await views.sql("SELECT id FROM shelf_books ORDER BY id", (), 9)).rows == [
            ("new",),
            ("z",),
        ]
        assert await views.decisions() == [swap]

    async def test_a_build_that_is_behind_is_not_swapped_in(self, opened: Opened) -> None:
        """Queries would go back in time: nothing is changed, and nothing decided."""
        await opened.write(Shelf, 0, 3, {"books": [Book("old")]})
        build = await opened.views.begin_build(SHELF)
        await opened.write(part(Shelf, build.number), 0, 2)
        with pytest.raises(StoreRefused, match="queries would go back in time"):
            await opened.views.swap(SHELF, build.number, a_decision("swap"))

        assert await opened.books() == ["old"]
        assert list(await opened.views.decisions()) == []
        await opened.write(Shelf, 3, 4)

    async def test_numbers_of_builds_go_on(self, opened: Opened) -> None:
        """A build behind the last one has the next number, while that one is there."""
        views = opened.views
        first = await views.begin_build(SHELF)
        await views.swap(SHELF, first.number, a_decision("swap"))
        second = await views.begin_build(SHELF)

        assert (first.number, second.number) == (2, 3)
        assert [b.state for b in await views.builds("shelf")] == ["former", "serving", "building"]

    async def test_a_build_that_serves_is_not_dropped_and_the_others_are(
        self, opened: Opened
    ) -> None:
        """With the decision to do so; one that is not there is named."""
        views = opened.views
        build = await views.begin_build(SHELF)
        drop = a_decision("drop")
        with pytest.raises(UsageError, match="serves queries"):
            await views.drop("shelf", 1, drop)
        with pytest.raises(UsageError, match="has no build 7"):
            await views.drop("shelf", 7, drop)
        assert list(await views.decisions()) == []
        await views.write(opened.changes(part(Shelf, build.number), 0, 1, parked=[a_parked(1)]))
        await views.drop("shelf", build.number, drop)

        assert await views.decisions() == [drop]
        assert [b.number for b in await views.builds("shelf")] == [1]
        again = await views.begin_build(SHELF)
        assert await views.parked_keys(part(Shelf, again.number)) == {}

    async def test_a_reset_empties_what_serves_and_begins_at_the_beginning(
        self, opened: Opened
    ) -> None:
        """Also what is parked; a build beside it, and what is skipped, are left as they are."""
        views = opened.views
        skip = a_decision("skip", position=2, checksum=5)
        await views.decide(skip)
        await opened.write(Shelf, 0, 3, {"books": [Book("a")]}, parked=[a_parked(1)])
        build = await views.begin_build(SHELF)
        await opened.write(part(Shelf, build.number), 0, 2)
        before = views.transactions("shelf")[1]
        reset = a_decision("reset")
        await views.reset(SHELF, reset)

        assert await opened.books() == []
        assert await views.checkpoint(part(Shelf)) == Checkpoint()
        assert list(await views.parked("shelf")) == []
        assert await views.parked_keys(part(Shelf)) == {}
        assert await views.skipped(SHELF) == {2: 5}
        assert await views.decisions() == [skip, reset]
        assert (await views.checkpoint(part(Shelf, build.number))).position == 2
        assert views.transactions("shelf")[0] > before
        await opened.write(Shelf, 0, 1, {"books": [Book("b")]})
        assert await opened.books() == ["b"]

    async def test_tables_by_sql_are_built_swapped_reset_and_dropped_too(
        self, opened: Opened
    ) -> None:
        """Their plain name shows the build that serves."""
        views = await opened.open(Tally)
        definition = Tally.__definition__

        async def shown() -> list[str]:
            rows = (await views.sql("SELECT name FROM tally_rows ORDER BY name", (), 9)).rows
            return [name for (name,) in rows]

        await opened.tally("one", 0)
        build = await views.begin_build(definition)
        await opened.tally("two", 0, build.number)
        assert await shown() == ["one"]
        swap = ProjectionDecision("tally", "swap", 1, 1)
        await views.swap(definition, build.number, swap)
        assert await shown() == ["two"]
        await views.drop("tally", 1)
        await views.reset(definition, ProjectionDecision("tally", "reset", 2, 1))
        assert await shown() == []
        await opened.tally("three", 0, build.number)
        assert await shown() == ["three"]

    # -- standing still

    async def test_a_part_that_is_stopped_is_noted_until_it_goes_on(self, opened: Opened) -> None:
        """By build and slice, with the version, so that others can see why."""
        views = await opened.open(SlicedShelf, Shelf)
        failure = ProjectionFailure(3, "shelved v1", "shelf:a", "Traceback\n \u00fc")
        later = ProjectionFailure(4, "", "", "no room")
        two = part(SlicedShelf, 1, 1)
        await views.note_failure(two, failure)
        await views.note_failure(part(SlicedShelf, 1, 0), failure)
        await views.note_failure(part(Shelf), later)
        await views.note_failure(part(SlicedShelf, 1, 0), later)
        stopped = Standstill("sliced", 1, 1, 1, failure)

        assert await views.standstills("sliced") == [Standstill("sliced", 1, 0, 1, later), stopped]
        assert stopped_there("sliced", 3, await views.standstills("sliced")) == stopped
        await views.note_failure(two, None)
        await views.note_failure(two, None)
        assert [s.slice for s in await views.standstills("sliced")] == [0]
        assert [s.projection for s in await views.standstills("shelf")] == ["shelf"]

    async def test_a_failure_of_a_build_that_is_not_there_is_not_noted(
        self, opened: Opened
    ) -> None:
        """And what was noted of one goes with it."""
        views = opened.views
        failure = ProjectionFailure(3, "shelved v1", "shelf:a", "why")
        build = await views.begin_build(SHELF)
        await views.note_failure(part(Shelf, build.number), failure)
        assert len(await views.standstills("shelf")) == 1
        await views.drop("shelf", build.number)
        await views.note_failure(part(Shelf, build.number), failure)

        assert list(await views.standstills("shelf")) == []

    # -- requests

    async def test_nobody_has_asked_for_anything(self, opened: Opened) -> None:
        """There is no request to take; one that is not there is put back or answered by nobody."""
        assert await opened.views.take_request() is None
        await opened.views.put_back_request(1)

        assert await opened.views.take_request() is None
