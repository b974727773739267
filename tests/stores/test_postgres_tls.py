"""Encryption of the way to a server: who proves what, by real certificates."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from engine import StoreRefused
from engine.stores.postgres.address import read_address
from engine.stores.postgres.driver import Asyncpg
from tests.support.certificates import certify
from tests.support.postgres import Server, debian_programs, postgres_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(debian_programs()) as started:  # the wheel's server has no TLS
        started.stop()
        for name, place in (("here", "IP:127.0.0.1"), ("elsewhere", "DNS:db.example")):
            certify(started.folder, name, place)
            for suffix in ("crt", "key"):
                made = started.folder / f"{name}.{suffix}"
                shutil.chown(made, started.folder.stat().st_uid, started.folder.stat().st_gid)
                made.chmod(0o600)
        started.settings |= {"ssl": "on"}
        yield started


@pytest.fixture(params=["here", "elsewhere"])
def name(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """Whose certificate the server shows: its own, or one of another place."""
    for setting, suffix in (("ssl_cert_file", "crt"), ("ssl_key_file", "key")):
        server.settings[setting] = str(server.folder / f"{request.param}.{suffix}")
    server.start()
    yield request.param
    server.stop()


async def is_encrypted(server: Server, *options: str) -> bool:
    connection, _ = await Asyncpg().connect(read_address(server.url("foldline", *options)))
    query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    found: bool = await connection.fetchval(query)
    await connection.close()
    return found


async def test_each_mode_asks_for_what_it_says(server: Server, name: str) -> None:
    root = f"sslrootcert={server.folder / f'{name}.crt'}"

    assert not await is_encrypted(server)
    assert await is_encrypted(server, "sslmode=require")
    assert await is_encrypted(server, "sslmode=verify-ca", root)
    with pytest.raises(StoreRefused, match="does not prove who it is.*sslrootcert"):
        await is_encrypted(server, "sslmode=verify-ca")
    if name == "here":
        assert await is_encrypted(server, "sslmode=verify-full", root)
    else:
        with pytest.raises(StoreRefused, match="does not prove who it is"):
            await is_encrypted(server, "sslmode=verify-full", root)


@pytest.mark.parametrize("files", ["sslcert={0}.crt&sslkey={0}.locked", "sslrootcert={1}"])
async def test_what_no_certificate_can_be_read_from_is_refused_and_nobody_is_asked_for_a_password(
    server: Server, files: str
) -> None:
    """OpenSSL would ask a terminal, and the whole process would wait for it."""
    own = server.folder / "here"
    lock = ["openssl", "pkey", "-in", f"{own}.key", "-aes256", "-passout", "pass:secret"]
    subprocess.run([*lock, "-out", f"{own}.locked"], check=True, capture_output=True)
    options = files.format(own, server.folder).split("&")

    with pytest.raises(StoreRefused, match="TLS cannot begin.* without a password"):
        await is_encrypted(server, "sslmode=require", *options)
