"""The engine without an event loop: from scripts, threads and sync frameworks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine import (
    Closed,
    Engine,
    EngineFailed,
    Envelope,
    OutcomeUnknown,
    Receipt,
    Rejected,
    StoreLocked,
    StoreRefused,
    UsageError,
)
from engine.host.portal import Portal
from engine.stores.sqlite.log.store import SqliteStore
from tests.strangers.forking import status_of_fork
from tests.support.counters import Add, Counter, counters
from tests.support.held_store import HeldStore, unknown
from tests.support.tallies import GetTally, Tallies, Tally, get_tally

ROOT = Path(__file__).parents[2]


def tallied(**options: Any) -> Engine:
    return Engine([Counter], projections=[Tallies], answers=[get_tally], **options)


def test_a_script_without_a_loop_executes_and_asks() -> None:
    engine = tallied()
    with engine.portal() as portal:
        receipt = portal.execute(Add("a", 3), key="k", principal="ann")
        assert receipt == Receipt("counter:a", 1, 1)
        assert portal.execute(Add("a", 3), key="k") == receipt
        assert portal.query(GetTally("a"), at=receipt) == Tally("a", 3, 1)
        assert portal.call(lambda: engine.state(Counter, "a")).total == 3
        with pytest.raises(Rejected, match="negative"):
            portal.execute(Add("a", -1))

    assert engine.statistics().state == "stopped"


def test_leaving_drains_and_what_was_acknowledged_is_there(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'log.db'}"
    for version in (1, 2):
        with Engine([Counter], store=url).portal() as portal:
            assert portal.execute(Add("a", 1)).version == version


def test_the_loop_of_a_portal_is_uvloop_where_there_is_one() -> None:
    uvloop = pytest.importorskip("uvloop")
    engine = Engine([Counter])
    with engine.portal():
        assert isinstance(engine.usable_loop(), uvloop.Loop)


def test_many_threads_share_a_portal() -> None:
    with tallied().portal() as portal, ThreadPoolExecutor(16) as threads:
        receipts = list(threads.map(lambda n: portal.execute(Add(f"c{n % 7}", 1)), range(300)))

    assert sorted(receipt.position for receipt in receipts) == list(range(1, 301))


def test_the_first_of_many_threads_opens_a_portal_for_all(tmp_path: Path) -> None:
    portal = tallied(store=f"sqlite:{tmp_path / 'log.db'}").portal()
    together = threading.Barrier(8)

    def add(_: int) -> int:
        together.wait()
        return portal.open().execute(Add("a", 1)).version

    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(add, range(8)))
    portal.close()
    portal.close()

    assert sorted(versions) == list(range(1, 9))
    with pytest.raises(Closed):
        portal.open()


def test_a_portal_of_a_function_opens_when_the_log_is_free_again(tmp_path: Path) -> None:
    def make() -> Engine:
        return tallied(store=f"sqlite:{tmp_path / 'log.db'}")

    portal = Portal(make)
    with make().portal() as former:
        former.execute(Add("a", 1))
        for _ in range(2):
            with pytest.raises(StoreLocked, match="very process"):
                portal.open()

    assert portal.open().execute(Add("a", 1)).version == 2
    assert portal.call(lambda: portal.engine.state(Counter, "a")).total == 2
    portal.close()
    with pytest.raises(Closed, match="has stopped"):
        portal.open()


def test_a_portal_of_a_function_goes_on_after_its_engine_has_failed(tmp_path: Path) -> None:
    failing = HeldStore()
    failing.failures.append(unknown())
    stores: list[Any] = [failing, f"sqlite:{tmp_path / 'log.db'}"]
    portal = Portal(lambda: Engine([Counter], store=stores.pop(0)))
    with pytest.raises(OutcomeUnknown):
        portal.open().execute(Add("a", 1))
    while portal.engine.failed is None:
        pass  # its failure ends it a turn later

    assert portal.open().execute(Add("a", 1)).version == 1
    portal.close()


def test_who_calls_while_no_other_engine_starts_is_told_that_the_last_one_failed() -> None:
    failing = HeldStore()
    failing.failures.append(unknown())
    made = [Engine([Counter], store=failing)]
    portal = Portal(made.pop)  # the second start has nothing to give
    with pytest.raises(OutcomeUnknown):
        portal.open().execute(Add("a", 1))
    while portal.engine.failed is None:
        pass  # its failure ends it a turn later
    for _ in range(2):
        with pytest.raises(IndexError):
            portal.open()

        with pytest.raises((EngineFailed, Closed)):
            portal.execute(Add("a", 1))


def test_threads_that_wait_for_one_start_are_told_of_its_failure(tmp_path: Path) -> None:
    begun, come, made = threading.Event(), threading.Semaphore(0), list[int]()

    def make() -> Engine:
        made.append(1)
        begun.wait()
        return Engine([Counter], store=f"sqlite:{tmp_path / 'nowhere' / 'log.db'}")

    class Turn:
        """Tells of each thread that has come to wait for its turn."""

        def __init__(self, turn: Any) -> None:
            self.turn = turn

        def __enter__(self) -> None:
            come.release()
            self.turn.__enter__()

        def __exit__(self, *raised: object) -> None:
            self.turn.__exit__(*raised)

    def refused(portal: Portal) -> BaseException:
        with pytest.raises(StoreRefused) as raised:
            portal.open()
        return raised.value

    portal = Portal(make)
    portal._opening = Turn(portal._opening)  # type: ignore[assignment]  # pyright: ignore
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(refused, portal) for _ in range(4)]
        for _ in asked:
            come.acquire()
        begun.set()
        assert len({id(future.result()) for future in asked}) == len(made) == 1


def test_each_with_of_a_portal_of_a_function_has_an_engine_of_its_own(tmp_path: Path) -> None:
    """As in tests of an app that has the portal in a module."""
    portal = Portal(lambda: tallied(store=f"sqlite:{tmp_path / 'log.db'}"))
    for version in (1, 2):
        with portal:
            assert portal.open().execute(Add("a", 1)).version == version
        with pytest.raises(Closed, match="has stopped"):
            portal.open()


def test_a_portal_that_was_closed_before_a_fork_opens_in_the_fork(tmp_path: Path) -> None:
    """As in a server that has used it while it loaded the app, before it forks its workers."""
    portal = Portal(lambda: tallied(store=f"sqlite:{tmp_path / 'log.db'}"))
    with portal:
        portal.execute(Add("a", 1))

    assert status_of_fork(lambda: portal.open().execute(Add("a", 1)).version == 2) == 0
    with pytest.raises(Closed, match="has stopped"):
        portal.open()


@pytest.mark.parametrize("given", [Engine, None, "sqlite:log.db"])
def test_a_portal_is_of_an_engine_or_of_a_function(given: Any) -> None:
    with pytest.raises(UsageError, match=r"as Portal\(make_engine\)"):
        Portal(given)


def test_the_function_of_a_portal_gives_an_engine() -> None:
    portal = Portal(lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(UsageError, match="was not opened"):
        portal.execute(Add("a", 1))
    with pytest.raises(UsageError, match="gave None, and no Engine"):
        portal.open()


def test_a_portal_that_was_never_opened_is_closed_for_nothing() -> None:
    portal = tallied().portal()
    portal.close()

    assert portal.open().execute(Add("a", 1)).version == 1
    portal.close()


def test_many_commands_go_through_a_window() -> None:
    commands = [Envelope(command=Add("a", n - 5)) for n in range(20)]
    with tallied().portal() as portal:
        answers = list(portal.execute_many(commands, window=6))
        with pytest.raises(UsageError, match="at least 1"):
            list(portal.execute_many(commands, window=0))

    assert [type(answer) for answer in answers] == [Rejected] * 5 + [Receipt] * 15
    assert [a.version for a in answers if isinstance(a, Receipt)] == list(range(1, 16))


async def test_a_running_engine_is_reached_from_other_threads_and_stays() -> None:
    async with counters() as engine:
        portal = engine.portal()

        def elsewhere() -> Receipt:
            with portal as same:
                return same.execute(Add("a", 1))

        assert (await asyncio.to_thread(elsewhere)).version == 1
        assert (await asyncio.to_thread(lambda: portal.execute(Add("a", 1)))).version == 2
        assert (await engine.execute(Add("a", 1))).version == 3


async def test_from_the_engines_own_loop_it_is_refused_by_name() -> None:
    async with counters() as engine:
        with pytest.raises(UsageError, match="a portal is for other threads"):
            engine.portal().execute(Add("a", 1))


def test_before_and_after_its_life_an_engine_is_refused() -> None:
    engine = Engine([Counter])
    portal = engine.portal()
    with pytest.raises(UsageError, match="has not been started"):
        portal.execute(Add("a", 1))
    with portal:
        portal.execute(Add("a", 1))
    with pytest.raises(Closed):
        portal.execute(Add("a", 1))
    with pytest.raises(Closed):
        portal.__enter__()


def test_a_start_that_fails_raises_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    (tmp_path / "log.db").write_bytes(b"no log at all, and longer than a hundred bytes" * 10)
    with (
        pytest.raises(StoreRefused),
        Engine([Counter], store=f"sqlite:{tmp_path / 'log.db'}").portal(),
    ):
        raise AssertionError("not reached")

    assert threading.active_count() == before


def test_an_engine_that_fails_says_so_at_the_end() -> None:
    store = HeldStore()
    store.failures.append(unknown())
    engine = Engine([Counter], store=store)

    def fail() -> None:
        with engine.portal() as portal, pytest.raises(OutcomeUnknown):
            portal.execute(Add("a", 1))

    with pytest.raises(EngineFailed):
        fail()


def test_an_error_of_the_host_comes_through_and_the_engine_is_closed() -> None:
    engine = Engine([Counter])
    with pytest.raises(ZeroDivisionError), engine.portal() as portal:
        portal.execute(Add("a", 1))
        _ = 1 / 0

    assert engine.statistics().state == "stopped"


def test_a_thread_that_waits_no_more_is_told_that_it_cannot_know() -> None:
    store = HeldStore()
    engine = Engine([Counter], store=store)
    with engine.portal() as portal:
        portal.execute(Add("a", 1))
        store.holding = True
        with pytest.raises(OutcomeUnknown, match="the same key"):
            portal.execute(Add("a", 1), key="k", timeout=0.05)
        portal.call(lambda: released(store))
        # The command was in flight already: it was run whole, and its key says so.
        assert portal.execute(Add("a", 1), key="k") == Receipt("counter:a", 2, 2)


async def released(store: HeldStore) -> None:
    store.release()


def test_a_portal_is_entered_once_and_its_engine_survives_a_second_try() -> None:
    with Engine([Counter]).portal() as portal:
        with pytest.raises(UsageError, match="has been entered"):
            portal.__enter__()
        assert portal.execute(Add("a", 1)).version == 1


# A process of its own, since a host that drops its engine like this leaves it undrained.
DROPPED = """
import asyncio, threading
from engine import Engine, OutcomeUnknown
from tests.support.counters import Add, Counter
from tests.support.held_store import HeldStore

