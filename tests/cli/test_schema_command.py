"""`python -m engine schema`: what it finds, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import warm

ROOT = Path(__file__).parents[2]

APP = """
from engine import Aggregate, Command, Engine, Event, Id, applies, handles, run, upcasts

class Opened(Event, name="opened", version={version}):
    {fields}

class Open(Command):
    door_id: Id

class Door(Aggregate, kind="door"):
    @handles
    def open(self, command: Open) -> Opened:
        return Opened({values})
    @applies
    def opened(self, event: Opened) -> None: ...

{more}

def make(store="memory:"):
    return Engine([Door], store=store, upcasters={upcasters})

engine = make()
nothing = 7

async def fill():
    async with make("sqlite:doors.db") as engine:
        await engine.execute(Open("front"))

if __name__ == "__main__":
    run(fill)
"""

FIRST = {"version": 1, "fields": "by: str", "values": '"ann"', "more": "", "upcasters": "[]"}
CHANGED = {**FIRST, "fields": "by: int", "values": "1"}
SECOND = {**FIRST, "version": 2, "fields": "by: str; at: int = 0"}
UPCAST = {
    **SECOND,
    "more": """
class OpenedV1(Event, name="opened", version=1):
    by: str

@upcasts
def opened_2(event: OpenedV1) -> Opened:
    return Opened(event.by)
