"""What the views keep beside their rows: parked events, decisions, requests, failures.

Rules: parked events move in the transaction of the checkpoint that passes them. A decision is
appended and never changed. A request is appended by who asks and changed by who does it, and its
number is never used twice. PostgreSQL's texts have no NUL, and these may: it is written as two
other characters. Everything here runs inside the caller's transaction.
"""

# ruff: noqa: S608 - names in the SQL here are the engine's own

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ....model.texts import as_text
from ....statistics import ProjectionFailure
from ...contract.requests import (
    ANSWER_CHARACTERS_MAX,
    REQUESTS_KEPT,
    REQUESTS_OPEN_MAX,
    Arguments,
    Outcome,
    Request,
)
from ...contract.views import Changes, Parked, Part, ProjectionDecision, Standstill
from ..driver import Record
from .link import Link

__all__ = ["Books", "kept", "shown"]

_OPEN: Final = "state IN ('waiting', 'begun')"
_REQUEST: Final = "number, kind, projection, arguments, asked, principal, state, answer, answered"
_PARKED: Final = "position, key, event, stream, parked, attempts, cause"
_DECISION: Final = "projection, kind, decided, version, position, reason, principal, checksum"


def kept(text: str) -> str:
    """Give a text as PostgreSQL can hold it: no NUL, and no half of a character."""
    text = as_text(text)
    if "\0" in text or "\1" in text:
        return text.replace("\1", "\1\2").replace("\0", "\1\1")
    return text


def shown(text: str) -> str:
    """Give a text back as it was."""
    if "\1" in text:
        return text.replace("\1\1", "\0").replace("\1\2", "\1")
    return text


