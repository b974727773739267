"""Commands under a telemetry's eyes, from their post to their answer.

Rules: the telemetry is told through its guard, so that nothing it raises reaches the command. What
it says changes nothing but the headers that the command's events are stored with. Without a
telemetry that wants commands this stands in no command's way: it is chosen once, as an engine is
made. It decides nothing, and knows no actor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import msgspec

from ..model.copying import own_copy
from ..model.messages import Command, Receipt
from ..statistics import answer_class
from ..telemetry import CommandBegan, Observation, Observer
from .mailbox import Mail, Submit

__all__ = ["ObservedSubmit", "class_of_answer", "tell_answer"]


class ObservedSubmit:
    """A `Submit` that tells a telemetry of each command that passes through it."""

    def __init__(self, watch: Observer, kinds: Mapping[type[Command], str], submit: Submit) -> None:
        """Take whom to tell, the kind of aggregate by class of command, and what posts."""
        self._watch = watch
        self._kinds = kinds
        self._submit = submit

    def __call__(self, mail: Mail, /) -> asyncio.Future[Receipt]:
        """Post mail; raises what posting raises, and the telemetry is told of that too."""
        envelope = mail.envelope
        given = envelope.headers
        began = CommandBegan(
            own_copy(envelope.command),
            self._kinds[type(envelope.command)],
            envelope.correlation,
            envelope.causation,
            None if given is None else {**given},
        )
        seen = self._watch.begin(began)
        headers = self._watch.headers_of(seen, given)
        if headers is not given:
            mail.envelope = msgspec.structs.replace(envelope, headers=headers)
        try:
            answer = self._submit(mail)
        except BaseException as error:
            self._watch.end(seen, error, answer=answer_class(type(error)))
            raise
        if seen is not None:
            answer.add_done_callback(partial(tell_answer, self._watch, seen))
        return answer


def class_of_answer(answer: asyncio.Future[Receipt]) -> str:
    """Give the class of an answer that is there: "receipt", "rejected" and so on."""
    if answer.cancelled():
        return "cancelled"
    error = answer.exception()
    return "receipt" if error is None else answer_class(type(error))


def tell_answer(watch: Observer, seen: Observation, answer: asyncio.Future[Receipt]) -> None:
    """Tell a telemetry the answer to a command, which is there."""
    told = class_of_answer(answer)
    if told != "receipt":
        error = None if answer.cancelled() else answer.exception()
        watch.end(seen, error, answer=told)
        return
    receipt = answer.result()
    watch.end(
        seen,
        None,
        answer=told,
        stream=receipt.stream,
        version=receipt.version,
        position=receipt.position,
    )
