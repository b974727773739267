"""Every bound of the engine, in one place, with the relations that must hold between them.

Rules: nothing in the engine grows without a bound, and every bound stands here. Counts are in the
unit of the name; sizes are in bytes. A full queue is answered at once, never waited on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .errors import DefinitionError

__all__ = [
    "CLAIM_LENGTH_MAX",
    "ID_LENGTH_MAX",
    "KEY_LENGTH_MAX",
    "KEY_WINDOW",
    "NAME_LENGTH_MAX",
    "NESTING_MAX",
    "SUBJECT_LENGTH_MAX",
    "TAGS_MAX",
    "Limits",
]

CLAIM_LENGTH_MAX = 500
"""Characters of a unique value that an aggregate claims."""
SUBJECT_LENGTH_MAX = 500
"""Characters of the name of a person whose data an event has."""
ID_LENGTH_MAX = 255
"""Characters of an aggregate's id."""
KEY_LENGTH_MAX = 255
"""Characters of a command's key."""
TAGS_MAX = 8
"""Tags of an event."""
NAME_LENGTH_MAX = 64
"""Characters of a stored name: of a kind, an event, a projection."""
KEY_WINDOW = 1_000
"""Versions of a stream within which a key is remembered, unless the kind says otherwise."""
NESTING_MAX: Final = 950
"""Levels to which an event's values are nested. Python's own limit is 1,000 calls, of which a fresh
stack leaves nearly all; SQLite's functions for JSON stop at 1,000 levels too."""


