"""What the host's objects may not do to the engine: raise out of a log line or out of a text.

Rules: every log line of the engine goes through `SafeLogger`, and every exception of the host is
told by `described`. Whatever a filter, a handler, `__str__` or `__repr__` raises ends there. A
logger that logging's own configuration has disabled is told of once, through the root logger. An
exception that is no `Exception` (SystemExit, CancelledError) out of the host's code becomes one
by `as_error`, so that it fails what it belongs to and ends no task. Nothing here raises, once an
engine is made.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from ..errors import DefinitionError

__all__ = [
    "HostFailed",
    "SafeLogger",
    "as_error",
    "described",
    "of_a_task",
    "safe_logger",
    "shows_messages",
    "text_of",
]

_TEXT_MAX = 2_000
"""Characters of an exception's text that are told."""


class HostFailed(Exception):
    """The host's code raised what is meant to end a task or a process; it is in `__cause__`."""


def as_error(error: BaseException) -> Exception:
    """Give an error that fails one command or one event, and ends nothing else."""
    if isinstance(error, Exception):
        return error
    failed = HostFailed(f"it raised {type(error).__name__}, which is no Exception")
    failed.__cause__ = error
    return failed


def of_a_task(error: BaseException) -> BaseException:
    """Give what a task may end in: an exit would end the event loop with it.

    GeneratorExit is itself where no loop runs: the loop has been closed under the task.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return error
    return as_error(error)


def described(error: BaseException) -> str:
    """Give type and text of an error, or the type alone where it has no text to give."""
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def text_of(error: BaseException) -> str:
    """Give the text of an error, or why there is none."""
    try:
        return str(error)[:_TEXT_MAX]
    except BaseException as failure:
        return f"its text cannot be had, since its __str__ raised {type(failure).__name__}"


class SafeLogger(logging.Logger):
    """The host's logger, for the engine: what it raises is dropped, and its line goes to stderr."""

    def __init__(self, inner: logging.Logger, messages: bool) -> None:
        """Take the host's logger, and whether messages of the host's exceptions are logged."""
        super().__init__("foldline")
        self._inner = inner
        self.messages = messages
        self.failures = 0
        """Lines that the logger did not take."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Tell what the host's logger tells; yes where it raises."""
        try:
            if level >= logging.WARNING and getattr(self._inner, "disabled", False):
                _tell_disabled(self._inner)
            return bool(self._inner.isEnabledFor(level))
        except BaseException:
            return True

    def _log(
        self, level: int, msg: object, args: Any, exc_info: Any = None, *_: Any, **options: Any
    ) -> None:
        # One frame more than without it, so that the line names who logs.
        stacklevel = int(options.get("stacklevel", 1)) + 1
        try:
            self._inner.log(level, msg, *args, exc_info=exc_info, stacklevel=stacklevel)
        except BaseException as failure:
            self.failures += 1
            self._log_otherwise(level, msg, args, failure)

    def _log_otherwise(self, level: int, msg: object, args: Any, failure: BaseException) -> None:
        try:
            text = f"{msg} (told here, because the logger raised {type(failure).__name__})"
            record = logging.LogRecord(self.name, level, __file__, 0, text, args, None)
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
        except BaseException:
            return  # nobody is left to tell


_disabled: Final[set[str]] = set()
"""Loggers of which was told that they are disabled."""


def _tell_disabled(logger: logging.Logger) -> None:
    """Tell once that nobody will see what is logged: a line is about to be lost."""
    if logger.name in _disabled:
        return
    _disabled.add(logger.name)
    logging.getLogger().error(
        "the logger %s is disabled, and loses the warnings and errors of the engine from here on: "
        "logging.config disables each logger that it does not name. Give dictConfig or fileConfig "
        "disable_existing_loggers=False. To be told less, raise the logger's level instead",
        logger.name,
    )


def safe_logger(logger: logging.Logger | None, *, messages: bool = True) -> SafeLogger:
    """Give a logger that never raises, over the host's; the one named "foldline" for None."""
    if isinstance(logger, SafeLogger):
        return logger
    if logger is not None and not hasattr(logger, "log"):
        raise DefinitionError(
            f"logger= is a logger, as logging.getLogger(...), not a {type(logger).__name__}"
        )
    return SafeLogger(logger or logging.getLogger("foldline"), messages)


def shows_messages(logger: logging.Logger) -> bool:
    """Tell whether the messages of the host's exceptions are to be logged."""
    return isinstance(logger, SafeLogger) and logger.messages
