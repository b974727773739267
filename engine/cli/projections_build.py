"""`foldline projections build`: builds a new version beside the old release, which serves.

Rules: the application is imported with the new definition and never started; the old release goes
on, in its own process. How far the build is stands on the error stream. It may be interrupted, and
goes on where it was when it is run again.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import Any, Final

from ..engine import Engine
from ..errors import UsageError
from ..outside.build import Ending, OutsideBuild
from ..running import run
from ..runtime.package import COMMAND
from ..runtime.ports import Ports
from ..statistics import BuildProgress
from .application import APP_HELP, engine_of
from .options import DONE, FAILED, USAGE, named_log
from .output import tell, terminal_of
from .printing import counted, plain

__all__ = ["add_parser"]

INTERRUPTED: Final = 130
LINE_SECONDS: Final = 5.0
"""Between two lines of progress, where they do not go to a terminal."""

_DESCRIPTION = """\
Build a new version of a projection from another process, while the former release writes and
serves. When it has caught up with the end of the log, start the new release. That finds the build,
folds the rest and swaps it in. Until then --follow keeps it up to date."""

_EPILOG = f"""\
{APP_HELP}

exit status:
  {DONE}    the build has caught up, or an engine has taken it over
  {FAILED}    it cannot be built, an event cannot be folded, or somebody has dropped it. The reason
       is on the error stream
  {USAGE}    wrong arguments
  {INTERRUPTED}  interrupted, and with --follow {DONE}. Run it again: it continues where it was"""


def add_parser(actions: Any) -> None:
    """Add the action."""
    action = actions.add_parser(
        "build",
        help="build a new version beside a release that runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    action.add_argument("file", type=named_log, metavar="FILE", help="the log, as in sqlite:FILE")
    action.add_argument("app", metavar="APP", help="the new release, as module:attribute")
    action.add_argument("name", metavar="NAME", help="the projection")
    action.add_argument(
        "--follow", action="store_true", help="keep up with the log until interrupted"
    )
    action.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    engine = engine_of(options.app, options.file.text)
    beside = _beside(engine, options)
    shown = _Shown(Ports())
    status: list[int] = []

    async def build() -> None:
        status.append(await _build(beside, shown, options))

    run(build)
    return status[0]


def _beside(engine: Engine, options: argparse.Namespace) -> OutsideBuild:
    declared = {p.__definition__.name: p for p in engine.declared}
    if options.name not in declared:
        raise UsageError(
            f"{options.app} declares no projection {options.name!r}; it declares {sorted(declared)}"
        )
    return OutsideBuild(declared[options.name], engine.registry, options.file.backend)


async def _build(beside: OutsideBuild, shown: _Shown, options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with beside:
            ending = await beside.run(shown.show, follow=options.follow)
    except asyncio.CancelledError:
        shown.end()
        tell("interrupted: run it again, it goes on where it was")
        return DONE if options.follow else INTERRUPTED
    shown.end()
    return _tell_ending(ending, options.name)


def _tell_ending(ending: Ending, name: str) -> int:
    progress = ending.progress
    build = f"build {progress.number}, version {progress.version} of projection {name}"
    if ending.why == "caught-up":
        tell(
            f"{build}, has caught up with the log at position {progress.position:,}: start the new "
            f"release, which swaps it in"
        )
    elif ending.why == "taken-over":
        tell(
            f"{build}, is an engine's now, which folds the rest and swaps it in. If a former "
            f"release runs, which leaves it alone, cancel it first: `{COMMAND} projections "
            f"cancel`"
        )
    elif ending.why == "dropped":
        tell(
            f"error: {build}, was dropped by another process (a rebuild or a cancel of the former "
            f"release): start again to build it anew"
        )
    elif ending.why == "built-by-another":
        tell(f"error: {build}, is built by another process that was started later: this one ends")
    elif ending.failure is not None:
        failure = ending.failure
        what = f", {plain(f'{failure.event} of {failure.stream}')}" if failure.event else ""
        tell(
            f"error: {build}, stopped at position {failure.position}{what}: mend it and run this "
            f"again, or leave the event out with `{COMMAND} projections skip`\n"
            f"{failure.cause.rstrip()}"
        )
    return DONE if ending.why in ("caught-up", "taken-over") else FAILED


class _Shown:
    """How far it is: a bar on a terminal, or a line from time to time elsewhere."""

    def __init__(self, ports: Ports) -> None:
        self._now = ports.clock.monotonic
        terminal = terminal_of(sys.stderr)
        self._bar = None if terminal is None else terminal.bar("built")
        self._shown_at: float | None = None

    def show(self, progress: BuildProgress) -> None:
        """Show it; leave a line out where the last one was just now."""
        if self._bar is not None:
            end = progress.position + progress.lag_events
            self._bar.show(progress.position, end, _line(progress))
            return
        now = self._now()
        if self._shown_at is None or now - self._shown_at >= LINE_SECONDS:
            self._shown_at = now
            tell(_line(progress))

    def end(self) -> None:
        """Let what comes next begin on a line of its own."""
        if self._bar is not None:
            self._bar.end()


def _line(progress: BuildProgress) -> str:
    left = counted(progress.lag_events, "event")
    text = f"build {progress.number} at {progress.position:,}, {left} to go"
    if progress.events_per_second:
        text += f", {progress.events_per_second:,.0f} events/s"
    if progress.seconds_left is not None and progress.lag_events:
        text += f", {progress.seconds_left:,.0f} s left"
    return text
