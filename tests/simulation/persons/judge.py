"""What must be true of people's data when nothing fails any more, read anew out of the engine.

Rules: it reads the log event by event, and folds it on its own. What nobody erased is there as it
was written; what was erased is a mask; each text is under the key of the person whom it names; and
each view is what the log says today.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine import ERASED, Engine, Receipt

from .book import Book
from .hostel import (
    Booked,
    FindGuests,
    FindStays,
    Greeted,
    Guest,
    Noted,
    Registered,
    Reminded,
    Room,
    Welcomed,
)

__all__ = ["judge_end"]


async def judge_end(engine: Engine, book: Book) -> Sequence[str]:
    """Give what is not true."""
    log = await _read(engine)
    problems = _judged_texts(log, book)
    texts = {position: _text_of(event) for position, (_, event) in log.items()}
    problems += await _judged_guests(engine, log, texts)
    problems += await _judged_stays(engine, log)
    problems += await _judged_states(engine, log)
    by_post = {
        position: text
        for person in book.outside.erasable.values()
        for position, text in person.items()
    }
    for position, text in by_post.items():
        if texts[position] not in (text, ERASED):
            problems.append(f"the post has {text} at {position}, which is {texts[position]}")
    for said in book.said:
        # Of what was written while an erasure was under way the post may have lost it again.
        answer: Any = said.answer
        position = answer.position if isinstance(answer, Receipt) else 0
        is_left = said.token and book.must_be_there(said) and texts.get(position) != ERASED
        if is_left and position not in by_post:
            problems.append(f"the post never got {said} at {position}")
    for position, (_, event) in log.items():
        if isinstance(event, Registered) and position not in book.outside.kept:
            problems.append(f"no letter was written about {event} at {position}")
    return problems


async def _read(engine: Engine) -> dict[int, tuple[str, Any]]:
    """Give all events by position, with their streams."""
    end = engine.statistics().position
    log: dict[int, tuple[str, Any]] = {}
    async for entry in engine.feed():
        log[entry.meta.position] = (entry.meta.stream, entry.event)
        if entry.meta.position == end:
            break
    return log


def _text_of(event: Any) -> str:
    return getattr(event, "text", "-")


def _judged_texts(log: dict[int, tuple[str, Any]], book: Book) -> list[str]:
    problems = list[str]()
    for position, (stream, event) in log.items():
        text = _text_of(event)
        book.see(f"the feed at {position}", text)
        person = getattr(event, "guest", stream)
        if text not in ("-", "", ERASED) and not text.endswith(f" of {person}"):
            problems.append(f"{event} at {position} is of {person}, and has another's text")
    for said in book.said:
        answer: Any = said.answer
        if not isinstance(answer, Receipt):
            problems.append(f"{said} was never acknowledged")
            continue
        event = log[answer.position][1]
        if said.token and book.must_be_there(said) and _text_of(event) != said.command.text:
            problems.append(f"{said} was erased by nobody, and is {event}")
        elif said.token and _text_of(event) not in (said.command.text, ERASED):
            problems.append(f"{said} is {event}")
    return problems


async def _judged_guests(
    engine: Engine, log: dict[int, tuple[str, Any]], texts: dict[int, str]
) -> list[str]:
    expected: dict[str, list[int]] = {}
    for position, (stream, event) in log.items():
        if isinstance(event, Registered | Greeted | Reminded | Noted):
            expected.setdefault(stream, []).append(position)
    rows = {row.stream: row for row in await engine.query(FindGuests())}
    problems = list[str]()
    if {stream: row.positions for stream, row in rows.items()} != expected:
        problems.append(f"guests are {rows}, and by the log {expected}")
    for row in rows.values():
        said = "".join(f"|{texts[position]}" for position in row.positions)
        if row.texts != said:
            problems.append(f"guest {row.stream} is {row.texts}, and by the log {said}")
    return problems


async def _judged_stays(engine: Engine, log: dict[int, tuple[str, Any]]) -> list[str]:
    expected = [
        (position, event.guest, event.text)
        for position, (_, event) in log.items()
        if isinstance(event, Booked | Welcomed)
    ]
    found = [tuple(row) for row in await engine.query(FindStays())]
    return [] if found == expected else [f"stays are {found}, and by the log {expected}"]


async def _judged_states(engine: Engine, log: dict[int, tuple[str, Any]]) -> list[str]:
    last: dict[str, str] = {}
    rooms: dict[str, list[str]] = {}
    for stream, event in log.values():
        if isinstance(event, Registered):
            last[stream] = event.text
        if isinstance(event, Booked):
            rooms.setdefault(stream, []).append(event.text)
    problems = list[str]()
    for stream, text in last.items():
        found = (await engine.state(Guest, stream.removeprefix("guest:"))).text
        if found != text:
            problems.append(f"{stream} is {found}, and by the log {text}")
    for stream, said in rooms.items():
        was = (await engine.state(Room, stream.removeprefix("room:"))).texts
        if was != said:
            problems.append(f"{stream} has {was}, and by the log {said}")
    return problems
