"""`foldline replay`: decides recorded commands again, by today's code, on the states of the log.

Rules: the application is imported and never started; nothing is written, and nothing of its
resources is called. Values of events are not shown, only the fields that differ.
"""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import aclosing
from typing import Any

import msgspec

from ..recording.replaying import Replayed, Verdict
from ..running import run
from ..stores.urls import store_of_text
from ..testing.replaying import replay
from .application import APP_HELP, engine_of
from .options import DONE, FAILED, USAGE, stream
from .output import say
from .printing import counted

__all__ = ["add_parser"]

_DESCRIPTION = """\
Decide recorded commands again, with the clock and the ids that they had, on the states that the log
had then. An engine records them with Engine(..., record="FOLDER"). Use it to look into an incident
with a debugger, and to try a new release on real commands. It also finds handlers that depend on
something besides their arguments.

Nothing is written. Commands whose handlers take resources are shown as unknown, since they would
call the world outside. `foldline.testing.replay` takes stand-ins for these."""

_EPILOG = f"""\
{APP_HELP}
JSON fields of a line: verdict (same, differs, unknown), place, command, streams, why. The last line
has the number of each verdict.

exit status:
  {DONE}    all that could be decided again gave the same
  {FAILED}    something differs, or could not be read
  {USAGE}    wrong arguments"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "replay",
        help="decide recorded commands again, and compare",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", metavar="FILE", help="the log, or a copy or backup that is restored"
    )
    parser.add_argument("app", metavar="APP", help="the application, as module:attribute")
    parser.add_argument("folder", metavar="FOLDER", help="where the commands are recorded")
    parser.add_argument(
        "--stream", type=stream, metavar="KIND:ID", help="only what was decided on this stream"
    )
    parser.add_argument("--command", metavar="NAME", help="only commands of this stored name")
    parser.add_argument("--all", action="store_true", help="show what gave the same, too")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    engine = engine_of(options.app, options.file)
    found: Counter[Verdict] = Counter()

    async def look() -> None:
        decisions = replay(
            engine,
            store_of_text(options.file),
            options.folder,
            stream=options.stream,
            command=options.command,
        )
        async with aclosing(decisions) as replayed:
            async for each in replayed:
                found[each.verdict] += 1
                if each.verdict != "same" or options.all:
                    say(_json(each) if options.json else _line(each))

    run(look)
    _tell(found, as_json=options.json)
    return FAILED if found["differs"] else DONE


def _line(each: Replayed) -> str:
    streams = ", ".join(
        f"{stream} at version {version}" for stream, version in each.decided.streams
    )
    why = f": {each.why}" if each.why else ""
    return f"{each.verdict}  {each.place}  {each.decided.command} for {streams}{why}"


def _json(each: Replayed) -> str:
    about = {
        "verdict": each.verdict,
        "place": str(each.place),
        "command": each.decided.command,
        "streams": dict(each.decided.streams),
        "why": each.why,
    }
    return msgspec.json.encode(about).decode()


def _tell(found: Counter[Verdict], *, as_json: bool) -> None:
    if as_json:
        verdicts: tuple[Verdict, ...] = ("same", "differs", "unknown")
        say(msgspec.json.encode({name: found[name] for name in verdicts}).decode())
        return
    say(
        f"{counted(found.total(), 'decision')}: {found['same']:,} gave the same, "
        f"{found['differs']:,} differ, {found['unknown']:,} could not be decided again"
    )
