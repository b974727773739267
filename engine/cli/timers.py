"""`foldline timers FILE`: lists the commands that wait for their time, verifies them, acts on one.

Rules: to list and to verify only reads, whoever has the log open. It ends with the page, and says
how to go on. What is in a command is not shown. To fire or to cancel one is asked for in the views,
as `foldline projections` does: the engine that fires timers does it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from ..outside.timers import ComparedTimers, compare_timers
from ..runtime.ports import Ports
from ..stores.contract.outside import LogReader
from ..stores.contract.requests import Arguments
from ..stores.contract.timers import WaitingTimer, timer_target
from .asking import NOT_YET, UNKNOWN, add_wait, ask_and_wait
from .layout import time_text
from .options import DONE, FAILED, USAGE, log_file, some
from .output import Output, tell
from .tables import Column, Table, numbers

__all__ = ["add_parser"]

_DIFFERENCES_MAX: Final = 20
_PAGE: Final = 1_000

_DESCRIPTION = """\
List the commands that wait for their time, in the order of their streams and names. The log may be
in use by its engine. A timer whose command has failed too often is parked.

--fire runs the command of one timer now, also if it has failed or was cancelled.

--cancel keeps it from being run. The timer stays in the log, set aside, with who cancelled it and
why. The engine that runs does both. If none runs, the next one does it before it fires any timer.

--verify reads the whole log, in which each timer is kept that was set, cancelled or fired, and
compares it with the table of timers. It needs memory for all timers. A command that wrote nothing
leaves no trace in the log: a timer that is due may have been fired."""

_EPILOG = f"""\
JSON fields: stream, name, due (µs since 1970), command, position (of the event that set it), next
(when it is tried next), attempts, parked, cause

exit status:
  {DONE}    shown, also if there are none; verified; or done
  {FAILED}    refused, or the file cannot be read, or the table is not what the log says
  {USAGE}    wrong arguments
  {NOT_YET}    not done yet: the request waits for an engine
  {UNKNOWN}    unknown: the engine ended before it could answer. Look, and ask again
  130  interrupted"""


class _Shown(msgspec.Struct, frozen=True):
    """A timer as it is shown: without what is in its command."""

    stream: str
    name: str
    due: int
    command: str
    position: int
    next: int
    attempts: int
    parked: bool
    cause: str


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "timers",
        help="list the commands that wait for their time",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=log_file, metavar="FILE", help="the log, as in sqlite:FILE")
    parser.add_argument("--name", metavar="N", help="only timers of this name, as payment")
    parser.add_argument("--parked", action="store_true", help="only those that are parked")
    parser.add_argument(
        "--after", nargs=2, metavar=("S", "N"), help="begin after the timer N of the stream S"
    )
    parser.add_argument(
        "--limit", type=some, default=50, metavar="N", help="most timers of a page (default: 50)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--verify", action="store_true", help="compare the table with the log")
    act = parser.add_mutually_exclusive_group()
    fire, cancel = "run the command of the timer N of the stream S now", "do not run it"
    act.add_argument("--fire", nargs=2, metavar=("S", "N"), help=fire)
    act.add_argument("--cancel", nargs=2, metavar=("S", "N"), help=cancel)
    parser.add_argument("--reason", metavar="R", default="", help="why; it is kept")
    add_wait(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.fire or options.cancel:
        return _act(options)
    ports = Ports()
    with options.file.outside(ports).log_reader() as reader:
        if options.verify:
            return _tell(compare_timers(reader, ports.clock.now()))
        found = list(_timers(reader, options, options.limit + 1))
    output = Output(utf8=options.json)
    shown = found[: options.limit]
    output.show(_lines(shown) if options.json else [_table(shown)] if shown else [])
    output.flush()
    if not found:
        tell("no timer matches")
    elif len(found) > len(shown):
        last = shown[-1]
        tell(f"more after {last.stream} {last.name}: --after {last.stream} {last.name}")
    return DONE


def _act(options: argparse.Namespace) -> int:
    kind = "fire-timer" if options.fire else "cancel-timer"
    stream, name = options.fire or options.cancel
    arguments = Arguments(reason=options.reason, stream=stream, timer=name)
    return ask_and_wait(options, kind, timer_target(stream, name), arguments)


def _timers(reader: LogReader, options: argparse.Namespace, most: int) -> Iterator[WaitingTimer]:
    after: tuple[str, str] = ("", "") if options.after is None else tuple(options.after)
    while most and (page := reader.read_timers(after, timers_max=_PAGE)):
        for timer in page:
            wanted = options.name in (None, timer.name) and (timer.parked or not options.parked)
            if wanted and most:
                most -= 1
                yield timer
        after = page[-1].key


def _lines(timers: Sequence[WaitingTimer]) -> Iterator[str]:
    for timer in timers:
        told = {name: getattr(timer, name) for name in _Shown.__struct_fields__}
        yield msgspec.json.encode(_Shown(**told)).decode()


def _table(timers: Sequence[WaitingTimer]) -> Table:
    columns = [Column(name) for name in ("DUE", "STREAM", "NAME", "COMMAND", "STATE")]
    table = Table(*columns, *numbers(POSITION=0))
    for timer in timers:
        cells = time_text(timer.due), timer.stream, timer.name, timer.command, _state(timer)
        table.add(*cells, f"{timer.position}")
    return table


def _state(timer: WaitingTimer) -> str:
    if timer.cancelled:
        return timer.cause
    if timer.parked:
        return f"parked: {timer.cause}"
    return f"failed {timer.attempts}x: {timer.cause}" if timer.attempts else timer.cause or "waits"


def _tell(compared: ComparedTimers) -> int:
    if not compared.differences:
        tell(f"verified: {compared.timers:,} timers, up to position {compared.position:,}")
        return DONE
    for (stream, name), log, table in compared.differences[:_DIFFERENCES_MAX]:
        tell(f"{name} of {stream}: the log says {_said(log)}, and the table {_said(table)}")
    tell(
        f"error: {len(compared.differences):,} timers are not what the log says at position "
        f"{compared.position:,}. Another program has written to the table of timers"
    )
    return FAILED


def _said(timer: WaitingTimer | None) -> str:
    if timer is None:
        return "that it is not there"
    return f"that it was set at position {timer.position} for {time_text(timer.due)}"