async def main():
    global thread
    store = HeldStore()
    engine = Engine([Counter], store=store)
    await engine.__aenter__()
    portal = engine.portal()
    store.holding = True
    def elsewhere():
        try:
            portal.execute(Add("a", 1), key="k")
        except OutcomeUnknown as error:
            print(error)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    while engine.statistics().commands.accepted < 1:
        await asyncio.sleep(0)

asyncio.run(main())
thread.join()
"""


def test_a_thread_is_answered_when_the_host_ends_the_loop_under_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DROPPED], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert "may be done or not" in done.stdout, done.stderr


FORKED = """
import os, sys
from engine import Engine, UsageError
from tests.support.counters import Add, Counter
with Engine([Counter]).portal() as portal:
    portal.execute(Add("a", 1))
    if os.fork() == 0:
        try:
            portal.execute(Add("a", 1))
        except UsageError as error:
            os.write(1, str(error).encode())
        os._exit(0)
    os.wait()
"""


def test_a_portal_is_refused_after_a_fork_and_does_not_hang() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "after a fork" in done.stdout, done.stderr


INTERRUPTED = """
import sys
from engine import Engine
from tests.support.counters import Add, Counter
from tests.support.held_store import HeldStore
store = HeldStore()
engine = Engine([Counter], store=store)
try:
    with engine.portal() as portal:
        portal.execute(Add("a", 1))
        print("ready", flush=True)
        sys.stdin.read()
