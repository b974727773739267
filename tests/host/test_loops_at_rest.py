"""An engine whose event loop does not run now: who calls it is told so, and waits for nothing.

That is what a fixture of pytest leaves that runs in another loop than its tests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from engine import Engine, Receipt, UsageError
from tests.support.counters import Add, Counter


class AtRest:
    """An engine, and the loop in which it was started: it runs when it is asked to."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.engine = Engine([Counter])
        self.loop.run_until_complete(self.engine.__aenter__())

    def version(self) -> int:
        return self.loop.run_until_complete(self.engine.state(Counter, "a")).version

    def close(self) -> None:
        self.loop.run_until_complete(self.engine.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture
def resting() -> Iterator[AtRest]:
    made = AtRest()
    yield made
    made.close()


def plainly(call: Callable[[], object]) -> None:
    call()


def in_another_loop(call: Callable[[], object]) -> None:
    async def main() -> None:
        call()

    asyncio.run(main())


@pytest.mark.parametrize("where", [plainly, in_another_loop])
def test_a_portal_into_a_loop_that_does_not_run_is_refused_and_nothing_is_run(
    where: Callable[[Callable[[], object]], None],
    resting: AtRest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.host.portal._LOOK_SECONDS", 0.01)
    portal = resting.engine.portal()
    with pytest.raises(UsageError, match="loop does not run now"):
        where(lambda: portal.execute(Add("a", 1), timeout=5))

    assert resting.version() == 0
    done = resting.loop.run_until_complete(resting.engine.execute(Add("a", 1)))
    assert done == Receipt("counter:a", 1, 1)


def test_a_loop_that_runs_a_moment_later_answers(
    resting: AtRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.host.portal._LOOK_SECONDS", 60.0)
    receipts: list[Receipt] = []
    portal = resting.engine.portal()
    thread = threading.Thread(target=lambda: receipts.append(portal.execute(Add("a", 1))))
    thread.start()
    resting.loop.run_until_complete(asyncio.to_thread(thread.join))

    assert receipts == [Receipt("counter:a", 1, 1)]


def test_who_awaits_it_in_another_loop_is_told_that_its_own_does_not_run(resting: AtRest) -> None:
    with pytest.raises(UsageError, match=r"does not run now: .* `loop_scope`"):
        asyncio.run(resting.engine.execute(Add("a", 1)))
