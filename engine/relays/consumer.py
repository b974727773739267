"""A consumer: takes messages from a broker, and executes what they ask for.

Rules: the message's source and id are the command's key, so that a message that comes again changes
nothing, and another one of the same id is another command. A message is acknowledged when its
command has a receipt, and never before. What can never be run is published where the host said,
with the reason; no message ends the consumer, whatever is in it. What the engine has no room for
now is tried again, with waits, and no more is taken than the window. Commands for one aggregate
keep the order of their messages (`lanes`). One that waits for another service is set aside, with
what comes behind it, and the others go on (`hand`). A broker that is down is waited for; one that
refuses ends the consumer with an error, unless it was down a moment ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Any, Final, TypeAlias, cast

import msgspec

from ..brokers.address import Weakness, read_address
from ..brokers.client import check_installed, load
from ..engine import Engine
from ..errors import (
    BrokerFailed,
    Closed,
    Conflict,
    DefinitionError,
    EventUnread,
    Forbidden,
    HandlerFailed,
    KeyReused,
    MessageRefused,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    UsageError,
    Voided,
    WrongVersion,
)
from ..limits import KEY_LENGTH_MAX
from ..model.given import as_function
from ..model.messages import Command, Envelope, check_name
from ..runtime.contained import contained, is_unreached
from ..runtime.safely import safe_logger
from .hand import Hand, Lane
from .inlet import Inlet, Message, Received, open_inlet
from .lanes import ids_of, lanes_of
from .outlet import SETTLE_SECONDS

__all__ = ["Consumed", "Consumer"]

ToCommand: TypeAlias = Callable[[Message], Command | Envelope | None]

SECONDS: Final = 0.05
SECONDS_MAX: Final = 5.0
"""How long it waits before it tries again: doubled each time, up to this."""
ROOM_SECONDS_MAX: Final = 0.5
"""The same where the engine had no room, up to this."""
_DOUBLINGS_MAX: Final = 16
TOLD_MAX: Final = 5
"""Failures of a broker in a row that are logged one by one."""
_CARRIED: Final = ("traceparent", "tracestate")
_NEVER: Final = (Rejected, KeyReused, UsageError, Forbidden, WrongVersion)
"""Answers that another try would get again."""
_PASSES: Final = (Overloaded, Voided, Conflict, EventUnread, OutcomeUnknown)
"""Answers of an engine that has no room now, that waits for a former release to go, or will know
it when it is asked again."""
AWAY_TRIES: Final = 1_000
"""Tries of a command whose handler does not reach another service, at least: for over an hour."""
RETRIES_TOLD: Final = 16
"""Tries of one command that are not logged; then each doubling of them is."""


class Consumed(msgspec.Struct, frozen=True):
    """What a consumer has done since it was made."""

    received: int
    """Messages, those included that came again."""
    executed: int
    """Commands that got a receipt, also the receipt of a former time."""
    passed: int
    """Messages for which `to_command` gave None."""
    buried: int
    """Messages that can never be run, and were published to `dead`."""
    retries: int
    """Commands that were sent again since the engine could not run them then."""
    failures: int
    """Failures of the broker."""
    failure: str | None
    """What is wrong with the broker now, if anything is."""


class Consumer:
    """Executes commands that messages of a broker ask for.

    - `source`: the broker, by the URL that a Relay takes.
    - `topic`: what is read: the subject of NATS, the queue of RabbitMQ or SQS, the stream of Redis,
      or the topic of Kafka.
    - `name`: how the broker remembers what was read: a durable consumer, a consumer group. One
      process at a time reads under a name.
    - `to_command`: gives the command of a message, or an Envelope, or None for a message to pass
      over. What it raises buries the message.
    - `dead`: the topic to which a message is published that can never be run, with the reason as
      header `foldline-reason`.
    - `window`: messages that are taken and have no receipt yet, at most.
    - `tries`: how often a command is tried that fails by the aggregate's own code, or is not
      decided within its deadline. The waits between are up to half a second. If a handler does not
      reach another service, the command is tried for over an hour, with waits up to 5 seconds.
    - `allow`, `tls`: as for a Relay.

    Raises DefinitionError.
    """

    def __init__(
        self,
        source: str,
        *,
        topic: str,
        name: str,
        to_command: ToCommand,
        dead: str,
        window: int = 256,
        tries: int = 3,
        allow: Sequence[Weakness] = (),
        tls: ssl.SSLContext | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self._address = read_address(source, allow)
        check_installed(self._address)
        self._name = check_name(name, "consumer", 'Write Consumer(..., name="orders").')
        if not topic or not dead or topic == dead or window < 1 or tries < 1:
            raise DefinitionError(
                f"consumer {name!r}: topic= and dead= are two topics, and window= and tries= are "
                f"at least 1"
            )
        as_function(f"consumer {name!r}: to_command", to_command)
        self._inlet: Inlet = open_inlet(self._address, name, topic, dead, tls)
        self._to_command = to_command
        self._window = window
        self._tries = tries
        self._logger = safe_logger(logger, messages=True)
        self._counts = dict.fromkeys(Consumed.__struct_fields__[:-1], 0)
        self._hand = Hand()
        self._away: dict[str | None, int] = {}
        """By key: failed tries of commands that wait for a service, also from before a failure of
        the broker."""
        self._failure: str | None = None

    def statistics(self) -> Consumed:
        """Give the numbers as they are now."""
        return Consumed(**self._counts, failure=self._failure)

    @asynccontextmanager
    async def running(self, engine: Engine) -> AsyncGenerator[Consumer]:
        """Run it beside a block: `async with Engine(...) as e, consumer.running(e)`.

        At the end of the block it is stopped. Raises there what `run` has raised.
        """
        task = asyncio.create_task(self.run(engine), name=f"foldline consumer {self._name}")
        task.add_done_callback(self._tell_end)
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def run(self, engine: Engine) -> None:
        """Take messages until it is cancelled, or the engine stops.

        Raises BrokerFailed where an operator must act: credentials, a topic, encryption. Raises
        UsageError for an engine that was not started, or runs elsewhere.
        """
        _check_here(engine)
        await load(self._address)
        failed_in_a_row, away = 0, -SETTLE_SECONDS
        try:
            while True:
                _check_cancelled()
                try:
                    room = self._window - self._hand.count
                    received = await self._inlet.fetch(room) if room > 0 else ()
                    await self._execute_all(engine, received)
                    failed_in_a_row, self._failure = 0, None
                except (BrokerFailed, Closed) as failed:
                    await self._hand.drop()
                    await self._inlet.close()
                    if _has_ended(engine):
                        return
                    failed_in_a_row += 1
                    self._counts["failures"] += 1
                    self._failure = str(failed)
                    now = asyncio.get_running_loop().time()
                    if not isinstance(failed, BrokerFailed) or failed.passes:
                        away = now
                    elif now >= away + SETTLE_SECONDS:
                        raise
                    if failed_in_a_row <= TOLD_MAX:
                        self._logger.warning("consumer %s: %s; it retries", self._name, failed)
                    await _wait(failed_in_a_row)
        except asyncio.CancelledError:
            await self._acknowledge_rest()
            raise
        finally:
            await self._hand.drop()
            await self._inlet.close()

    async def _acknowledge_rest(self) -> None:
        """Acknowledge what was finished while it waited for messages."""
        if self._hand.done:
            with contextlib.suppress(BrokerFailed):
                await self._acknowledge(self._hand.taken_done())

    def _tell_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._logger.error("consumer %s has stopped: %s", self._name, task.exception())

    async def _execute_all(self, engine: Engine, received: Sequence[Received]) -> None:
        """Execute a batch, lane by lane, and acknowledge what is done of all that is in hand."""
        self._counts["received"] += len(received)
        hand = self._hand
        taken: list[tuple[Received, Envelope]] = []
        lost: list[tuple[Received, str]] = []
        for each in received:
            if not each.message.id:
                lost.append((each, "it has no id"))  # none that is the same when it comes again
                continue
            try:
                envelope = self._envelope_of(each.message)
            except BaseException as raised:
                error = contained(raised)
                lost.append((each, f"to_command raised {type(error).__name__}"))
                continue
            if envelope is None:
                self._counts["passed"] += 1
                hand.done.append(each)
            else:
                taken.append((each, envelope))
        named = [ids_of(envelope.command) for _, envelope in taken]
        for places in lanes_of(named):
            ids = frozenset[str]().union(*(named[n] for n in places))
            run = partial(self._execute_lane, engine, [taken[n][1] for n in places])
            hand.begin([taken[n][0] for n in places], run, ids)
        # Beside the others: it may be that the dead have no room.
        hand.begin([each for each, _ in lost], partial(self._bury_all, [why for _, why in lost]))
        try:
            failed = await hand.settled(is_full=hand.count >= self._window)
        finally:
            await self._acknowledge(hand.taken_done())
        if failed is not None:
            await self._inlet.release(await hand.drop())
            raise failed

    async def _acknowledge(self, done: Sequence[Received]) -> None:
        """Acknowledge what has a receipt to the end, also where it is stopped meanwhile."""
        call = asyncio.ensure_future(self._inlet.acknowledge(done))
        try:
            await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])  # as long as the broker may take for an answer
            if not call.cancelled() and call.exception() is not None:
                self._logger.warning("consumer %s: %s", self._name, call.exception())
            raise

    async def _execute_lane(
        self, engine: Engine, envelopes: Sequence[Envelope], lane: Lane
    ) -> None:
        """Execute commands that wait for each other, one after the other."""
        for envelope in envelopes:
            reason = await self._execute(engine, envelope, lane)
            self._away.pop(envelope.key, None)
            if reason is None:
                self._counts["executed"] += 1
                lane.finish()
            else:
                await self._bury(lane, reason)

    async def _execute(self, engine: Engine, envelope: Envelope, lane: Lane) -> str | None:
        """Execute a command; give why it can never be run, if that is so. Raises Closed."""
        name = lane.left[0].message.id
        failed = self._away.get(envelope.key, 0)
        for tried in range(1, 10**9):
            most = ROOM_SECONDS_MAX
            try:
                await engine.execute(
                    envelope.command,
                    key=envelope.key,
                    expected=envelope.expected,
                    deadline=envelope.deadline,
                    correlation=envelope.correlation,
                    causation=envelope.causation,
                    principal=envelope.principal,
                    headers=envelope.headers,
                )
            except Closed:
                raise
            except _PASSES as error:
                self._tell_tries(name, tried, error)
            except Exception as error:  # whatever a message can make of a command
                is_away = _is_away(error)
                if isinstance(error, _NEVER) and not is_away:
                    return _reason_of(error)
                failed += 1
                if failed >= max(self._tries, AWAY_TRIES if is_away else 0):
                    return _reason_of(error)
                if is_away:
                    self._away[envelope.key] = failed
                    lane.set_aside()
                    self._tell_tries(name, failed, error)
                    most = SECONDS_MAX
            else:
                return None
            self._counts["retries"] += 1
            await _wait(tried, most)
        raise AssertionError("it tries for years")

    def _tell_tries(self, name: str, tried: int, error: Exception) -> None:
        if tried >= RETRIES_TOLD and tried.bit_count() == 1:
            text = "consumer %s: message %s is not run after %d tries (%s); it is tried on"
            self._logger.warning(text, self._name, name, tried, type(error).__name__)

    async def _bury_all(self, reasons: Sequence[str], lane: Lane) -> None:
        for reason in reasons:
            await self._bury(lane, reason)

    async def _bury(self, lane: Lane, reason: str) -> None:
        received = lane.left[0]
        self._logger.error(
            "consumer %s cannot run message %s, and publishes it to the dead: %s",
            self._name,
            received.message.id,
            reason,
        )
        try:
            await self._inlet.bury(received, reason)
        except MessageRefused as refused:
            text = "consumer %s: message %s stays where it is, and comes again: %s"
            self._logger.error(text, self._name, received.message.id, refused)
        else:
            self._counts["buried"] += 1
        lane.left.popleft()

    def _envelope_of(self, message: Message) -> Envelope | None:
        """Give what a message asks for, with the message's id as key."""
        made: Any = self._to_command(message)
        if made is None:
            return None
        if isinstance(made, Command):
            found = message.attributes
            headers = {name: found[name] for name in _CARRIED if name in found}
            made = Envelope(
                command=cast("Any", made),
                correlation=found.get("correlationid"),
                headers=headers or None,
            )
        if not isinstance(made, Envelope):
            raise UsageError("to_command gives a Command, an Envelope, or None")
        if made.key is not None:
            return made
        return msgspec.structs.replace(made, key=_key_of(message))


