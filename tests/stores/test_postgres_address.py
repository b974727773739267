"""The URL of a PostgreSQL server: what it says, what is refused, and what it never shows."""

from __future__ import annotations

import pickle

import pytest

from engine import DefinitionError
from engine.runtime.secret import Secret
from engine.stores.postgres.address import Host, read_address

PASSWORD = "s3cret"


def test_a_url_says_where_who_and_what() -> None:
    address = read_address(f"postgresql://shop%40eu:{PASSWORD}@db.example:5433/ord%C3%A9rs")

    assert address.hosts == (Host("db.example", 5433),)
    assert (address.user, address.password) == ("shop@eu", Secret(PASSWORD))
    assert (address.database, address.schema) == ("ordérs", "foldline")
    assert (address.patience_seconds, address.lease_seconds) == (30.0, 9.0)


def test_the_short_scheme_that_hosts_give_is_the_same() -> None:
    assert read_address("postgres://h/d") == read_address("postgresql://h/d")


def test_several_hosts_are_tried_in_order() -> None:
    address = read_address("postgresql://a,b:6000,[::1]:7000/d")

    assert address.hosts == (Host("a"), Host("b", 6000), Host("::1", 7000))
    assert address.name == "postgresql://a,b:6000,[::1]:7000/d?schema=foldline"


def test_a_socket_is_named_by_its_folder() -> None:
    address = read_address("postgresql://:5433/d?host=/run/postgresql")

    assert address.hosts == (Host("/run/postgresql", 5433),)
    assert address.sslmode == "disable"


@pytest.mark.parametrize(
    ("host", "sslmode"),
    [
        ("localhost", "disable"),
        ("127.0.0.1", "disable"),
        ("127.9.9.9", "disable"),
        ("[::1]", "disable"),
        ("10.0.0.1", "verify-full"),
        ("db.example", "verify-full"),
        ("localhost.example", "verify-full"),
        ("localhost,db.example", "verify-full"),
    ],
)
def test_what_leaves_this_machine_is_encrypted_and_proved(host: str, sslmode: str) -> None:
    assert read_address(f"postgresql://{host}/d").sslmode == sslmode


def test_plain_text_off_this_machine_is_refused_unless_it_is_allowed_by_name() -> None:
    with pytest.raises(DefinitionError, match="allow=plaintext"):
        read_address("postgresql://db.example/d?sslmode=disable")
    allowed = read_address("postgresql://db.example/d?sslmode=disable&allow=plaintext,fsync")

    assert allowed.sslmode == "disable"
    assert allowed.allowed == {"plaintext", "fsync"}


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("//h", "names no database"),
        ("//h/", "names no database"),
        ("///d", "names no host"),
        ("//h/d/e", "more than one name"),
        ("//h:x/d", "port"),
        ("//h:0/d", "port"),
        ("//h:70000/d", "port"),
        ("//h/d?ssl=true", "'ssl' is none of the options"),
        ("//h/d?schema", "schema has no value"),
        ("//h/d?schema=a&schema=b", "schema is given twice"),
        ("//h/d?schema=Shop", "'Shop'"),
        ("//h/d?schema=pg_mine", "'pg_mine'"),
        (f"//h/d?schema={'a' * 49}", "48"),
        ("//h/d?sslmode=prefer", "'prefer'"),
        ("//h/d?allow=wal", "'wal'"),
        ("//h/d?pooler=session", "'session'"),
        ("//h/d?patience=soon", "'soon'"),
        ("//h/d?patience=9999", "9999"),
        ("//h/d?lease=0", "1 to 3600"),
        ("//h/d?sslcert=c", "together"),
        ("//h/d?host=/run", "names a host twice"),
        ("///d?host=run", "from the root"),
        ("//h h/d", "a space"),
        ("//h/d\n", "a line end"),
        ("//h/d#e", "%23"),
        ("//h/d%zz", "%25"),
        ("//h/%ff", "no UTF-8"),
        ("//h/%00", "NUL"),
        ("//h?h/d", "names no database"),
        (":h/d", "no URL of a server"),
    ],
)
def test_what_a_url_cannot_mean_is_refused_by_name(rest: str, why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        read_address(f"postgresql:{rest}")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@h",
        f"postgresql://u:{PASSWORD}@h:port/d",
        f"postgresql://u:a/{PASSWORD}@h/d",
        f"postgresql://u:a@{PASSWORD}@h/d",
        f"postgresql://u:a?{PASSWORD}@h/d",
        f"postgresql://u:a?x={PASSWORD}@h/d",
        f"postgresql://u:a#{PASSWORD}@h/d",
        f"postgresql://u:%{PASSWORD}@h/d",
        f"postgresql://u:{PASSWORD}@h/d?password={PASSWORD}",
        f"postgresql:u:{PASSWORD}@h/d",
    ],
)
def test_no_refusal_shows_a_password(url: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        read_address(url)

    assert PASSWORD not in str(refused.value)


def test_nothing_that_shows_an_address_shows_its_password() -> None:
    address = read_address(f"postgresql://u:{PASSWORD}@h/d")

    for shown in (repr(address), str(address), address.name, repr(address.password), f"{address}"):
        assert PASSWORD not in shown
    with pytest.raises(TypeError):
        pickle.dumps(address)
