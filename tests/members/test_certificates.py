"""Certificates of a process that others join: exchanged as it runs, and refused with what to do."""

from __future__ import annotations

import asyncio
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine import StoreFailed, StoreRefused
from engine.members.wire import Welcome
from tests.members.transports import TOKEN, Member, Owner
from tests.support.certificates import certify


def listening(folder: Path, name: str = "here", signed: str = "here") -> str:
    files = f"sslcert={folder}/{name}.crt&sslkey={folder}/{name}.key"
    return f"tcp://:{TOKEN}@127.0.0.1:0?{files}&sslrootcert={folder}/{signed}.crt"


def certify_for_days(folder: Path, begin: int, end: int) -> None:
    """Make a certificate that is valid between these days from now."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begin))
        .not_valid_after(now + timedelta(days=end))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "here.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "here.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def joins(owner: Owner) -> None:
    member = await Member().join(owner)
    [welcome] = await member.answered(1)
    assert isinstance(welcome, Welcome)
    member.line.close()


async def test_a_certificate_that_is_exchanged_is_shown_to_who_comes_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The former one is shown while the new one is no whole."""
    certify(tmp_path, "here", "IP:127.0.0.1")
    owner = Owner(listening(tmp_path), listening(tmp_path), "tls")
    async with owner.open(), asyncio.timeout(60):
        await joins(owner)
        certify(tmp_path, "next", "IP:127.0.0.1")
        (tmp_path / "former.crt").write_bytes((tmp_path / "here.crt").read_bytes())
        (tmp_path / "here.crt").write_bytes((tmp_path / "next.crt").read_bytes())
        with pytest.raises(StoreRefused, match="does not prove who it is"):
            await Member().join(owner)
        assert "has changed and cannot be read" in caplog.text
        (tmp_path / "here.key").write_bytes((tmp_path / "next.key").read_bytes())
        await joins(owner)


@pytest.mark.parametrize(
    ("days", "advice"),
    [((-3, -1), "expired.*renew its certificate there"), ((1, 3), "set the clocks of both")],
    ids=["expired", "not-yet-valid"],
)
async def test_a_certificate_out_of_its_time_is_told_as_that(
    tmp_path: Path, days: tuple[int, int], advice: str
) -> None:
    certify_for_days(tmp_path, *days)
    owner = Owner(listening(tmp_path), listening(tmp_path), "tls")
    async with owner.open():
        with pytest.raises(StoreRefused, match=advice) as refused:
            await Member().join(owner)
        assert "sslrootcert" not in str(refused.value)
        certify_for_days(tmp_path, -1, 1)  # as it is told to do, without a new start
        await joins(owner)


async def test_a_certificate_for_another_place_is_told_as_that(tmp_path: Path) -> None:
    certify(tmp_path, "here", "DNS:elsewhere.example")
    owner = Owner(listening(tmp_path), listening(tmp_path), "tls")
    async with owner.open():
        with pytest.raises(StoreRefused, match=r"give it a certificate for 127\.0\.0\.1"):
            await Member().join(owner)


async def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    """OpenSSL would ask a terminal, and the whole process would wait for it."""
    key = certify(tmp_path, "here", "IP:127.0.0.1").with_suffix(".key")
    open_ = key.with_suffix(".open")
    key.rename(open_)
    lock = ["openssl", "pkey", "-in", str(open_), "-aes256", "-passout", "pass:secret"]
    subprocess.run([*lock, "-out", str(key)], check=True, capture_output=True)
    owner = Owner(listening(tmp_path), listening(tmp_path), "tls")
    with pytest.raises(StoreFailed, match=r"listened for .*sslkey: .* without a password"):
        async with owner.open():
            pass
