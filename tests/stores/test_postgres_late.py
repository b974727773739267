"""A batch that was sent twice comes late: behind the look for it, and before it is sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engine import Ports
from engine.stores.contract.claims import HeldClaim, TakeClaim
from engine.stores.contract.log import Appended, AppendRequest, Committed, Extra, Write
from engine.stores.postgres.address import read_address
from engine.stores.postgres.log.appending import Sending
from engine.stores.postgres.log.store import PostgresStore
from engine.stores.postgres.log.writer import Writer
from engine.testing.conformance import append, event, feed, numbers, request
from tests.support.cutting import CutLine, cut_line
from tests.support.postgres import Server, asked

MAIL = TakeClaim("mail", "a@b.example", "b:1")
HELD = HeldClaim("mail", "a@b.example", "b:1", 2)


@pytest.mark.parametrize(("extras", "held"), [((), []), ((MAIL,), [HELD])], ids=["plain", "claims"])
async def test_it_has_its_own_answer_and_the_log_goes_on(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, extras: Sequence[Extra], held: object
) -> None:
    schema = postgres.new_schema()
    async with cut_line(postgres.port) as line:
        url = postgres.url(schema, "lease=3600", port=line.port)
        store = PostgresStore(read_address(url))
        await store.open(Ports())
        await append(store, request("a:1", 0, 1))
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "_send", sends_late(line, postgres, schema))
            twice = AppendRequest([Write("b:1", 0, [event(2)])], extras)
            assert await append(store, twice) == [Appended(2, (1,))]

        assert await store.read_claims(claims_max=9) == held
        assert await append(store, request("b:1", 1, 3)) == [Appended(3, (2,))]
        assert numbers(await feed(store)) == [1, 2, 3]
        await store.close()


def sends_late(line: CutLine, postgres: Server, schema: str) -> object:
    """Hold the first attempt back, and let it arrive just before the second."""
    original, attempts = Writer._send, iter(range(9))

    async def send(writer: Writer, sending: Sending, *more: Any) -> Committed:
        attempt = next(attempts)
        if attempt == 0:
            line.cut_next("late")
        if attempt == 1:
            line.release_late()
            while await asked(postgres, f"SELECT max(position) FROM {schema}.events") == [(1,)]:
                pass
        return await original(writer, sending, *more)

    return send
