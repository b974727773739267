"""Encryption of the way to a server: who proves what, by real certificates."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import StoreRefused
from engine.stores.postgres.address import read_address
from engine.stores.postgres.driver import Asyncpg
from tests.support.postgres import Server, debian_programs, postgres_server


def certify(folder: Path, name: str, place: str) -> Path:
    """Make a key and a certificate that signs itself, for a server at a place."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    files = ("-keyout", str(key), "-out", str(certificate))
    subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={place}")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", *kind, *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return certificate


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
