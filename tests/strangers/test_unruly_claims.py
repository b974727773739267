"""Claims of classes of the host's, whose code raises: it fails no more than its own command."""

from __future__ import annotations

from typing import Any

import pytest

from engine import (
    Aggregate,
    Claim,
    Command,
    Decision,
    Engine,
    Event,
    HandlerFailed,
    Id,
    Rejected,
    applies,
    handles,
)
from engine.model.decisions import UniqueValue


class Raising(Claim, frozen=True):
    def refusal(self) -> Rejected:
        raise KeyError("a rejection of its own")


class NoError(Claim, frozen=True):
    def refusal(self) -> Any:
        return 7


class OddText(str):
    def __bool__(self) -> bool:
        raise KeyError("bool")

    def __str__(self) -> str:
        raise KeyError("str")


class ComparedOddly(OddText):
    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)


class Take(Command):
    taker: Id
    how: str = "plainly"


class Taken(Event, name="taken"):
    pass


CLAIMS: dict[str, Any] = {
    "plainly": Claim("seat", "1"),
    "raising": Raising("seat", "1"),
    "no-error": NoError("seat", "1"),
    "odd-code": Claim("seat", "1", OddText("seat-taken")),
    "odd-value": Claim("seat", ComparedOddly("1")),
    "odd-name": Claim(ComparedOddly("seat"), "1"),
}


class Taker(Aggregate, kind="taker"):
    @handles
    def take(self, command: Take) -> Decision[Taken]:
        return Decision(Taken(), claims=[CLAIMS[command.how]])

    @applies
    def taken(self, event: Taken) -> None:
        pass


@pytest.mark.parametrize("how", CLAIMS)
async def test_a_claim_is_refused_by_its_texts_whatever_its_class_does(how: str) -> None:
    async with Engine([Taker]) as engine:
        await engine.execute(Take("first"))
        with pytest.raises(Rejected, match="seat-taken: this seat is taken"):
            await engine.execute(Take("second", how))

        assert (await engine.execute(Take("first"))).version == 2


class Neither(UniqueValue, frozen=True):
    pass


async def test_what_is_neither_claim_nor_release_fails_its_command_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CLAIMS, "neither", Neither("seat", "1"))
    async with Engine([Taker]) as engine:
        with pytest.raises(HandlerFailed, match="give a Claim or a Release"):
            await engine.execute(Take("first", "neither"))

        assert (await engine.execute(Take("first"))).version == 1
