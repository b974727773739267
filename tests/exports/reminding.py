"""An application with a timer that is fired at once and one that waits."""

from __future__ import annotations

from engine import After, Aggregate, Command, Decision, Engine, Event, Id, applies, handles


class Wind(Command):
    bell: Id


class Wound(Event, name="wound"):
    pass


class Ring(Command):
    bell: Id


class Rang(Event, name="rang"):
    pass


class Bell(Aggregate, kind="bell"):
    @handles
    def wind(self, command: Wind) -> Decision[Wound]:
        later = After(Ring(command.bell), "later", days=1)
        return Decision(Wound(), timers=[later, After(Ring(command.bell), "soon")])

    @handles
    def ring(self, command: Ring) -> Rang:
        return Rang()

    @applies
    def wound(self, event: Wound) -> None: ...

    @applies
    def rang(self, event: Rang) -> None: ...


def make_engine(store: str = "memory:") -> Engine:
    return Engine([Bell], store=store)
