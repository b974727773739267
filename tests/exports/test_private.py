"""What is private is in no export, whatever its form: looked for in the bytes of the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine import DefinitionError, Event, Private, run
from engine.__main__ import main
from engine.model.private import private_fields
from engine.model.stored import EventData, EventType
from engine.runtime.ports import Ports
from engine.stores.contract.log import AppendRequest, Batch, Write
from engine.stores.urls import open_store
from tests.exports.staff import NAME, NOTE, OLD, PAY, Hire, HiredOne, Seen, make_engine

APP = ("--app", "tests.exports.staff:make_engine")
SECRETS = (NAME, NOTE, OLD, str(PAY))
EXPORTS = [
    *(["--to", f"out.{form}"] for form in ("jsonl", "csv", "parquet")),
    *(["--to", "out/", "--format", form] for form in ("jsonl", "csv", "parquet")),
    *(["--to", f"out.{form}", "--view", "staff_rows"] for form in ("jsonl", "csv", "parquet")),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a log that has an event of an older version first."""
    monkeypatch.chdir(tmp_path)
    run(_fill, f"sqlite:{tmp_path / 'staff.db'}")
    return tmp_path


async def _fill(url: str) -> None:
    store = open_store(url)
    await store.open(Ports())
    old = make_engine().registry.type_of(HiredOne)
    payload = b'{"team":"tills","r\\u0065mark":"%s"}' % OLD.encode()  # as others may write a name
    data = EventData(EventType(old.name, old.version, old.schema_hash), payload)
    await store.append(
        Batch([AppendRequest([Write("person:p-0", 0, [data])])], 1_700_000_000_000_000)
    )
    await store.close()
    async with make_engine(url) as engine:
        receipt = await engine.execute(Hire("p-1", "tills"))
        await engine.query(Seen(), at=receipt)


def words_of(folder: Path) -> str:
    """Give all that the exported files say; Parquet is compressed, so its values are read too."""
    import duckdb

    said: list[str] = []
    for path in [*folder.glob("out.*"), *folder.glob("out/*")]:
        said.append(path.read_bytes().decode(errors="replace"))
        if path.suffix == ".parquet":
            with duckdb.connect() as connection:
                found: Any = connection.execute(f"SELECT * FROM '{path}'")
                said += [each[0] for each in found.description]
                said += [str(value) for row in found.fetchall() for value in row]
    return "\n".join(said)


@pytest.mark.parametrize("arguments", EXPORTS, ids=lambda each: "-".join(each[1:]))
def test_no_export_with_the_application_has_what_is_private(
    arguments: Sequence[str], folder: Path
) -> None:
    assert main(["export", "staff.db", *arguments, *APP]) == 0

    said = words_of(folder)
    assert "tills" in said
    assert [secret for secret in SECRETS if secret in said] == []
    names = ("$personal", "remark", "r\\u0065mark", '"pay"', '"name"', "note")
    assert [name for name in names if name in said] == []


@pytest.mark.parametrize("to", ["out.jsonl", "out.csv", "out.parquet", "out/"])
def test_an_event_that_no_class_declares_any_more_is_exported_without_its_payload(
    to: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form = [] if to != "out/" else ["--format", "jsonl"]
    app = ("--app", "tests.exports.staff:make_later_engine")
    assert main(["export", "staff.db", "--to", to, *form, *app]) == 0

    assert "the payloads of 'hired' are left out" in capsys.readouterr().err
    said = words_of(folder)
    assert "person:p-0" in said
    assert "tills" in said, "of the version that is declared"
    assert [secret for secret in SECRETS if secret in said] == []


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_is_encrypted_is_in_no_table(form: str, folder: Path) -> None:
    assert main(["export", "staff.db", "--to", f"out.{form}"]) == 0

    said = words_of(folder)
    assert str(PAY) in said  # nobody has said what is private
    assert "$personal" not in said
    assert NAME not in said


def test_a_line_has_what_is_encrypted_as_it_is_stored_and_its_checksum(folder: Path) -> None:
    assert main(["export", "staff.db", "--to", "out.jsonl"]) == 0

    said = words_of(folder)
    assert said.count('"checksum"') == 2
    assert "$personal" in said
    assert NAME not in said


def test_a_view_that_the_application_has_not_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "staff.db", "--to", "out.csv", "--view", "staff", *APP]) == 1
    assert "declares no view 'staff'; it declares ['staff_rows']" in capsys.readouterr().err
    assert not (folder / "out.csv").exists()


def test_a_mark_inside_a_type_is_refused() -> None:
    with pytest.raises(DefinitionError, match="`Private` inside its type"):

        class Paid(Event, name="paid"):
            sums: list[Private[int]]


def test_a_mark_changes_nothing_that_is_stored() -> None:
    class Paid(Event, name="paid"):
        cents: Private[int]

    marked = make_engine().registry.__class__([Paid]).types

    class Paid2(Event, name="paid"):
        cents: int

    assert marked == make_engine().registry.__class__([Paid2]).types
    assert private_fields(Paid) == {"cents"}
