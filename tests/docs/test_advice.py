"""Advice of the pages that no program on them shows: a reader follows it, and finds it true."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support.documents import Folder, programs
from tests.support.installed import Installed

(BANK,) = programs("docs/howto/bank.md")
MEMBERS, CLAIM_ALL = programs("docs/howto/unique-values.md")
WIDER: Final = BANK.replace('kind="account"', 'kind="account", key_window=5_000')
"""As the page about keys sets a larger window."""

IMPORT: Final = """
from bank import Account, Deposit, make_engine
from foldline import Envelope, run

async def main() -> None:
    async with make_engine() as engine:
        lines = (Envelope(command=Deposit("a-1", 1), key=f"import/{n}") for n in range(1_500))
        async for answer in engine.execute_many(lines):
            assert not isinstance(answer, Exception)
        print((await engine.state(Account, "a-1")).cents)
run(main)
"""

BEFORE_CLAIMS: Final = """
from foldline import Aggregate, Command, Engine, Event, Id, applies, handles, run

class Join(Command):
    member: Id
    email: str
class Joined(Event, name="member-joined"):
    email: str
class Member(Aggregate, kind="member"):
    @handles
    def join(self, command: Join) -> Joined:
        return Joined(command.email)
    @applies
    def joined(self, event: Joined) -> None: ...

async def main() -> None:
    async with Engine([Member], store="sqlite:members.db") as engine:
        for member, email in ("m-1", "Ann@x"), ("m-2", "ann@x"), ("m-3", "bob@x"):
            await engine.execute(Join(member, email))
run(main)
"""

JOIN: Final = """
from foldline import Engine, Rejected, run
from members import ChangeAddress, Join, Member

async def main() -> None:
    async with Engine([Member], store="sqlite:members.db") as engine:
        for command in Join("m-4", "bob@x"), ChangeAddress("m-3", "bob@y"), Join("m-5", "bob@x"):
            try:
                print((await engine.execute(command)).stream)
            except Rejected as rejected:
                print(rejected.code)
run(main)
"""

LEAVING: Final = """
from foldline import Engine, Rejected, run
from members import ChangeAddress, Join, Leave, Member

async def main() -> None:
    async with Engine([Member], store="memory:") as engine:
        await engine.execute(Join("m-1", "ann@x"))
        print([(await engine.execute(Leave(member))).version for member in ("m-1", "m-1", "m-2")])
        try:
            await engine.execute(ChangeAddress("m-2", "bob@x"))
        except Rejected as rejected:
            print(rejected.code)
run(main)
"""

HASHED: Final = """
import hmac
from foldline import Aggregate, Claim, Command, Decision, Engine, Event, Id, Personal, Release
from foldline import applies, handles, run

class Join(Command):
    member: Id
    email: str
class Leave(Command):
    member: Id
class Joined(Event, name="joined"):
    email: Personal[str]
    claimed: str
class Left(Event, name="left"):
    pass
class Member(Aggregate, kind="member"):
    claimed: str = ""
    @handles
    def join(self, command: Join) -> Decision[Joined]:
        hashed = hmac.digest(b"secret", command.email.encode(), "sha256").hex()
        return Decision(Joined(command.email, hashed), claims=[Claim("email", hashed)])
    @handles
    def leave(self, command: Leave) -> Decision[Left]:
        return Decision(Left(), claims=[Release("email", self.claimed)])
    @applies
    def joined(self, event: Joined) -> None:
        self.claimed = event.claimed
    @applies
    def left(self, event: Left) -> None: ...

async def main() -> None:
    async with Engine([Member], store="sqlite:hashed.db") as engine:
        await engine.execute(Join("m-1", "ann@x"))
        await engine.personal.erase("member:m-1")
        await engine.execute(Leave("m-1"))
        print((await engine.execute(Join("m-2", "ann@x"))).version)
run(main)
"""

COPIED: Final = """
import subprocess
from bank import Deposit, make_engine
from foldline import run

async def main() -> None:
    async with make_engine() as engine:
        await engine.execute(Deposit("a-1", 7))
    async with make_engine() as engine:
        await engine.execute(Deposit("a-1", 7))
        subprocess.run(["cp", "bank.db", "copied.db"], check=True)
run(main)
"""

SAGA: Final = """
import asyncio
from foldline import Engine, run
from fulfilment import Fulfilment
from orders import Card, Item, Order, Place

asked: set[str] = set()

def authorize(principal: str | None, action: str, message: object) -> bool:
    if action == "execute":
        asked.add(f"{principal} {type(message).__name__}")
    return True

async def main() -> None:
    engine = Engine([Order, Item, Card, Fulfilment], store="memory:", authorize=authorize)
    async with engine:
        await engine.execute(Place("o-1", "lamp", "c-1", 70), principal="ann")
        async for logged in engine.feed(names=["order-finished"], follow=True):
            break
    print(*sorted(asked), sep="\\n")
