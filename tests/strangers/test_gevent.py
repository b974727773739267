"""A portal where gevent has replaced Python's threads, as `gunicorn -k gevent` does."""

from __future__ import annotations

import _thread
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from engine.runtime import native

ROOT = Path(__file__).parent.parent.parent

WHAT_IT_REPLACES = ((time, "sleep"), (threading, "get_ident"), (threading, "Thread"))

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import asyncio, sys, threading, time
import gevent
from engine import Engine, OutcomeUnknown, Rejected
from tests.support.counters import Add, Counter, Look

ticks = []

async def never():
    await asyncio.Event().wait()

def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.001)

def add(portal, n):
    return [portal.execute(Add(f"c-{n}", 1)).version for _ in range(5)]

for store in sys.argv[1:]:
    with Engine([Counter], store=store).portal() as portal:
        assert portal.execute(Add("alone", 1)).version == 1
        ticker = gevent.spawn(tick)
        jobs = [gevent.spawn(add, portal, n) for n in range(40)]
        gevent.joinall(jobs, raise_error=True)
        assert all(job.value == [1, 2, 3, 4, 5] for job in jobs)
        assert len(list(portal.execute_many([Add("m", 1)] * 30, window=7))) == 30
        try:
            portal.execute(Look("m"))
        except Rejected as error:
            assert error.message == "30 at 30", error
        try:
            portal.call(lambda: never(), timeout=0.01)
        except TimeoutError:
            pass
        else:
            raise AssertionError("it never ends")
        threads = [threading.Thread(target=add, args=(portal, 99)) for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        ticker.kill()
    assert len(ticks) > 10, "greenlets went on while others waited"
print("all is well")
"""


class Monkey:
    """What an engine asks of `gevent.monkey`, with the originals that it keeps."""

    def __init__(self) -> None:
        self.originals = {"_thread": _thread, "time": time}
        self._sleep = time.sleep

    def is_module_patched(self, name: str) -> bool:
        return name == "threading"

    def get_original(self, module: str, name: str) -> Any:
        return self._sleep if name == "sleep" else getattr(self.originals[module], name)


def test_threads_of_the_system_are_started_past_those_that_have_taken_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("this is gevent's")

    monkeypatch.setitem(sys.modules, "gevent.monkey", Monkey())
    for module, name in WHAT_IT_REPLACES:
        monkeypatch.setattr(module, name, refuse)
    ran: list[int] = []
    go_on = native.Pause()

    def work() -> None:
        assert go_on.wait(None)
        native.native_sleep(0)
        ran.append(native.native_ident())

    thread = native.start_native(work, "never named")
    assert thread.is_alive()
    assert not ran
    go_on.end()
    thread.join()
    assert not thread.is_alive()
    assert len({*ran, _thread.get_ident()}) == 2


@pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed")
@pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
def test_a_portal_serves_greenlets_and_keeps_none_of_them_waiting(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, "memory:", f"sqlite:{tmp_path}/log.db"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert done.stdout.strip() == "all is well", done.stderr
    assert done.returncode == 0
