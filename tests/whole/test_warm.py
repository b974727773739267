"""Processes that are forked for tests are as the interpreter makes them (`tests.support.warm`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import warm

RUNS: Sequence[Callable[..., subprocess.CompletedProcess[Any]]] = (warm.run, subprocess.run)
SAYS_WHAT_IT_IS = """
import json, os, signal, sys, threading
print(json.dumps([
    sys.argv, os.getcwd(), sys.path, __name__, sys.stdin.read(), sys.flags.dev_mode,
    [(s.encoding, s.errors, s.line_buffering, s.fileno()) for s in (sys.stdin, sys.stdout)],
    (sys.stderr.encoding, sys.stderr.errors, sys.stderr.line_buffering),
    str(signal.getsignal(signal.SIGINT)), str(signal.getsignal(signal.SIGCHLD)),
    sorted(os.environ), sorted(os.listdir("/dev/fd"))[:3], threading.active_count(),
]))
print("an error", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "program",
    [
        SAYS_WHAT_IT_IS,
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a text')",
        "import os; os._exit(7)",
        "import os; os.kill(os.getpid(), 9)",
        "import atexit; atexit.register(print, 'at the end'); print('unflushed', end='')",
        "import threading, time; threading.Timer(0.01, print, ['a thread']).start()",
    ],
    ids=["what it is", "status", "text", "_exit", "killed", "atexit", "thread"],
)
def test_a_warm_process_is_as_a_cold_one(tmp_path: Path, program: str) -> None:
    command = [sys.executable, "-c", program, "ä", "\udce9"]
    env = {**os.environ, "PYTHONPATH": f"{warm.ROOT}:{tmp_path}", "ONE_MORE": "1"}
    settings: dict[str, Any] = {"cwd": tmp_path, "env": env, "input": "in", "text": True}
    both = [run(command, capture_output=True, **settings) for run in RUNS]

    told = [(done.returncode, done.stdout, done.stderr) for done in both]
    assert told[0] == told[1]


def test_a_module_is_run_as_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text("import sys; print(__name__, sys.argv[0], sys.path[0])")
    command = [sys.executable, "-m", "said"]
    told = [run(command, cwd=tmp_path, capture_output=True, text=True).stdout for run in RUNS]

    assert told[0] == told[1] != ""


def test_a_warm_process_is_waited_for_and_killed() -> None:
    program = "import time; print('on', flush=True); time.sleep(60)"
    with warm.Warm([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
        process.kill()


def test_what_python_reads_when_it_starts_is_read_cold() -> None:
    program = "import sys; print(sys.stdout.encoding, 'engine' in sys.modules)"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", program]

    assert warm.run(command, env=env, capture_output=True, text=True).stdout == "ascii False\n"
    assert warm.run(command, capture_output=True, text=True).stdout.endswith(" True\n")