run(main)
"""

PLACING: Final = """
import sys
from foldline import Engine, run
from fulfilment import Fulfilment
from orders import Card, Item, Order, Place

async def main() -> None:
    order, *others = sys.argv[1:]
    engine = Engine([Order, Item, Card, Fulfilment], store="sqlite:fulfilment.db")
    async with engine:
        if others == ["paused"]:
            await engine.projections.pause("fulfilment")
        await engine.execute(Place(order, "lamp", f"c-{order}", 70), key=order)
        found = []
        async for logged in engine.feed(names=["order-finished"], follow="paused" not in others):
            found.append(logged.meta.id)
            if {order, *others} <= set(found):
                break
        print(*sorted(found))
run(main)
"""


@pytest.fixture
def folder(tmp_path: Path, installed: Installed) -> Folder:
    """Give an empty folder of a user."""
    return Folder(tmp_path, installed)


def test_an_import_that_is_run_again_counts_twice_what_the_key_window_has_not(
    folder: Folder,
) -> None:
    folder.write("bank.py", BANK)
    folder.write("load.py", IMPORT)

    assert [folder.ran("load.py") for _ in range(2)] == ["1500\n", "3000\n"]


def test_a_larger_key_window_knows_keys_that_were_stored_before(folder: Folder) -> None:
    folder.write("bank.py", BANK)
    folder.write("load.py", IMPORT)
    first = folder.ran("load.py")
    folder.write("bank.py", WIDER)

    assert folder.ran("load.py") == first == "1500\n"


def test_members_that_joined_before_there_were_claims_hold_their_addresses(folder: Folder) -> None:
    folder.write("before.py", BEFORE_CLAIMS)
    folder.write("members.py", MEMBERS)
    folder.write("claim_all.py", CLAIM_ALL)
    folder.write("join.py", JOIN)
    folder.ran("before.py")

    printed = "m-2 email-taken: this address belongs to another member\n"
    assert [folder.ran("claim_all.py") for _ in range(2)] == [printed, printed]
    assert folder.ran("join.py") == "email-taken\nmember:m-3\nmember:m-5\n"


def test_a_member_who_has_left_or_never_joined_may_leave_and_changes_nothing(
    folder: Folder,
) -> None:
    folder.write("members.py", MEMBERS)
    folder.write("leaving.py", LEAVING)

    assert folder.ran("leaving.py") == "[2, 2, 0]\nmember-unknown\n"


def test_a_claim_of_an_erased_person_is_released_by_the_hash_in_the_event(folder: Folder) -> None:
    folder.write("hashed.py", HASHED)

    assert folder.ran("hashed.py") == "1\n"


def test_a_copy_of_the_file_alone_is_whole_and_lacks_the_latest_events(folder: Folder) -> None:
    folder.write("bank.py", BANK)
    folder.write("copied.py", COPIED)
    folder.ran("copied.py")

    assert "1 event of 1 stream" in folder.run("foldline", "verify", "copied.db").stdout
    assert "2 events of 1 stream" in folder.run("foldline", "verify", "bank.db").stdout


def test_a_process_manager_is_asked_for_by_its_name_and_its_commands_are_not(
    folder: Folder,
) -> None:
    orders, fulfilment, _ = programs("docs/howto/process-managers.md")
    for name, program in {"orders": orders, "fulfilment": fulfilment, "saga": SAGA}.items():
        folder.write(f"{name}.py", program)

    assert folder.ran("saga.py").splitlines() == [
        "ann Place",
        "reactor:fulfilment ChargedArrived",
        "reactor:fulfilment PlacedArrived",
        "reactor:fulfilment ReservedArrived",
    ]


@pytest.mark.parametrize(
    ("begins", "finished"),
    [('"now"', "o-1 o-3\n"), ('"start"', "o-1 o-2 o-3\n"), ("7", "o-1 o-2 o-3\n")],
)
def test_a_manager_whose_views_are_lost_takes_what_is_behind_its_beginning_once(
    begins: str, finished: str, folder: Folder
) -> None:
    """An order is finished, and one was placed before the manager could take it."""
    orders, fulfilment, _ = programs("docs/howto/process-managers.md")
    folder.write("orders.py", orders)
    folder.write("fulfilment.py", fulfilment)
    folder.write("placing.py", PLACING)
    assert folder.run("python", "placing.py", "o-1").stdout == "o-1\n"
    assert folder.run("python", "placing.py", "o-2", "paused").stdout == "o-1\n"
    for views in folder.path.glob("fulfilment.views.db*"):
        views.unlink()
    folder.write("fulfilment.py", fulfilment.replace('begins="now"', f"begins={begins}"))

    assert folder.run("python", "placing.py", "o-3", *finished.split()).stdout == finished
