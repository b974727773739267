"""A question to a log and its views, answered by a process that can be ended: `shell_child`.

Rules: whoever asks waits so long as was said, and for the start of a process besides. Where the one
who asks is interrupted, or nothing is heard, the process is killed, whatever it is in.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec

from ....errors import StoreRefused, UsageError
from ....runtime.package import bare_import
from ...contract.outside import Rows
from .shell_child import Given, Question, Refused

__all__ = ["Question", "ask_bounded"]

STARTING_SECONDS: Final = 30
"""What is waited for beyond a statement's time, which the process keeps itself: Python begins."""

_BEGIN: Final = (
    "import sys; import json; sys.path[:] = json.loads(sys.argv[1]); "
    f"{bare_import('stores.sqlite.outside.shell_child', 'main')}; main()"
)
"""Takes this process's own path of modules. It is run with -I, so nothing else is on its own."""


def ask_bounded(question: Question) -> Rows:
    """Give the whole answer; no file is open any more when it returns.

    Raises UsageError for what cannot be run, or takes too long or too much, and StoreRefused for
    files that cannot be read.
    """
    with _terminated_as_interrupted():
        child = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a caller
            [sys.executable, "-I", "-c", _BEGIN, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with child:
            try:
                said, _ = child.communicate(
                    msgspec.msgpack.encode(question), question.seconds + STARTING_SECONDS
                )
            except subprocess.TimeoutExpired:
                raise _too_long(question) from None
            finally:
                child.kill()
                child.wait()
    return _rows_of(said, child.returncode, question)


def _rows_of(said: bytes, status: int, question: Question) -> Rows:
    if status in (-signal.SIGALRM, -signal.SIGKILL):
        raise _too_long(question)
    try:
        answer = msgspec.msgpack.decode(said, type=Given | Refused)
    except msgspec.DecodeError:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        raise UsageError(
            f"the process that ran the statement ended {how}, without an answer: the files are "
            f"damaged, or the statement took more memory than there is"
        ) from None
    if isinstance(answer, Refused):
        raise (StoreRefused if answer.by_store else UsageError)(answer.text)
    return Rows(answer.names, answer.rows, answer.more)


def _too_long(question: Question) -> UsageError:
    return UsageError(f"the statement took longer than {question.seconds} s and was ended")


@contextmanager
def _terminated_as_interrupted() -> Generator[None]:
    """Let SIGTERM meanwhile be what Ctrl-C is, so that the process inside ends with this one."""
    former: Any = None
    with suppress(ValueError):  # not the main thread: it gets no signals
        former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)
