"""Forks this process for a moment, as a host of the engine may."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable


def status_of_fork(child: Callable[[], object]) -> int:
    """Run a call in a fork; give 0 where it gave true, 1 where it did not, 2 where it raised."""
    pid = begin_fork(child)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def begin_fork(child: Callable[[], object]) -> int:
    """Begin it, and give its number."""
    with warnings.catch_warnings():
        # Newer Pythons warn of it where there are threads; hosts do it all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 2
        try:
            status = 0 if child() else 1
        finally:
            os._exit(status)
    return pid