except KeyboardInterrupt:
    print(engine.statistics().state)
"""


def test_an_interrupted_script_closes_its_engine() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGINT)
    output, errors = child.communicate(timeout=60)

    assert (child.returncode, output, errors) == (0, "stopped\n", "")


LEFT_OPEN = """
import os, sys
from engine import Engine
from tests.support.counters import Add, Counter
portal = Engine([Counter]).portal()
portal.__enter__()
portal.execute(Add("a", 1))
if sys.argv[1] == "forks" and os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
if sys.argv[1] == "unwinds":
    with Engine([Counter]).portal():
        if os.fork():
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
        sys.exit(7)
sys.exit(7)
"""


@pytest.mark.parametrize("how", ["ends", "forks", "unwinds"])
def test_a_program_that_leaves_its_portal_open_ends_all_the_same(how: str) -> None:
    """At its end, and in a process that was forked, where the portal's thread is not."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEFT_OPEN, how], cwd=ROOT, timeout=60, check=False
    )

    assert done.returncode == 7


def test_a_portal_that_nobody_has_any_more_ends_its_engine(tmp_path: Path) -> None:
    """As in a notebook, whose cell is run again."""
    url = f"sqlite:{tmp_path / 'log.db'}"
    for version in (1, 2, 3):
        engine = Engine([Counter], store=SqliteStore(url.removeprefix("sqlite:"), open_timeout=10))
        portal = engine.portal().__enter__()
        assert portal.execute(Add("a", 1)).version == version
        del portal


def test_an_answer_that_comes_as_the_time_is_over_is_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def result_too_late(answer: Future[object], seconds: float | None = None) -> object:
        if seconds is None:
            return answer.result()
        while not answer.done():
            pass
        raise TimeoutError

    monkeypatch.setattr("engine.host.portal.result_of", result_too_late)
    with Engine([Counter]).portal() as portal:
        for version, timeout in enumerate((None, 0.5, 60), 1):
            receipt = portal.execute(Add("a", 1), timeout=timeout)
            assert receipt == Receipt("counter:a", version, version)
        with pytest.raises(Rejected):
            portal.execute(Add("a", -9))


class Closing:
    """An engine whose loop is closed as somebody asks."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def usable_loop(self) -> asyncio.AbstractEventLoop:
        threading.Timer(0.01, self.loop.close).start()
        return self.loop


def test_what_a_loop_is_given_as_it_closes_is_not_run_and_nobody_waits_for_it() -> None:
    engine: Any = Closing()
    with pytest.raises(Closed, match="not run"):
        Portal(engine).call(lambda: asyncio.sleep(0))
