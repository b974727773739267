"""Processes that look at a log together for `foldline verify`, each at a stretch at a time.

Rules: stretches are given in their order, whoever looked at them, and no more wait than a few for
each process. One of them looks at the structure first. They hash alike. A process that ends before
it has answered is an error: nothing is called sound that nobody has read. All have ended when the
block ends.
"""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

import msgspec

from ..errors import StoreFailed
from ..outside.stretches import STRETCH, LogInspector, Shape, Stretch
from ..runtime.interpreter import can_begin, child_arguments, child_environment, cores
from ..stores.contract.tags import TagForm
from .verify_child import Answer, Question, Task, read_message, write_message

__all__ = ["LARGE", "Helper", "Helpers"]

LARGE: Final = 200_000
"""Events from which on others begin by themselves: with fewer, Python takes longer to begin."""
_AHEAD: Final = 4
"""Stretches for each process that may wait for an earlier one."""
_SEED: Final = str(hash("verify") % 2**32)
"""Of the hashes of all; by chance, as this process has its own."""
_answer: Final = msgspec.msgpack.Decoder(Answer).decode


class Helpers:
    """Whoever looks at a log: `single`, or so many processes that are begun for it."""

    def __init__(self, single: LogInspector, task: Task, jobs: int | None) -> None:
        """Without `jobs`, a large log has one on each core, or one that gives way to an engine."""
        self._single = single
        self._task = task
        self._jobs = jobs
        self._helpers: list[Helper] = []
        self._shape: Shape | None = None

    def __enter__(self) -> Helpers:
        """Begin none yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all."""
        for helper in self._helpers:
            helper.end()

    def stretches(self, end: int, forms: Sequence[TagForm]) -> Iterator[Stretch]:
        """Give all stretches up to a position, in order."""
        jobs = self._jobs
        if jobs is None:
            jobs = 0 if end < LARGE else 1 if self._task.gives_way else cores()
        if jobs + self._task.gives_way < 2 or not can_begin():  # this process is one by itself
            yield from self._single.stretches(end, forms)
            return
        # One looks at the structure, and more than there are stretches have nothing to do.
        wanted = min(jobs, 1 + -(-end // STRETCH))
        self._helpers = [Helper(self._task) for _ in range(wanted)]
        yield from self._shared(end, forms)

    def _shared(self, end: int, forms: Sequence[TagForm]) -> Iterator[Stretch]:
        idle, ready, asked, given = [*self._helpers], dict[int, Stretch](), 0, 0
        idle.pop(0).ask(Question())
        while given < end:
            while idle and asked < min(end, given + _AHEAD * STRETCH * len(self._helpers)):
                question = Question(asked, min(asked + STRETCH, end), forms)
                idle.pop(0).ask(question)
                asked = question.end
            for helper in self._heard():
                after, answer = helper.asked.after, helper.hear()
                idle.append(helper)
                if answer.stretch is not None:
                    ready[after] = answer.stretch
                else:
                    self._shape = answer.shape
            while given in ready:
                stretch = ready.pop(given)
                given = stretch.last
                yield stretch

    def _heard(self) -> list[Helper]:
        """Wait until somebody answers; give who does."""
        busy = [helper for helper in self._helpers if helper.is_asked]
        return select.select(busy, [], [])[0]

    def shape(self) -> Shape:
        """Give what the structure is like."""
        if not self._helpers:
            return self._single.shape()
        while self._shape is None:
            for helper in self._heard():
                self._shape = helper.hear().shape
        return self._shape


class Helper:
    """One process."""

    def __init__(self, task: Task) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a caller
            child_arguments("cli.verify_child"),
            env=child_environment(PYTHONHASHSEED=_SEED),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Of Ctrl-C, the command hears alone: it ends these.
            start_new_session=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.questions, self._answers = self.process.stdin, self.process.stdout
        self.asked = Question()
        self.is_asked = False
        self._say(task)

    def ask(self, question: Question) -> None:
        """Ask; nobody waits for the answer yet."""
        self.asked, self.is_asked = question, True
        self._say(question)

    def hear(self) -> Answer:
        """Wait for the answer. Raises StoreFailed where there is none."""
        data = read_message(self._answers)
        if data is None:
            raise self._gone()
        self.is_asked = False
        answer = _answer(data)
        if answer.failed is not None:
            raise StoreFailed(answer.failed, written=False)
        return answer

    def _say(self, message: Task | Question) -> None:
        try:
            write_message(self.questions, message)
        except BrokenPipeError as error:
            raise self._gone() from error

    def _gone(self) -> StoreFailed:
        status = self.process.wait()
        return StoreFailed(
            f"a process that looked at the log ended with status {status} before it had answered: "
            f"verify once more, with --jobs 1 if that is so again",
            written=False,
        )

    def fileno(self) -> int:
        """Give the descriptor of what it answers, for whoever waits."""
        return self._answers.fileno()

    def end(self) -> None:
        """End it; it has nothing to lose."""
        self.process.kill()
        with suppress(BrokenPipeError), self.process:  # which waits, and closes both ends
            return