""",
    "upcasters": "[opened_2]",
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Give a folder with the first release and the log that it wrote."""
    release(tmp_path, FIRST)
    warm.run(
        [sys.executable, "-m", "doors"],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return tmp_path


def release(folder: Path, parts: Mapping[str, object]) -> None:
    (folder / "doors.py").write_text(APP.format(**parts))


def schema(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command there; give status, output and errors."""
    done = warm.run(
        [sys.executable, "-m", "engine", "schema", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["doors:engine", "doors:make"])
def test_an_engine_or_what_makes_one_is_checked(app: Path, name: str) -> None:
    status, output, errors = schema(app, "check", name, "--log", "doors.db")

    assert (status, output) == (0, "")
    assert "1 types of events are declared, 1 stored in " in errors
    assert "doors.db: everything fits" in errors


@pytest.mark.parametrize(
    ("parts", "rule", "mend"),
    [
        (CHANGED, "changed", "declare it as version 2 with an upcaster from version 1"),
        (SECOND, "missing-upcaster", "no upcaster leads from it to version 2"),
    ],
    ids=["changed", "missing-upcaster"],
)
def test_what_does_not_fit_is_told_with_its_mend(
    app: Path, parts: Mapping[str, object], rule: str, mend: str
) -> None:
    release(app, parts)
    status, output, errors = schema(app, "check", "doors:make", "--log", "doors.db")

    assert status == 1
    assert output.startswith(f"{rule}: 'opened' version 1 ")
    assert mend in output
    assert errors.endswith(": 1 finding\n")


TIMED = """
from engine import After, Aggregate, Command, Decision, Engine, Event, Id, applies, handles, run

class Opened(Event, name="opened"):
    pass

class Open(Command):
    door_id: Id

class {name}(Command, name="{stored}"):
    door_id: Id
    {field}

class Door(Aggregate, kind="door"):
    @handles
    def open(self, command: Open) -> Decision[Opened]:
        return Decision(Opened(), timers=[After({name}(self.id, 3), hours=1)])
    @handles
    def shut(self, command: {name}) -> None: ...
    @applies
    def opened(self, event: Opened) -> None: ...

def make(store="memory:"):
    return Engine([Door], store=store)

async def fill():
    async with make("sqlite:timed.db") as engine:
        for door in ("front", "side"):
            await engine.execute(Open(door))

if __name__ == "__main__":
    run(fill)
"""


def test_commands_of_timers_that_wait_are_read(tmp_path: Path) -> None:
    """A release passed that could not read them: each failed as it was due, months later."""
    first = {"name": "Shut", "stored": "shut", "field": "hard: int"}
    for number, (parts, status, told) in enumerate(
        (
            (first, 0, ""),
            ({**first, "field": "hard: int; slow: bool = False"}, 0, ""),
            (
                {**first, "field": "hard: str"},
                1,
                "timer: the command 'shut' of a timer is declared",
            ),
            (
                {**first, "stored": "close"},
                1,
                "timer: the command 'shut' of a timer is handled by 0",
            ),
        )
    ):
        module = f"timed_{number}"  # a name of its own, since Python keeps what it compiled
        (tmp_path / f"{module}.py").write_text(TIMED.format(**parts))
        if not (tmp_path / "timed.db").exists():
            warm.run(
                [sys.executable, "-m", module],
                cwd=tmp_path,
                check=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        done, output, errors = schema(tmp_path, "check", f"{module}:make", "--log", "timed.db")
        assert (done, output[: len(told)]) == (status, told), output + errors
        assert ("2 of them wait, the first is the timer shut of door:front" in output) == (done > 0)


SCHEDULED = """
from datetime import timedelta
from engine import Aggregate, Command, Engine, Event, Id, Schedule, applies, handles, run

class Count(Command, name="count"):
    room: Id
    {field} = 1

class Counted(Event, name="counted"):
    pass

class Room(Aggregate, kind="room"):
    @handles
    def count(self, command: Count) -> Counted:
        return Counted()

    @applies
    def counted(self, event: Counted) -> None:
        pass

def make() -> Engine:
    return Engine([Room, Schedule], store="sqlite:scheduled.db")

async def main() -> None:
    async with make() as engine:
        await engine.schedule(Count("r-1"), "nightly", every=timedelta(days=1))

if __name__ == "__main__":
    run(main)
"""


def test_the_command_of_a_schedule_is_read_too(tmp_path: Path) -> None:
    for module, field in (("before", "floor: int"), ("after", "other: int")):
        (tmp_path / f"{module}.py").write_text(SCHEDULED.format(field=field))
    warm.run(
        [sys.executable, "-m", "before"],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert schema(tmp_path, "check", "before:make", "--log", "scheduled.db")[0] == 0
    done, output, _ = schema(tmp_path, "check", "after:make", "--log", "scheduled.db")
    assert done == 1
    assert "the command 'count' of a timer is declared" in output
    assert "the schedule schedule:nightly" in output


def test_samples_are_recorded_once_and_find_a_change_without_a_log(app: Path) -> None:
    record = ("record", "doors:make", "--log", "doors.db", "--samples", "samples")
    assert schema(app, *record)[0] == 0
    kept = app / "samples" / "opened.1.json"
    first = kept.read_bytes()
    assert json.loads(first)["payload"] == {"by": "ann"}
    assert schema(app, *record)[::2] == (0, "")
    assert kept.read_bytes() == first

    check = ("check", "doors:make", "--samples", "samples")
    assert schema(app, *check)[0] == 0
    release(app, CHANGED)
    assert schema(app, *check)[:2][0] == 1
    release(app, UPCAST)
    status, output, _ = schema(app, *check)
    assert (status, output.split(":")[0]) == (1, "no-sample")
    assert "opened' version 2" in output
    # The log has no event of version 2 yet, and says so.
    status, _, errors = schema(app, *record)
    assert (status, "still missing: opened version 2" in errors) == (1, True)


def test_the_log_is_not_changed_and_none_is_made(app: Path) -> None:
    before = (app / "doors.db").read_bytes()
    assert schema(app, "check", "doors:make", "--log", "doors.db")[0] == 0
    assert (app / "doors.db").read_bytes() == before

    status, _, errors = schema(app, "check", "doors:make", "--log", "none.db")
    assert (status, "there is no log " in errors, "none.db" in errors) == (1, True, True)
    assert not (app / "none.db").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["check", "doors:make"], 2, "nothing to compare with"),
        (["check", "doors", "--log", "doors.db"], 1, "write module:attribute"),
        (["check", "doors:absent", "--log", "doors.db"], 1, "cannot be imported"),
        (["check", "windows:make", "--log", "doors.db"], 1, "cannot be imported"),
        (["check", "doors:nothing", "--log", "doors.db"], 1, "is no Engine"),
        (["check", ".doors:make", "--log", "doors.db"], 1, "write module:attribute"),
        (["check", "doors:make", "--samples", "absent"], 1, "there is no folder absent"),
        (["record", "doors:make"], 2, "required"),
        (["paint"], 2, "invalid choice"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    app: Path, arguments: list[str], status: int, told: str
) -> None:
    found, output, errors = schema(app, *arguments)

    assert (found, output) == (status, "")
    assert told in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit", "ended the program ("),
        ("import sys; sys.exit(0)", "app.py, line 1). Put what a script does"),
        ("make = lambda: exit(0)", "app:make gives no engine: its code ended the program"),
        ("\ndef make():\n    {}['x']", "gives no engine: KeyError: 'x' ("),
        ("def make(a, b): ...", "missing 1 required positional argument: 'b'"),
        ("async def make(): ...", "app:make is no Engine"),
        ("x = 1 / 0", "cannot be imported from here: ZeroDivisionError: "),
        ("def make(", "SyntaxError: "),
        ("import nowhere", "No module named 'nowhere' ("),
    ],
)
def test_code_that_fails_or_ends_the_program_gives_no_command_its_status(
    app: Path, code: str, told: str
) -> None:
    (app / "app.py").write_text(code)
    status, output, errors = schema(app, "check", "app:make", "--log", "doors.db")

    assert (status, output, told in errors) == (1, "", True), errors
    assert errors.startswith("error: ")
    assert "Warning" not in errors


@pytest.mark.parametrize("ends", ["exit(0)", "exit(3)", "raise SystemExit"])
def test_code_that_ends_the_program_while_it_is_used_ends_no_command(app: Path, ends: str) -> None:
    """A mapping function, a handler or a fold runs long after the application was imported."""
    (app / "mapping.py").write_text(f"def leave(event):\n    {ends}\n")
    (app / "old.jsonl").write_text('{"by": "ann"}\n')
    with_map = ("old.jsonl", "new.db", "--app", "doors:make", "--map", "mapping:leave")
    done = warm.run(
        [sys.executable, "-m", "engine", "import", *with_map],
        cwd=app,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "code of the application ended the program" in done.stderr
    assert not (app / "new.db").exists()


def test_a_broken_sample_is_named(app: Path) -> None:
    (app / "samples").mkdir()
    (app / "samples" / "opened.1.json").write_text('{"name": "opened"}')
    status, _, errors = schema(app, "check", "doors:make", "--samples", "samples")

    assert (status, "opened.1.json is no sample" in errors) == (1, True)