_BITS_MAX: Final = 53
"""Of a bound: as many as a float has, which timers take."""
_MAY_BE_0: Final = frozenset(("projector_gather_ms", "control_poll_ms"))
"""What 0 switches off."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one engine. Raises DefinitionError where they contradict each other."""

    commands_accepted: int = 65_536
    """Commands in the engine that have no answer yet, over all aggregates."""
    mailbox_commands: int = 4_096
    """Commands that wait for one aggregate."""
    resident_aggregates: int = 100_000
    """Aggregates kept in memory; beyond it the least recently used one at rest leaves."""
    idle_seconds: int = 600
    """Seconds without a command after which an aggregate at rest leaves memory; up to half as many
    more may pass."""
    loads_at_once: int = 256
    """Cold aggregates that one read of the store gathers."""
    handler_seconds: int = 30
    """Seconds that an async handler may take; a deadline may end it sooner."""
    loop_blocked_ms: int = 100
    """Milliseconds for which the event loop may be blocked before the stack is logged."""
    turn_commands: int = 128
    """Commands handled before the event loop gets its turn, and the first of them their commit.
    With more, all clients of a closed loop are in one batch, and writer and actors wait for each
    other."""
    actor_commands: int = 64
    """Commands that one actor handles before the next one gets its turn."""
    batch_events: int = 4_096
    """Events of one commit, unless a single command has more."""
    batch_bytes: int = 8 * 1024 * 1024
    """Payload and metadata of one commit, unless a single command has more."""
    command_events: int = 4_096
    """Events of one command."""
    event_bytes: int = 1024 * 1024
    """Payload of one event, and likewise its metadata."""
    command_aggregates: int = 16
    """Aggregates that one joint decision is about."""
    command_claims: int = 256
    """Unique values that one command claims and releases."""
    command_timers: int = 256
    """Timers that one command sets and cancels, and commands that it leads to."""
    timers_at_once: int = 512
    """Commands of timers that are in the engine at the same time; the others that are due wait."""
    timer_retries: int = 5
    """How often the command of a timer is tried again after its handler has failed, before the
    timer is set aside. It waits longer each time: a second, doubled up to five minutes. What may
    pass by itself, OSError and a deadline, is tried for an hour at least."""
    reply_bytes: int = 16 * 1024
    """Reply to one command, encoded; it is kept with the command's key."""
    snapshot_bytes: int = 8 * 1024 * 1024
    """State of the snapshots that wait to be written; beyond it they are dropped."""
    page_events: int = 1_000
    """Events that one page of the feed or of a cold load holds."""
    page_bytes: int = 8 * 1024 * 1024
    """Payload of one page, unless a single event has more."""
    bus_events: int = 8_192
    """Events that wait on the bus for one projector or feed; beyond it these read the log."""
    bus_bytes: int = 32 * 1024 * 1024
    """Payload and metadata of the events that wait on the bus for one projector or feed; likewise.
    A batch that is larger by itself is read from the log."""
    feeds: int = 1_000
    """Feeds that are read at the same time, from their first event to their end. Each holds two
    pages. A following one also holds what waits on the bus for it."""
    projector_events: int = 1_000
    """Events that a projector folds into one transaction."""
    projector_gather_ms: int = 10
    """Milliseconds for which a projector that follows lets events gather, from one batch to the
    next. It does so while many come and no `query(at=...)` waits for it. 0 switches it off."""
    projector_rows: int = 20_000
    """Rows that a projector keeps in memory between two transactions."""
    projector_bytes: int = 64 * 1024 * 1024
    """Bytes and characters of these rows; what is on its way to the views may take as much again.
    A batch ends early that would take more than an eighth of it, unless one event does."""
    projector_retries: int = 5
    """How often a projector retries by itself after a failure that may pass, before it stops or
    sets the event aside. It waits longer each time: 50 ms, doubled up to 5 s. Where the views find
    no room, or are locked or out of reach, it retries until they are not."""
    sink_events: int = 100
    """Events that a sink is given at once."""
    sink_seconds: int = 30
    """Seconds that one delivery may take; then it is cancelled, and half of it is tried."""
    sink_erase_seconds: int = 60
    """Seconds that `erase` of a sink may take. Then it is cancelled, and called again. A read model
    elsewhere may have to write everything again, and has sixty times as long."""
    sink_retries: int = 1_000
    """As `projector_retries`, for a sink. A system outside may be away for longer: with waits of up
    to 5 s these are more than an hour."""
    sink_stop_seconds: int = 5
    """Seconds that a delivery, `erase` of a sink, or a statement of a SqlProjection, may take when
    the engine stops. Then it is cancelled, and made again after the next start."""
    reactor_events: int = 4_096
    """Events that one reactor has under way, or done ahead of one that takes longer."""
    reactions_at_once: int = 512
    """Streams because of whose events one reactor executes commands at the same time."""
    reaction_commands: int = 256
    """Commands that a reaction gives because of one event."""
    reaction_depth: int = 64
    """Reactions in a row, each to an event that the one before led to. Beyond it they are taken for
    a circle, and the event is parked with ReactionTooDeep."""
    parked_events: int = 10_000
    """Events that one part of a projection sets aside; beyond it the projection stops."""
    query_rows: int = 10_000
    """Rows that one page of a query's answer may hold."""
    query_bytes: int = 64 * 1024 * 1024
    """Bytes of such a page, as SQL gives it; in memory it may take three times as much."""
    query_values: int = 1_000
    """Values that `one_of` may ask for at once."""
    answers_at_once: int = 64
    """Answers that read the views at the same time, one state of them each; others wait for their
    turn."""
    state_seconds: int = 30
    """Seconds, from its first read on, for which an answer may read one state of the views. Their
    write-ahead log grows in that time. A later read raises TimeoutError."""
    waits_at: int = 10_000
    """Queries `at` a position that wait for projections at the same time."""
    watched_queries: int = 10_000
    """Different queries that are watched at the same time, however many watch each."""
    watches: int = 100_000
    """Watchers of these queries at the same time."""
    watched_rows: int = 1_000
    """Single rows that a watched query may depend on; one that reads more depends on their whole
    tables."""
    watched_bytes: int = 256 * 1024 * 1024
    """Bytes of the answers that watched queries hold for those that watch, one each, as JSON; in
    memory they may take three times as much. A watch whose answer would go beyond ends with
    Overloaded."""
    asks_at_once: int = 16
    """Watched queries that are asked at the same time; the others wait for their turn."""
    ask_seconds: int = 30
    """Seconds that the answer to a watched query may take."""
    pasts: int = 4
    """Views as of a position or a time that are open at once."""
    past_bytes: int = 256 * 1024 * 1024
    """Tables of one of these, in memory."""
    search_characters: int = 500
    """Characters of a text that is searched for."""
    control_poll_ms: int = 500
    """Milliseconds between two looks at whether `foldline projections` asks for something from
    another process. 0 switches it off."""

    def __post_init__(self) -> None:
        """Check each bound, and the relations between them."""
        for name in self.__struct_fields__:
            least, value = 0 if name in _MAY_BE_0 else 1, getattr(self, name)
            if type(value) is not int or not value.bit_length() <= _BITS_MAX:
                raise DefinitionError(
                    f"Limits.{name} is a whole number below 2**{_BITS_MAX}, not this "
                    f"{type(value).__name__}"
                )
            if value < least:
                raise DefinitionError(f"Limits.{name} is {value}: give at least {least}")
        for small, large in (
            ("mailbox_commands", "commands_accepted"),
            ("actor_commands", "turn_commands"),
            ("event_bytes", "batch_bytes"),
            ("event_bytes", "page_bytes"),
        ):
            if getattr(self, small) > getattr(self, large):
                raise DefinitionError(
                    f"Limits.{small} is {getattr(self, small)}, above Limits.{large} at "
                    f"{getattr(self, large)}: lower the first or raise the second"
                )
