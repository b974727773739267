"""Cases of views: how they are opened, whose history they are, and what of them is kept."""

from __future__ import annotations

import pytest

from ...errors import StoreFailed, StoreRefused
from ...stores.contract.views import Checkpoint
from .given_views import (
    BOOKS,
    BackendCases,
    Book,
    History,
    Opened,
    Shelf,
    ShelfWithMore,
    SlicedShelf,
    Tally,
    WiderShelf,
    a_decision,
    a_parked,
    part,
)

__all__ = ["OpeningCases"]


class OpeningCases(BackendCases):
    """Opening and closing."""

    async def test_making_a_backend_opens_nothing(self, opened: Opened) -> None:
        """A second one of the same URL is made while the first is in use, and has a name."""
        assert self.same_backend(opened.backend).name == opened.backend.name != ""

    async def test_opening_makes_empty_tables_at_the_beginning(self, opened: Opened) -> None:
        """Every projection has one build, which serves and fits, at position 0."""
        views = await opened.open(Shelf, SlicedShelf, Tally)

        for projection in (Shelf, SlicedShelf, Tally):
            name = projection.__definition__.name
            (build,) = await views.builds(name)
            assert (build.projection, build.number, build.version) == (name, 1, 1)
            assert (build.state, build.position, build.fits) == ("serving", 0, True)
            assert build.builder is None
            for slice_ in range(projection.__definition__.slices):
                assert await views.checkpoint(part(projection, 1, slice_)) == Checkpoint()
            assert views.serves(name)
            assert await views.standstills(name) == []
            assert not await views.is_paused(name)
        assert await opened.books() == []
        assert await views.parked("shelf") == []
        assert await views.decisions() == []

    async def test_what_nobody_declared_is_not_there(self, opened: Opened) -> None:
        """It serves nothing and has no builds; asking is no error."""
        views = opened.views

        assert not views.serves("nobody")
        assert list(await views.builds("nobody")) == []
        assert list(await views.parked("nobody")) == []
        assert list(await views.standstills("nobody")) == []
        assert not await views.is_paused("nobody")
        assert views.transactions("nobody") == (0, 0)

    async def test_closing_twice_does_nothing_and_closed_views_say_so(self, opened: Opened) -> None:
        """Whoever asks them for anything is told StoreFailed, with nothing written."""
        await opened.views.close()
        await opened.views.close()

        for call in (
            opened.views.checkpoint(part(Shelf)),
            opened.views.get(BOOKS, "a"),
            opened.write(Shelf, 0, 1),
            opened.views.decide(a_decision("pause")),
            opened.views.take_request(),
        ):
            with pytest.raises(StoreFailed) as failed:
                await call
            assert failed.value.written is False

    async def test_everything_is_there_when_views_are_opened_again(self, opened: Opened) -> None:
        """Rows, checkpoints, what is parked, decisions, and builds."""
        skip = a_decision("skip", position=9, reason="ü", principal="ann", checksum=2**32 - 1)
        parked = a_parked(2, "x", attempts=3, cause="why\n\u00fc")
        await opened.write(Shelf, 0, 4, {"books": [Book("a", 1)]}, parked=[parked])
        await opened.views.decide(skip)
        await opened.views.decide(a_decision("pause"))
        build = await opened.views.begin_build(Shelf.__definition__)
        await opened.write(part(Shelf, build.number), 0, 2, {"books": [Book("b", 2)]})
        views = await self.reopened(opened)

        assert await opened.find(BOOKS) == [Book("a", 1)]
        assert await views.checkpoint(part(Shelf)) == opened.at(4)
        assert await views.parked("shelf") == [parked]
        assert await views.parked_keys(part(Shelf)) == {"x": 1}
        assert await views.decisions() == [skip, a_decision("pause")]
        assert await views.skipped(Shelf.__definition__) == {9: 2**32 - 1}
        assert await views.is_paused("shelf")
        assert await views.checkpoint(part(Shelf, build.number)) == opened.at(2)
        assert [(b.number, b.state) for b in await views.builds("shelf")] == [
            (1, "serving"),
            (2, "building"),
        ]

    async def test_what_is_left_out_of_an_opening_is_kept(self, opened: Opened) -> None:
        """A projection that nobody declares for a while goes on where it was."""
        await opened.put({"books": [Book("a")]})
        views = await self.reopened(opened, Tally)
        assert not views.serves("shelf")
        views = await self.reopened(opened)

        assert await opened.books() == ["a"]
        assert await views.checkpoint(part(Shelf)) == opened.at(1)

    # -- history

    @pytest.mark.parametrize("why", ["another log", "shorter", "other at the end", "other inside"])
    async def test_tables_of_another_history_are_made_anew_and_empty(
        self, opened: Opened, why: str
    ) -> None:
        """By the log's id, by its end, and by the event at their checkpoint."""
        await opened.write(Shelf, 0, 7, {"books": [Book("a")]}, parked=[a_parked(3)])
        other = {
            "another log": History(opened.log, log_id="another"),
            "shorter": History(opened.log, end=6),
            "other at the end": History(opened.log, end=7, changed=7),
            "other inside": History(opened.log, changed=7),
        }[why]
        views = await self.reopened(opened, history=other)

        assert await opened.books() == []
        assert await views.checkpoint(part(Shelf)) == Checkpoint()
        assert list(await views.parked("shelf")) == []
        assert [b.state for b in await views.builds("shelf")] == ["serving"]

    async def test_tables_of_the_same_history_are_kept_though_the_log_is_longer(
        self, opened: Opened
    ) -> None:
        """What has happened since changes nothing of what they contain."""
        await opened.open(Shelf, history=History(opened.log, end=7))
        await opened.write(Shelf, 0, 7, {"books": [Book("a")]})
        await self.reopened(opened)

        assert await opened.books() == ["a"]

    async def test_a_build_of_another_history_is_dropped_and_what_serves_is_kept(
        self, opened: Opened
    ) -> None:
        """Each set of tables is believed or not by itself."""
        await opened.write(Shelf, 0, 3, {"books": [Book("a")]})
        build = await opened.views.begin_build(Shelf.__definition__)
        await opened.write(part(Shelf, build.number), 0, 8)
        views = await self.reopened(opened, history=History(opened.log, end=5))

        assert [(b.number, b.state) for b in await views.builds("shelf")] == [(1, "serving")]
        assert await opened.books() == ["a"]

    async def test_decisions_outlive_tables_that_are_made_anew(self, opened: Opened) -> None:
        """They are people's, and no log gives them back."""
        await opened.write(Shelf, 0, 7)
        await opened.views.decide(a_decision("pause"))
        views = await self.reopened(opened, history=History(opened.log, end=5))

        assert await views.decisions("shelf") == [a_decision("pause")]
        assert await views.is_paused("shelf")

    # -- versions

    async def test_another_version_is_refused_and_the_tables_are_left(self, opened: Opened) -> None:
        """Nothing is changed; the former release opens them as before."""
        await opened.put({"books": [Book("a")]})
        with pytest.raises(StoreRefused, match=r"version 2 in 1 slices.*version 1 in 1 slices"):
            await self.reopened(opened, ShelfWithMore)
        await self.reopened(opened)

        assert await opened.books() == ["a"]

    async def test_another_version_is_built_beside_the_one_that_is_there(
        self, opened: Opened
    ) -> None:
        """The old tables are not read as if they were the new ones; what is declared is built."""
        await opened.put({"books": [Book("a")]})
        views = await self.reopened(opened, ShelfWithMore, rebuild="auto")

        assert [(b.number, b.version, b.state, b.fits) for b in await views.builds("shelf")] == [
            (1, 1, "serving", False),
            (2, 2, "building", True),
        ]
        assert await views.checkpoint(part(ShelfWithMore, 2)) == Checkpoint()

    async def test_a_version_that_is_being_built_goes_on(self, opened: Opened) -> None:
        """Opening again begins no second build, and keeps what it has."""
        await self.reopened(opened, ShelfWithMore, rebuild="auto")
        await opened.write(part(ShelfWithMore, 2), 0, 5)
        views = await self.reopened(opened, ShelfWithMore)

        assert [(b.number, b.position) for b in await views.builds("shelf")] == [(1, 0), (2, 5)]

    async def test_other_tables_under_the_same_version_are_refused(self, opened: Opened) -> None:
        """Nobody said what the old rows mean, whether a build is wanted or not."""
        for rebuild in ("refuse", "auto"):
            with pytest.raises(StoreRefused, match=r"declare it as `version=2`"):
                await self.reopened(opened, WiderShelf, rebuild=rebuild)
        await self.reopened(opened)
        assert await opened.books() == []
