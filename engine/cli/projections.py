"""`foldline projections`: the projections of a log, looked at and acted on from outside.

Rules: the log may be in use by an engine or at rest. To look changes nothing. What is to be done is
asked for in the views' file; a running engine does it, and where none runs the command itself does
what needs no code of the application. The exit status says what became of it. Once asked for it is
done even where the command has ended: waiting is only for the answer.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Final

import msgspec

from ..cli import projections_build
from ..outside.standings import Standing, Standings
from ..runtime.ports import Ports
from ..stores.contract.outside import Operations
from ..stores.contract.requests import Arguments
from ..stores.contract.views import Parked, ProjectionDecision
from .asking import NOT_YET, UNKNOWN, add_wait, ask_and_wait
from .layout import time_text
from .options import DONE, FAILED, USAGE, log_file, some
from .output import Output, tell
from .printing import escaped, plain
from .standing import json_line, table_of
from .tables import Table

__all__ = ["add_parser"]

LOOK_SECONDS: Final = 0.5
"""Between the two looks that a speed needs."""
WATCH_SECONDS: Final = 1.0
PAGE: Final = 100

_DESCRIPTION = """\
Look at the projections of a log and act on them, while its engine runs or not. FILE is the log; its
views are found beside it. If no engine runs, everything is done at once that needs no code of the
application. Retry, rebuild and the reset of a SqlProjection wait for an engine. At rest no
`authorize` is asked: a user who may write the files may do this."""

_EPILOG = f"""\
exit status:
  {DONE}    done, or shown
  {FAILED}    refused, or the files cannot be used. The reason is on the error stream
  {USAGE}    wrong arguments
  {NOT_YET}    not done yet: the request waits in the file, and `list` shows it
  {UNKNOWN}    unknown: the engine ended before it could answer. Look, and ask again
  130  interrupted"""

_ACTIONS: Final = {
    "pause": "let a projection rest, over restarts too",
    "resume": "let it continue, from a pause or after a failure",
    "reset": "empty its tables and fold the log into them again",
    "rebuild": "build it again beside the tables that serve",
    "cancel": "cancel what is being built",
    "drop": "remove the tables of former builds",
    "retry": "try parked events again",
    "skip": "leave an event out that is parked or has stopped it",
}


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "projections",
        help="look at projections and act on them",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_looks(actions)
    for name, told in _ACTIONS.items():
        action = _add(actions, name, told)
        action.add_argument("name", metavar="NAME", help="the projection")
        if name == "skip":
            action.add_argument("position", metavar="POSITION", type=some, help="of the event")
        if name == "retry":
            action.add_argument("--key", metavar="K", help="only events of this key")
        action.add_argument(
            "--reason", metavar="R", default="", required=name == "skip", help="it is kept"
        )
        add_wait(action)
        action.set_defaults(run=_run_act, action=name)
    projections_build.add_parser(actions)


def _add_looks(actions: Any) -> None:
    action = _add(actions, "list", "show how all projections stand")
    action.add_argument("--json", action="store_true", help="one JSON object a line")
    action.add_argument("--watch", action="store_true", help="again and again, until stopped")
    action.add_argument("--traceback", action="store_true", help="show what stopped them, too")
    action.set_defaults(run=_run_list)
    action = _add(actions, "parked", "show the events of a projection that are parked")
    action.add_argument("name", metavar="NAME", help="the projection")
    action.add_argument("--key", metavar="K", help="only events of this key")
    action.add_argument("--traceback", action="store_true", help="show why, too")
    action.add_argument("--json", action="store_true", help="one JSON object a line")
    action.set_defaults(run=_run_parked)
    action = _add(actions, "decisions", "show what people decided, the oldest first")
    action.add_argument("name", metavar="NAME", nargs="?", help="the projection (default: all)")
    action.add_argument("--json", action="store_true", help="one JSON object a line")
    action.set_defaults(run=_run_decisions)


def _add(actions: Any, name: str, told: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(
        name,
        help=told,
        description=told,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.add_argument("file", type=log_file, metavar="FILE", help="the log, as in sqlite:FILE")
    return action


# -- looking ------------------------------------------------------------------------------------


def _run_list(options: argparse.Namespace) -> int:
    # Asked to end is asked to end, by whichever signal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    output, ports = Output(utf8=options.json), Ports()
    try:
        with options.file.outside(ports).operations(readonly=True) as outside:
            _list(options, output, Standings(outside, ports.clock))
    except KeyboardInterrupt:
        if not options.watch:
            raise
    return DONE


def _list(options: argparse.Namespace, output: Output, observer: Standings) -> None:
    standings = observer.observe()
    if any(_moves(standing) for standing in standings):
        # A speed is what moves between two looks.
        output.rest(LOOK_SECONDS)
        standings = observer.observe()
    drawn = options.watch and not options.json
    with output.frames() if drawn else nullcontext(output.show) as show:
        while True:
            show(_list_parts(standings, options))
            output.flush()
            if not options.watch:
                return
            output.rest(WATCH_SECONDS)
            standings = observer.observe()


def _moves(standing: Standing) -> bool:
    built = any(build.state == "building" for build in standing.builds)
    return built or standing.state in ("live", "catching-up", "building")


def _list_parts(
    standings: Sequence[Standing], options: argparse.Namespace
) -> Sequence[str | Table]:
    if options.json:
        return [json_line(standing) for standing in standings]
    return [table_of(standings, traceback=options.traceback)]


def _run_parked(options: argparse.Namespace) -> int:
    output = Output(utf8=options.json)
    with options.file.outside(Ports()).operations(readonly=True) as outside:
        is_empty = True
        for parked in _all_parked(outside, options.name, options.key):
            is_empty = False
            output.show(_parked_lines(parked, options))
    output.flush()
    if is_empty:
        tell("no event is parked")
    return DONE


def _all_parked(outside: Operations, name: str, key: str | None) -> Iterator[Parked]:
    after = 0
    while page := outside.parked(name, key=key, after=after, limit=PAGE):
        yield from page
        after = page[-1].position


def _parked_lines(parked: Parked, options: argparse.Namespace) -> Iterator[str]:
    if options.json:
        shown = {**msgspec.to_builtins(parked), "parked": time_text(parked.parked)}
        if not options.traceback:
            del shown["cause"]
        yield escaped(msgspec.json.encode(shown).decode())
        return
    tries = f"tries: {parked.attempts}" if parked.attempts else "waits behind another"
    yield plain(
        f"{parked.position}  {time_text(parked.parked)}  {parked.key}  {parked.event} of "
        f"{parked.stream}  {tries}"
    )
    if options.traceback:
        yield from (f"    {plain(line)}" for line in parked.cause.rstrip().splitlines())


def _run_decisions(options: argparse.Namespace) -> int:
    output = Output(utf8=options.json)
    with options.file.outside(Ports()).operations(readonly=True) as outside:
        decisions = outside.decisions(options.name)
    output.show(_decision_line(decision, options) for decision in decisions)
    output.flush()
    if not decisions:
        tell("nothing was decided")
    return DONE


def _decision_line(decision: ProjectionDecision, options: argparse.Namespace) -> str:
    if options.json:
        shown = {**msgspec.to_builtins(decision), "decided": time_text(decision.decided)}
        return escaped(msgspec.json.encode(shown).decode())
    where = "" if decision.position is None else f" at {decision.position}"
    reason = f": {decision.reason}" if decision.reason else ""
    return plain(
        f"{time_text(decision.decided)}  {decision.projection}  {decision.kind}{where}  "
        f"(version {decision.version}) by {decision.principal or 'nobody named'}{reason}"
    )


# -- acting -------------------------------------------------------------------------------------


def _run_act(options: argparse.Namespace) -> int:
    arguments = Arguments(
        reason=getattr(options, "reason", ""),
        key=getattr(options, "key", None),
        position=getattr(options, "position", None),
    )
    return ask_and_wait(options, options.action, options.name, arguments)