class Books:
    """The statements of one schema of views."""

    def __init__(self, schema: str) -> None:
        self._schema = f'"{schema}"'

    def _in(self, query: str) -> str:
        return query.replace("{s}", self._schema)

    async def run(self, link: Link, query: str, *values: Any) -> Sequence[Record]:
        """Run a statement where `{s}` is the schema."""
        return await link.run(self._in(query), *values)

    # -- what is parked -----------------------------------------------------------------------

    async def move_parked(self, link: Link, changes: Changes) -> None:
        """Set aside what a batch could not fold, and forget what is in the tables now."""
        part = changes.part
        at = (part.definition.name, part.build)
        for p in changes.parked:
            await self.run(
                link,
                "INSERT INTO {s}.parked VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
                "ON CONFLICT (projection, build, position) DO UPDATE SET slice = excluded.slice, "
                "key = excluded.key, event = excluded.event, stream = excluded.stream, "
                "parked = excluded.parked, attempts = excluded.attempts, cause = excluded.cause",
                *(*at, p.position, part.slice, kept(p.key), kept(p.event), kept(p.stream)),
                *(p.parked, p.attempts, kept(p.cause)),
            )
        if changes.released:
            await self.run(
                link,
                "DELETE FROM {s}.parked WHERE projection = $1 AND build = $2 "
                "AND position = ANY ($3::bigint[])",
                *(*at, list(changes.released)),
            )

    async def parked_keys(self, link: Link, part: Part) -> Mapping[str, int]:
        """Give how many events of which keys are parked."""
        rows = await self.run(
            link,
            "SELECT key, count(*) FROM {s}.parked WHERE projection = $1 AND build = $2 "
            "AND slice = $3 GROUP BY key",
            *(part.definition.name, part.build, part.slice),
        )
        return {shown(key): count for key, count in rows}

    async def count_parked(self, link: Link) -> Mapping[tuple[str, int], int]:
        """Give how many events are parked, by projection and build."""
        rows = await self.run(
            link, "SELECT projection, build, count(*) FROM {s}.parked GROUP BY projection, build"
        )
        return {(projection, build): count for projection, build, count in rows}

    async def parked(
        self, link: Link, projection: str, build: int, key: str | None, after: int, limit: int
    ) -> Sequence[Parked]:
        """Give parked events, of one key or all, in order of position."""
        rows = await self.run(
            link,
            f"SELECT {_PARKED} FROM {{s}}.parked WHERE projection = $1 AND build = $2 "
            "AND position > $3 AND ($4::text IS NULL OR key = $4) ORDER BY position LIMIT $5",
            *(projection, build, after, None if key is None else kept(key), limit),
        )
        return [
            Parked(position, shown(key), shown(event), shown(stream), at, attempts, shown(cause))
            for position, key, event, stream, at, attempts, cause in rows
        ]

    # -- decisions ----------------------------------------------------------------------------

    async def add_decision(self, link: Link, decision: ProjectionDecision) -> None:
        """Keep a decision; one to skip an event takes it out of what is parked."""
        d = decision
        principal = None if d.principal is None else kept(d.principal)
        await self.run(
            link,
            f"INSERT INTO {{s}}.decisions ({_DECISION}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            *(d.projection, d.kind, d.decided, d.version, d.position, kept(d.reason)),
            *(principal, d.checksum),
        )
        if decision.kind == "skip":
            await self.run(
                link,
                "DELETE FROM {s}.parked WHERE projection = $1 AND position = $2 AND build IN ("
                "SELECT number FROM {s}.builds WHERE projection = $1 AND version = $3)",
                *(d.projection, d.position, d.version),
            )

    async def decisions(self, link: Link, projection: str | None) -> Sequence[ProjectionDecision]:
        """Give what was decided, the oldest first."""
        rows = await self.run(
            link,
            f"SELECT {_DECISION} FROM {{s}}.decisions "
            "WHERE $1::text IS NULL OR projection = $1 ORDER BY number",
            projection,
        )
        return [
            ProjectionDecision(
                name,
                kind,
                decided,
                version,
                position,
                shown(reason),
                None if principal is None else shown(principal),
                checksum,
            )
            for name, kind, decided, version, position, reason, principal, checksum in rows
        ]

    async def skipped(self, link: Link, projection: str, version: int) -> Mapping[int, int]:
        """Give what is to be skipped: the checksum of each event by its position."""
        rows = await self.run(
            link,
            "SELECT position, checksum FROM {s}.decisions "
            "WHERE projection = $1 AND version = $2 AND kind = 'skip' ORDER BY number",
            *(projection, version),
        )
        return {position: checksum for position, checksum in rows}  # noqa: C416 - records

    async def is_paused(self, link: Link, projection: str) -> bool:
        """Tell whether the last word on a projection was to pause it."""
        rows = await self.run(
            link,
            "SELECT kind FROM {s}.decisions WHERE projection = $1 "
            "AND kind IN ('pause', 'resume') ORDER BY number DESC LIMIT 1",
            projection,
        )
        return bool(rows) and rows[0][0] == "pause"

    # -- requests -----------------------------------------------------------------------------

    async def add_request(self, link: Link, request: Request) -> int:
        """Append a request; give its number, and let the oldest answered ones go."""
        arguments = msgspec.json.encode(request.arguments).decode()
        principal = None if request.principal is None else kept(request.principal)
        ((number,),) = await self.run(
            link,
            "INSERT INTO {s}.requests (kind, projection, arguments, asked, principal, state, "
            "answer) VALUES ($1, $2, $3, $4, $5, 'waiting', '') RETURNING number",
            *(request.kind, request.projection, arguments, request.asked, principal),
        )
        await self.run(
            link,
            f"DELETE FROM {{s}}.requests WHERE number <= $1 AND NOT {_OPEN}",
            number - REQUESTS_KEPT,
        )
        return int(number)

    async def count_open(self, link: Link) -> int:
        """Give how many requests have no answer yet, up to as many as may wait."""
        rows = await self.run(
            link,
            f"SELECT count(*) FROM (SELECT 1 FROM {{s}}.requests WHERE {_OPEN} LIMIT $1) AS open",
            REQUESTS_OPEN_MAX,
        )
        return int(rows[0][0])

    async def oldest_open(self, link: Link) -> Request | None:
        """Give the first request that has no answer yet."""
        found = await self._requests(link, f"{_OPEN} ORDER BY number LIMIT 1")
        return found[0] if found else None

    async def open_requests(self, link: Link) -> Sequence[Request]:
        """Give all requests that have no answer yet, in order."""
        return await self._requests(link, f"{_OPEN} ORDER BY number")

    async def requests(self, link: Link) -> Sequence[Request]:
        """Give all requests that are kept, in order."""
        return await self._requests(link, "true ORDER BY number")

    async def request(self, link: Link, number: int) -> Request | None:
        """Give a request, or None where it is not kept any more."""
        found = await self._requests(link, "number = $1", number)
        return found[0] if found else None

    async def newest_request(self, link: Link) -> int:
        """Give the number of the newest request, or 0."""
        rows = await self.run(link, "SELECT coalesce(max(number), 0) FROM {s}.requests")
        return int(rows[0][0])

    async def begin(self, link: Link, number: int) -> None:
        """Note that a request is being done."""
        await self.run(
            link,
            "UPDATE {s}.requests SET state = 'begun' WHERE number = $1 AND state = 'waiting'",
            number,
        )

    async def put_back(self, link: Link, number: int) -> None:
        """Let a request wait again, of which nothing was done."""
        await self.run(
            link,
            "UPDATE {s}.requests SET state = 'waiting' WHERE number = $1 AND state = 'begun'",
            number,
        )

    async def answer(self, link: Link, number: int, outcome: Outcome, now: int) -> None:
        """Say what became of a request that has no answer yet."""
        text = kept(outcome.text[:ANSWER_CHARACTERS_MAX])
        await self.run(
            link,
            "UPDATE {s}.requests SET state = $1, answer = $2, answered = $3 "
            f"WHERE number = $4 AND {_OPEN}",
            *(outcome.state, text, now, number),
        )

    async def _requests(self, link: Link, where: str, *values: Any) -> Sequence[Request]:
        query = f"SELECT {_REQUEST} FROM {{s}}.requests WHERE {where}"
        return [
            Request(
                number,
                kind,
                projection,
                _arguments(arguments),
                asked,
                None if principal is None else shown(principal),
                state,
                shown(answer),
                answered,
            )
            for (
                number,
                kind,
                projection,
                arguments,
                asked,
                principal,
                state,
                answer,
                answered,
            ) in await self.run(link, query, *values)
        ]

    # -- failures -----------------------------------------------------------------------------

    async def note_failure(
        self, link: Link, part: Part, failure: ProjectionFailure | None, now: int
    ) -> None:
        """Note why a part stands still, or that it does not."""
        at = (part.definition.name, part.build, part.slice)
        await self.run(
            link,
            "DELETE FROM {s}.failures WHERE projection = $1 AND build = $2 AND slice = $3",
            *at,
        )
        if failure is not None:
            texts = map(kept, (failure.event, failure.stream, failure.cause))
            await self.run(
                link,
                "INSERT INTO {s}.failures VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                *(*at, now, failure.position, *texts),
            )

    async def forget_failures(
        self, link: Link, projection: str, build: int, slices: Sequence[int] | None = None
    ) -> None:
        """Note that no part of a build stands still, or none of these slices."""
        query = "DELETE FROM {s}.failures WHERE projection = $1 AND build = $2"
        if slices is None:
            await self.run(link, query, projection, build)
        else:
            query = f"{query} AND slice = ANY($3::integer[])"
            await self.run(link, query, projection, build, list(slices))

    async def standstills(self, link: Link) -> Sequence[Standstill]:
        """Give which parts stand still, and why."""
        rows = await self.run(
            link,
            "SELECT f.projection, f.build, f.slice, b.version, f.position, f.event, f.stream, "
            "f.cause FROM {s}.failures AS f JOIN {s}.builds AS b ON b.projection = f.projection "
            "AND b.number = f.build ORDER BY f.projection, f.build, f.slice",
        )
        return [
            Standstill(
                projection,
                build,
                slice_,
                version,
                ProjectionFailure(position, shown(event), shown(stream), shown(cause)),
            )
            for projection, build, slice_, version, position, event, stream, cause in rows
        ]


def _arguments(text: str) -> Arguments | None:
    try:
        return msgspec.json.decode(text, type=Arguments)
    except msgspec.MsgspecError:
        return None
