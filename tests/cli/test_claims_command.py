"""`python -m engine claims`: the values that aggregates hold, and whether the log says so."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from engine.outside.claims import compare_claims
from engine.runtime.ports import Ports
from engine.stores.contract.claims import ReleaseClaim, TakeClaim
from engine.stores.contract.log import AppendRequest, Write
from engine.stores.contract.outside import LogReader
from engine.stores.sqlite.log.store import SqliteStore
from engine.stores.sqlite.outside.log import SqliteLogReader
from engine.testing.conformance import append, event
from tests.cli.looking import outside, shown


def a_take(stream: str, expected: int, value: str, gone: str | None = None) -> AppendRequest:
    """Give a request whose event says what it takes and releases, as an engine writes it."""
    metadata = {"claims": [["email", value]], "releases": [["email", gone]] if gone else []}
    written = event(1, metadata=msgspec.json.encode(metadata))
    extras = [TakeClaim("email", value, stream)]
    release = [ReleaseClaim("email", gone, stream)] if gone else []
    return AppendRequest([Write(stream, expected, [written])], [*release, *extras])


@pytest_asyncio.fixture
async def path(tmp_path: Path) -> Path:
    store = SqliteStore(str(tmp_path / "log.db"))
    await store.open(Ports())
    await append(store, a_take("a:1", 0, "ann"), a_take("a:2", 0, "bob"))
    await append(store, a_take("a:1", 1, "ann"), a_take("a:2", 1, "carl", "bob"))
    await append(store, a_take("a:3", 0, "bob"), a_take("a:4", 0, "ann"))
    await store.close()
    return tmp_path / "log.db"


def test_claims_are_listed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = (
        "NAME   VALUE  STREAM  POSITION\n"
        "email  ann    a:1            1\n"
        "email  bob    a:3            5\n"
        "email  carl   a:2            4\n"
    )
    assert shown(capsys, "claims", path) == (0, told, "")


def test_claims_are_paged(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = shown(capsys, "claims", path, "--json", "--limit", "1")
    assert status == 0
    assert msgspec.json.decode(out) == {
        "name": "email",
        "value": "ann",
        "stream": "a:1",
        "position": 1,
    }
    assert err == "more after email 'ann': --after email 'ann'\n"

    _, out, err = shown(capsys, "claims", path, "--after", "email", "bob")
    assert "carl" in out
    assert "bob" not in out
    assert err == ""


def test_claims_of_a_name(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "claims", path, "--name", "nick") == (0, "", "no claim matches\n")
    assert "carl" in shown(capsys, "claims", path, "--name", "email")[1]


def test_claims_are_verified(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "verified: 3 claims, up to position 5\n"
    assert shown(capsys, "claims", path, "--verify") == (0, "", told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DELETE FROM claims WHERE value = 'ann'", "'ann': the log says a:1 since position 1"),
        ("INSERT INTO claims VALUES ('email', 'eve', 1, 1)", "'eve': the log says nobody"),
        ("UPDATE claims SET stream = 1 WHERE value = 'bob'", "and the table a:1 since position 5"),
    ],
)
def test_a_table_that_the_log_does_not_say_is_told(
    path: Path, capsys: pytest.CaptureFixture[str], change: str, told: str
) -> None:
    outside(path, change, guarded=False)
    status, _, err = shown(capsys, "claims", path, "--verify")

    assert status == 1
    assert told in err
    assert "1 claims are not what the log says at position 5" in err


async def test_claims_are_verified_while_the_log_grows(path: Path) -> None:
    """What comes between the two readings is read as well."""
    store = SqliteStore(str(path))
    await store.open(Ports())
    await append(store, a_take("a:5", 0, "eve"))

    class Growing(SqliteLogReader):
        heads = 0

        def head(self) -> object:  # type: ignore[override]
            self.heads += 1
            if self.heads == 1:
                return msgspec.structs.replace(super().head(), position=99)
            return super().head()

    reader = Growing(str(path))
    log: LogReader = reader  # type: ignore[assignment]
    with reader:
        compared = compare_claims(log)
    await store.close()

    assert (compared.position, compared.claims, compared.differences) == (6, 4, ())
    assert reader.heads == 2
