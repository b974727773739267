"""Where a command's lines go: a terminal, a file, a pipe whose other end may close at any time.

Rules: lines go to the output and everything else to the error stream. Whatever is written to either
is plain (`printing`): what others wrote moves no cursor and becomes no line of its own, in
a table, an error or a traceback. A closed pipe is the wish of whoever read it, and no failure: what
only shows ends then, and what acts or checks goes on to its end and its status (`say`, `tell`). A
line that cannot be written for another reason is an error like any other. This file knows no log
and no events.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Final, TextIO, cast

from .printing import PlainStream, is_text, plain, plain_lines
from .tables import Table

if TYPE_CHECKING:
    from .terminal import Terminal

__all__ = [
    "Output",
    "abandon_output",
    "check_texts",
    "own_the_terminal",
    "run_plainly",
    "say",
    "show",
    "tell",
    "terminal_of",
    "unread",
]

DONE: Final = 0
FAILED: Final = 1
NOT_DRAWN: Final = (
    "what changes is written below what was: to draw a screen takes rich (the extra `cli`: "
    "pip install '../foldline[cli]') and a terminal that can"
)


def say(line: str) -> None:
    """Write a line to the output: what became of an act or a check, which ends if nobody reads."""
    with unread(sys.stdout):
        sys.stdout.write(plain(line) + "\n")


def show(parts: Iterable[str | Table], stream: TextIO | None = None) -> None:
    """Write lines and tables to the output, which are a command's answer, or to another stream."""
    output = Output(utf8=False, stream=stream)
    output.show(parts)
    output.flush()


def tell(text: str) -> None:
    """Write a line to the error stream; of a traceback, its lines."""
    with unread(sys.stderr):
        sys.stderr.write(plain_lines(text) + "\n")
        sys.stderr.flush()


@contextmanager
def unread(stream: TextIO) -> Generator[None]:
    """Let a closed pipe end nothing: what is written from then on goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        abandon_output(stream)


def terminal_of(stream: TextIO) -> Terminal | None:
    """Give the terminal that a stream leads to; None where it is none, or rich is not installed."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return None
    try:
        from .terminal import Terminal
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        return None
    return Terminal(stream)


@contextmanager
def plain_errors() -> Generator[None]:
    """Let nothing that is written to the error stream meanwhile move a cursor."""
    former = sys.stderr
    if not isinstance(former, PlainStream):
        sys.stderr = cast("TextIO", PlainStream(former))
    try:
        yield
    finally:
        sys.stderr = former


def own_the_terminal() -> None:
    """Make the streams of this process safe to its end: at the end of a program, not of a test.

    What ends the program with a traceback is then written plainly too. A stream that was closed
    when the program began leads nowhere, so that no file that is opened takes its place.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr = cast("TextIO", PlainStream(sys.stderr))


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # noqa: PTH123 - until the process ends


def run_plainly(main: Callable[[], int]) -> int:
    """Run a command and write out what it has written; give its exit status."""
    with plain_errors():
        try:
            status = main()
            with unread(sys.stdout):
                sys.stdout.flush()
        except BrokenPipeError:
            abandon_output()
            return DONE
        except OSError as error:
            # It was no file of the command's: those are told by their names where they are opened.
            tell(f"error: {plain(str(error))}")
            abandon_output()
            return FAILED
        return status


def check_texts(arguments: Sequence[str]) -> str | None:
    """Give what is wrong with arguments that are no text, or None."""
    for argument in arguments:
        if not is_text(argument):
            return f"the argument {plain(argument)} is not UTF-8"
    return None


def abandon_output(stream: TextIO | None = None) -> None:
    """Keep the interpreter from flushing once more, when it ends, what cannot be written."""
    try:
        number = (stream or sys.stdout).fileno()
    except (OSError, ValueError):
        return  # nothing that the system knows of
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


class Output:
    """The output of a command. Writing raises BrokenPipeError when nobody reads it any more."""

    def __init__(self, *, utf8: bool, stream: TextIO | None = None) -> None:
        """Take a stream, or the process's output; `utf8` whatever a terminal's encoding is."""
        self._stream: TextIO = stream or sys.stdout
        # Whoever replaced the process's output may have given it no encoding to choose.
        reconfigure = getattr(self._stream, "reconfigure", None)
        if reconfigure is not None:
            encoding = "utf-8" if utf8 else None
            reconfigure(encoding=encoding, errors="backslashreplace")

    def write(self, line: str) -> None:
        """Write a line; it may wait for `flush`."""
        self._stream.write(plain(line) + "\n")

    def write_lines(self, text: str) -> None:
        """Write what is one row in a form that lets a row have lines, as CSV does."""
        self._stream.write(plain_lines(text) + "\n")

    def show(self, parts: Iterable[str | Table]) -> None:
        """Write lines and tables: by rich on a terminal, as plain text elsewhere."""
        for part in parts:
            if isinstance(part, str):
                self.write(part)
            elif self.terminal is not None:
                self.terminal.show(part)
            else:
                self.show([part.heading(), *part.lines()])

    @contextmanager
    def frames(self) -> Generator[Callable[[Iterable[str | Table]], None]]:
        """Give what shows lines and tables in place of those before; elsewhere, below them."""
        if self.terminal is not None:
            with self.terminal.frames() as draw:
                yield draw
            return
        if self._stream.isatty():
            tell(NOT_DRAWN)
        yield lambda parts: self.show(["", *parts])

    @cached_property
    def terminal(self) -> Terminal | None:
        """The terminal that can be drawn on; None where there is none, or rich is not installed."""
        return terminal_of(self._stream)

    def flush(self) -> None:
        """Let everything out."""
        self._stream.flush()

    def rest(self, seconds: float) -> None:
        """Wait, and raise BrokenPipeError as soon as whoever read the output has gone."""
        watch = select.poll()
        # Nothing is asked but whether the other end is there.
        watch.register(self._stream.fileno(), 0)
        found = watch.poll(seconds * 1_000)
        if any(what & (select.POLLERR | select.POLLHUP) for _, what in found):
            raise BrokenPipeError
        if found:
            # Some systems cannot poll a terminal, and say so at once.
            select.select([], [], [], seconds)
