"""A pytest plugin under which threads dawdle: `python -m pytest -p tests.support.dawdling`.

How soon a worker's thread takes a call and answers it is nobody's promise: a slow disk and a loaded
machine decide it. So before and after its calls each thread rests here, mostly not at all and
sometimes for a long while, drawn from a seed (`DAWDLE`, 0 unless it is set). A test that fails here
and not otherwise relies on an order that nothing keeps. All tests take three times as long.
"""

from __future__ import annotations

import os
import threading
import time
from random import Random

import pytest

from engine.runtime.machine import ThreadWorker

BEFORE_SECONDS = (0.0, 0.0, 0.0, 0.001, 0.005, 0.03)
AFTER_SECONDS = (0.0, 0.0, 0.002)


def pytest_configure(config: pytest.Config) -> None:
    """Let all threads dawdle that are started from now on."""
    seed = os.environ.get("DAWDLE", "0")

    def serve(self: ThreadWorker) -> None:
        draw = Random(f"{seed} {threading.current_thread().name}")
        while (call := self._calls.get()) is not None:
            time.sleep(draw.choice(BEFORE_SECONDS))
            call()
            del call
            time.sleep(draw.choice(AFTER_SECONDS))

    patch = pytest.MonkeyPatch()
    patch.setattr(ThreadWorker, "_serve", serve)
    config.add_cleanup(patch.undo)


def pytest_report_header() -> str:
    """Say so."""
    return f"threads dawdle, by seed {os.environ.get('DAWDLE', '0')}"
