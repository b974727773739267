"""Writes of views that share a transaction: what is joined, what is not, and who pays for whom."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from pathlib import Path

import pytest

from engine.errors import StoreFailed, StoreRefused
from engine.limits import Limits
from engine.model.projection import Projection
from engine.model.rows import Flat, Scalar
from engine.projections.targets.rows import WRITES_MAX, RowTarget
from engine.stores.contract import gathering
from engine.stores.contract.gathering import Gathered
from engine.stores.contract.views import Changes, Checkpoint, Parked
from engine.stores.sqlite.views.group_commit import GroupCommit
from tests.support.shelf import Bought, Counts, Lent, Library, Log, Wired, fold_all, part_of
from tests.support.waiting import until


def changes(
    projection: type[Projection], before: int, after: int, rows: int = 1, price: int = 0
) -> Changes:
    """Give a write that moves a checkpoint and puts books 0, 1, 2 … at a price."""
    flats: dict[Scalar, Flat | None] = {str(n): (str(n), price, None, 0, "{}") for n in range(rows)}
    places = Checkpoint(before, before), Checkpoint(after, after)
    return Changes(part_of(projection), *places, {"books": flats} if rows else {})


class Writer:
    """Remembers the transactions that it is asked for; some parts are refused."""

    def __init__(self) -> None:
        self.transactions: list[Sequence[Changes]] = []
        self.tries = 0
        self.refused: set[str] = set()
        self.stops = False
        self.is_stopped = False
        self.fails_behind = False
        self.gathering = GroupCommit(self._write, self._wrote, lambda: self.is_stopped)

    def _write(self, together: Sequence[Changes]) -> None:
        self.tries += 1
        if any(each.part.definition.name in self.refused for each in together):
            self.is_stopped = self.stops
            raise StoreRefused("refused.")
        self.transactions.append(together)

    def _wrote(self, _together: Sequence[Changes]) -> None:
        if self.fails_behind:
            raise OSError("the write-ahead log could not be folded")

    def run(self, *wanted: Gathered) -> list[type[BaseException] | None]:
        """Let each come to its turn; give what each raised."""
        found: list[type[BaseException] | None] = []
        for write in wanted:
            try:
                self.gathering.run(write)
            except Exception as error:
                found.append(type(error))
            else:
                found.append(None)
        return found


def test_writes_of_one_part_become_one_and_the_last_row_counts() -> None:
    writer = Writer()
    first = changes(Library, 0, 3, rows=2, price=1)
    parked = Parked(5, "shelf:1", "lost", "shelf:1", 1)
    second = Changes(
        first.part,
        first.after,
        Checkpoint(6, 6),
        {"books": {"1": None}},
        (parked,),
        everything=True,
    )
    added = [writer.gathering.add(each) for each in (first, second)]

    assert writer.run(*added) == [None, None]
    assert [write.first for write in added] == [True, False]
    [[joined]] = writer.transactions
    assert (joined.before, joined.after) == (Checkpoint(), Checkpoint(6, 6))
    assert joined.rows == {"books": {"0": first.rows["books"]["0"], "1": None}}
    assert joined.parked == (parked,)
    assert joined.everything


def test_parts_share_a_transaction_and_each_keeps_its_own_rows() -> None:
    writer = Writer()
    asked = [changes(Library, 0, 1), changes(Counts, 0, 1, rows=0), changes(Library, 1, 2)]
    added = [writer.gathering.add(each) for each in asked]

    assert writer.run(*added) == [None, None, None]
    [[books, counts]] = writer.transactions
    assert (books.part, books.after) == (part_of(Library), Checkpoint(2, 2))
    assert counts is asked[1]
    assert [write.first for write in added] == [True, True, False]


def test_a_transaction_takes_no_more_rows_than_others_may_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gathering, "ROWS_MAX", 5)
    writer = Writer()
    added = [
        writer.gathering.add(changes(Library, n, n + 1, rows=rows))
        for n, rows in enumerate((7, 3, 2, 1))
    ]

    assert writer.run(*added) == [None] * 4
    assert [each[0].after.position for each in writer.transactions] == [1, 3, 4]


def test_what_is_refused_costs_no_other_part_its_write() -> None:
    writer = Writer()
    writer.refused = {"counts"}
    asked = [changes(Counts, 0, 1, rows=0), changes(Library, 0, 1), changes(Library, 1, 2)]
    added = [writer.gathering.add(each) for each in asked]

    assert writer.run(*added) == [StoreRefused, None, None]
    assert [each[0].after.position for each in writer.transactions] == [1, 2]


def test_nothing_is_tried_again_where_the_file_must_not_be_written_any_more() -> None:
    writer = Writer()
    writer.refused, writer.stops = {"counts"}, True
    asked = [changes(Library, 0, 1), changes(Counts, 0, 1, rows=0), changes(Library, 1, 2)]
    added = [writer.gathering.add(each) for each in asked]

    assert writer.run(*added) == [StoreRefused] * 3
    assert writer.tries == 1


def test_what_fails_behind_a_commit_is_told_to_all_and_written_once() -> None:
    writer = Writer()
    writer.fails_behind = True
    added = [writer.gathering.add(changes(Library, n, n + 1)) for n in range(2)]

    assert writer.run(*added) == [OSError, OSError]
    assert writer.tries == 1


def test_what_is_refused_alone_may_stop_the_others() -> None:
    writer = Writer()
    writer.refused = {"counts"}
    added = [
        writer.gathering.add(each)
        for each in (changes(Counts, 0, 1, rows=0), changes(Library, 0, 1))
    ]

    def stop_at_the_second(together: Sequence[Changes]) -> None:
        writer.stops = writer.tries > 0
        Writer._write(writer, together)

    writer.gathering._write = stop_at_the_second
    assert writer.run(*added) == [StoreRefused, StoreFailed]
    assert writer.transactions == []


@pytest.mark.parametrize("path", [":memory:", "views.db"])
async def test_a_projector_that_catches_up_goes_on_while_its_writes_wait(
    path: str, tmp_path: Path
) -> None:
    held = threading.Event()
    transactions: list[str] = []

    def hold(name: str) -> None:
        if name == "views.inserted":
            transactions.append(name)
            assert held.wait(20)

    log = Log()
    log.write(*[Bought("b")] * 10, Lent("b", "ann"), *[Bought("b")] * 9)
    path = path if path == ":memory:" else str(tmp_path / path)
    limits = Limits(page_events=1)
    async with Wired(log, path, [Counts], limits=limits, failpoint=hold) as wired:
        try:
            await until(lambda: len(wired.projector._writes) == WRITES_MAX)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(wired.projector._writes) == WRITES_MAX
            assert wired.projector.position == 0
        finally:
            held.set()
        await wired.caught_up()

        # The first one alone, and those that waited for it together.
        counted_by_itself = wired.projector.statistics().transactions
        assert counted_by_itself == len(transactions) <= 20 - (WRITES_MAX - 2)
        counted = {key: row.books for key, row in (await wired.rows(Counts.totals)).items()}
        assert counted == fold_all(log) == {"all": 20, "ann": 1}


async def test_a_row_that_is_not_written_yet_is_not_read_from_the_views() -> None:
    """Rows leave memory where there are many: what is on its way must be found all the same."""
    log = Log()
    limits = Limits(projector_rows=2)
    wired = Wired(log, ":memory:", [Counts], limits=limits)
    await wired.open()
    work = RowTarget(part_of(Counts), wired.views, wired.registry, limits, wired.ports)
    prepared: list[Changes] = []
    for name in ("ann", "bob", "ann"):
        at = prepared[-1].after if prepared else Checkpoint()
        found = await work.prepare(log.write(Lent("b", name)), at)
        assert found.changes is not None
        prepared.append(found.changes)
    assert work.fetches == 4, "rows that few fit into memory are forgotten"
    for each in prepared:
        await work.write(each)
    counted = {key: row.books for key, row in (await wired.rows(Counts.totals)).items()}
    assert counted == fold_all(log) == {"all": 3, "ann": 2, "bob": 1}
    await wired.views.close()


async def test_a_row_is_read_from_the_views_when_it_is_there_in_whatever_order_that_is_noted() -> (
    None
):
    log = Log()
    limits = Limits(projector_rows=2)
    wired = Wired(log, ":memory:", [Counts], limits=limits)
    await wired.open()
    work = RowTarget(part_of(Counts), wired.views, wired.registry, limits, wired.ports)
    at = Checkpoint()
    writes: list[Awaitable[bool]] = []
    for name in ("ann", "ann", "bob", "cid", "ann"):
        found = await work.prepare(log.write(Lent("b", name)), at)
        assert found.changes is not None
        at = found.changes.after
        writes.append(work.write(found.changes))
        if len(writes) == 2:
            while writes:  # both are written with the first that is waited for
                await writes.pop()
    for each in writes:
        await each
    counted = {key: row.books for key, row in (await wired.rows(Counts.totals)).items()}
    assert counted == fold_all(log) == {"all": 5, "ann": 3, "bob": 1, "cid": 1}
    assert not work._unwritten
    await wired.views.close()


async def test_a_checkpoint_that_does_not_fit_costs_only_its_own_write() -> None:
    held = threading.Event()

    def hold(name: str) -> None:
        if name == "views.inserted":
            assert held.wait(20)

    async with Wired(Log(), ":memory:", [Library, Counts], failpoint=hold) as wired:
        asked = [
            changes(Library, 0, 1),
            changes(Counts, 7, 8, rows=0),
            changes(Library, 1, 2, price=5),
        ]
        writes = [asyncio.ensure_future(wired.views.write(each)) for each in asked]
        for _ in range(5):
            await asyncio.sleep(0)
        held.set()
        found = await asyncio.gather(*writes, return_exceptions=True)

        assert isinstance(found[1], StoreRefused)
        assert [type(each) for each in (found[0], found[2])] == [bool, bool]
        assert (await wired.views.checkpoint(part_of(Library))).position == 2
        assert (await wired.rows(Library.books))["0"].price == 5
        assert (await wired.views.checkpoint(part_of(Counts))).position == 0


async def test_a_projector_stands_where_its_writes_without_a_gap_have_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log()
    log.write(*[Bought("b")] * 3)
    async with Wired(log, ":memory:", [Counts], limits=Limits(page_events=1)) as wired:
        asked: dict[int, asyncio.Future[bool]] = {}

        def hold(each: Changes) -> Awaitable[bool]:
            asked[each.after.position] = asyncio.get_running_loop().create_future()
            return asked[each.after.position]

        monkeypatch.setattr(wired.views, "write", hold)
        try:
            await until(lambda: len(asked) == 3)
            for position in (3, 2):
                asked[position].set_result(True)
                for _ in range(9):
                    await asyncio.sleep(0)
                assert wired.projector.position == 0
        finally:
            for each in asked.values():
                if not each.done():
                    each.set_result(True)
        await until(lambda: wired.projector.position == 3)
