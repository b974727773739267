"""How a command asks the engine of a log for something, and waits for its answer.

Rules: what is asked for waits in the views until it is done. Where no engine runs, what needs no
code of the application is done here. Once asked for it is done even where the command has ended:
waiting is only for the answer. The exit status says what became of it.
"""

from __future__ import annotations

import argparse
from typing import Final

from ..runtime.ports import Ports
from ..stores.contract.outside import Operations
from ..stores.contract.requests import TIMER_KINDS, Arguments, Request
from .options import DONE, FAILED, seconds
from .output import Output, say, tell
from .printing import plain

__all__ = ["NOT_YET", "UNKNOWN", "add_wait", "ask_and_wait"]

NOT_YET: Final = 3
UNKNOWN: Final = 4
_WAIT_SECONDS: Final = 10
_POLL_SECONDS: Final = 0.1


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how long to wait."""
    parser.add_argument(
        "--wait",
        type=seconds,
        default=_WAIT_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for the engine's answer (default: {_WAIT_SECONDS})",
    )


def ask_and_wait(options: argparse.Namespace, kind: str, target: str, arguments: Arguments) -> int:
    """Ask for something, wait for its answer and tell it; give the exit status.

    Of the options `file` and `wait` are looked at. Raises UsageError, Overloaded, StoreRefused.
    """
    ports = Ports()
    with options.file.outside(ports).operations() as outside:
        number = outside.ask(kind, target, arguments)
        deadline = ports.clock.monotonic() + options.wait
        try:
            request, at_rest = _wait(outside, number, deadline, ports)
        except BrokenPipeError:
            # Whoever would have read the answer has gone; what was asked for is done all the same.
            return NOT_YET
    return _tell_answer(request, options, at_rest=at_rest)


def _wait(outside: Operations, number: int, deadline: float, ports: Ports) -> tuple[Request, bool]:
    """Wait for the answer; give the request, and whether it waits for an engine that is not there.

    Where no engine runs, or it ends meanwhile, what needs none is done here.
    """
    output = Output(utf8=False)
    while True:
        request = outside.request(number)
        if request.answered is not None:
            return request, False
        if outside.do_at_rest():
            request = outside.request(number)
            return request, request.answered is None
        if ports.clock.monotonic() >= deadline:
            return request, False
        output.rest(_POLL_SECONDS)


def _tell_answer(request: Request, options: argparse.Namespace, *, at_rest: bool) -> int:
    what = f"{request.kind} {request.projection}"
    if request.state == "done":
        say(f"{what}: {request.answer}")
        return DONE
    if request.state == "refused":
        tell(f"refused: {plain(request.answer)}")
        return FAILED
    if request.state == "unknown":
        tell(f"unknown: {plain(request.answer)}")
        return UNKNOWN
    if at_rest:
        why = "" if request.kind in TIMER_KINDS else f", and {what} needs the application's code"
        tell(
            f"request {request.number} waits: no engine has {options.file.name} open{why}. An "
            f"engine does it when it starts"
        )
    else:
        tell(
            f"request {request.number} is not done after {options.wait} s, and waits: the engine "
            f"is busy, or does not look (Limits.control_poll_ms). It is done without this command"
        )
    return NOT_YET