def _key_of(message: Message) -> str:
    """Give the key of a message's command: what names it, or a digest of what is too long.

    An id is unique for its source only, and without a source for its topic.
    """
    name = f"{message.attributes.get('source') or message.topic} {message.id}"
    if len(name) <= KEY_LENGTH_MAX and name.isprintable():
        return name
    return sha256(name.encode(errors="surrogateescape")).hexdigest()


def _reason_of(error: Exception) -> str:
    """Give why a command is not run, without what may be private."""
    return f"Rejected: {error.code}" if isinstance(error, Rejected) else type(error).__name__


def _is_away(error: Exception) -> bool:
    """Tell whether a handler, or the hook `authorize`, did not reach another service."""
    return isinstance(error, HandlerFailed | Forbidden) and is_unreached(error)


def _check_here(engine: Engine) -> None:
    """Raise UsageError where the engine would refuse each command, and no message is to blame."""
    try:
        loop = engine.usable_loop()
    except Closed:
        return
    if loop is not asyncio.get_running_loop():
        raise UsageError("a consumer runs in the event loop of its engine")


def _has_ended(engine: Engine) -> bool:
    """Tell whether the engine takes no command any more; a member may only have no owner now."""
    try:
        engine.usable_loop()
    except Closed:
        return True
    return False


def _check_cancelled() -> None:
    """Raise CancelledError where it was asked for: a client may have lost it on the way."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _wait(times: int, most: float = SECONDS_MAX) -> None:
    await asyncio.sleep(min(SECONDS * 2.0 ** min(times - 1, _DOUBLINGS_MAX), most))
