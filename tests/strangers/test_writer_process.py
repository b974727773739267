"""The process that writes a log: its end is heard, its answers fit, and it runs nobody's code."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from engine import Closed, Engine, EngineFailed
from engine.errors import StoreFailed
from engine.model.stored import Snapshot
from engine.runtime.ports import Ports
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.process.store import SqliteProcessStore
from engine.testing.conformance import append, feed, numbers, request
from tests.strangers.forking import status_of_fork
from tests.support.counters import Add, Counter


def child_of(store: SqliteProcessStore) -> subprocess.Popen[bytes]:
    assert store._child is not None
    return store._child


# -- its end ----------------------------------------------------------------------------------


async def test_an_engine_at_rest_whose_writer_dies_has_failed(tmp_path: Path) -> None:
    store = SqliteProcessStore(str(tmp_path / "log.db"))
    engine = Engine([Counter], store=store)
    await engine.__aenter__()
    await engine.execute(Add("a", 1))
    child_of(store).kill()
    await asyncio.wait_for(store.ended(), 20)
    assert engine._wiring.supervisor.task is not None
    await asyncio.wait([engine._wiring.supervisor.task], timeout=20)

    assert engine.statistics().state == "failed"
    assert isinstance(engine.failed, StoreFailed)
    with pytest.raises(Closed):
        await engine.execute(Add("a", 1))
    with pytest.raises(EngineFailed):
        await engine.__aexit__(None, None, None)
    async with Engine([Counter], store=SqliteProcessStore(store.path)) as again:
        assert (await again.execute(Add("a", 1))).version == 2


async def test_what_a_dead_writer_was_not_asked_is_not_written(tmp_path: Path) -> None:
    """Also before this process has heard of its end."""
    store = SqliteProcessStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    child = child_of(store)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(StoreFailed, match="was not asked for this") as failed:
        await append(store, request("a:1", 0, 1))
    assert (failed.value.written, failed.value.stopped) == (False, True)
    await store.close()


async def test_an_engine_that_is_stopped_does_not_wait_for_its_writers_end(tmp_path: Path) -> None:
    async with Engine([Counter], store=f"sqlite:{tmp_path / 'log.db'}?writer=process") as engine:
        await engine.execute(Add("a", 1))
    assert engine.failed is None


async def test_a_start_that_is_cancelled_does_not_wait_for_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "log.db")
    store = SqliteStore(path)
    await store.open(Ports())
    other = SqliteProcessStore(path, open_timeout=600)
    starting = asyncio.ensure_future(other.open(Ports()))
    while not other._unanswered:
        await asyncio.sleep(0)
    starting.cancel()
    done, _ = await asyncio.wait([starting], timeout=60)
    assert done
    await append(store, request("a:1", 0, 1))
    await store.close()


class SlowToStart(SqliteProcessStore):
    """One whose child is started when the test lets it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.same: bool | None = None

    def _start(self, descriptor: int) -> subprocess.Popen[bytes]:
        before = os.fstat(descriptor)
        self.begun.set()
        self.goes_on.wait(60)
        self.same = os.path.samestat(before, os.fstat(descriptor))
        return super()._start(descriptor)


async def test_a_start_that_is_cancelled_gives_its_child_no_other_file(tmp_path: Path) -> None:
    """The number of a closed line may be that of a file or a socket of the host's."""
    store = SlowToStart(str(tmp_path / "log.db"))
    starting = asyncio.ensure_future(store.open(Ports()))
    while not store.begun.is_set():
        await asyncio.sleep(0)
    starting.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    others = socket.socketpair()
    store.goes_on.set()
    done, _ = await asyncio.wait([starting], timeout=60)
    assert done
    assert starting.cancelled()
    assert store.same
    for other in others:
        other.close()
    async with Engine([Counter], store=SqliteProcessStore(store.path)) as engine:
        assert (await engine.execute(Add("a", 1))).version == 1


async def test_a_fork_of_the_host_has_no_end_of_the_line(tmp_path: Path) -> None:
    store = SqliteProcessStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    line = store._descriptor
    nothing = Path(os.devnull).stat()
    assert status_of_fork(lambda: os.path.samestat(os.fstat(line), nothing)) == 0
    await append(store, request("a:1", 0, 1))
    await store.close()


# -- its answers ------------------------------------------------------------------------------


async def test_a_call_that_cannot_be_sent_takes_no_answer_of_another(tmp_path: Path) -> None:
    store = SqliteProcessStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    too_large: Any = 2**64
    for _ in range(3):
        with pytest.raises(StoreFailed, match="cannot be sent") as failed:
            await store.write_snapshots([Snapshot("a:1", 1, 1, 5, too_large, b"{}")])
        assert (failed.value.written, failed.value.stopped) == (False, False)
    await append(store, request("a:1", 0, 1))
    await store.write_snapshots([Snapshot("a:1", 1, 1, 5, 1, b"{}")])
    await append(store, request("a:1", 1, 2))
    assert numbers(await feed(store)) == [1, 2]
    await store.close()


async def test_an_answer_that_cannot_be_read_ends_the_store(tmp_path: Path) -> None:
    store = SqliteProcessStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    child_of(store).send_signal(signal.SIGSTOP)
    asked = asyncio.ensure_future(append(store, request("a:1", 0, 1)))
    while not store._unanswered:
        await asyncio.sleep(0)
    store._received(b"\xc1")
    with pytest.raises(StoreFailed) as failed:
        await asked
    assert failed.value.written is None
    child_of(store).send_signal(signal.SIGCONT)
    await store.close()


# -- what it imports --------------------------------------------------------------------------

_PROGRAM = textwrap.dedent(
    """
    import asyncio, os, sys
    from pathlib import Path
    sys.path.insert(0, Path("no text"))
    from engine import Engine
    from tests.support.counters import Add, Counter

    async def main():
        os.chdir(sys.argv[2])
        async with Engine([Counter], store=sys.argv[1] + "?writer=process") as engine:
            print((await engine.execute(Add("a", 1))).position)
    asyncio.run(main())
    """
)
TREE = Path(__file__).parents[2]
MODULES = ("json", "msgspec", "apsw", "engine", "sitecustomize", "usercustomize", "encodings")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PYTHONPATH": ":"},
        {"PYTHONPATH": "."},
        {"PYTHONSTARTUP": "startup.py", "PYTHONINSPECT": "1"},
        {"PYTHONUSERBASE": "."},
        {"PYTHONWARNINGS": "error::json.Warned"},
    ],
)
def test_nothing_of_the_current_folder_is_imported(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The program itself is started elsewhere, and goes there only then."""
    start, uploads = tmp_path / "start", tmp_path / "uploads"
    start.mkdir()
    uploads.mkdir()
    for name in (*MODULES, "startup"):
        text = f"import os; open({str(tmp_path)!r} + '/ran-{name}', 'w').close()\n"
        (uploads / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, f"sqlite:{tmp_path / 'log.db'}", str(uploads)],
        cwd=TREE,
        env={**os.environ, **environment},
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.stdout.splitlines()[:1] == ["1"], done.stderr
    assert [path.name for path in tmp_path.glob("ran-*")] == []
