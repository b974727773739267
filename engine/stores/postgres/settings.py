"""What a server is set to, looked at before it is believed: at the opening and at each connection.

Rules: a setting that lets an acknowledged event be lost is refused by name, unless the URL allows
that one by name. Nothing is set here.
"""

from __future__ import annotations

from typing import Final

from ...errors import StoreFailed, StoreRefused
from .address import Address, Weakness
from .driver import Connection

__all__ = ["check_settings"]

OLDEST: Final = 150_000
"""The oldest release that is supported, as the server numbers it."""

_SETTINGS: Final = (
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "synchronous_standby_names",
    "server_version_num",
    "server_version",
    "server_encoding",
    "default_transaction_isolation",
    "standard_conforming_strings",
    "session_replication_role",
)
_WANTED: Final[dict[Weakness, str]] = {
    "fsync": "a crash of the machine damages the whole database",
    "full_page_writes": "a loss of power damages pages that were half written",
    "synchronous_commit": "a crash loses events that were acknowledged",
}
_NEEDED: Final = (
    ("server_encoding", "UTF8"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
    ("session_replication_role", "origin"),  # with replica no trigger guards the log
)
_AS_GOOD: Final = {"session_replication_role": ("local",)}
_READ: Final = "SELECT pg_catalog.pg_is_in_recovery()::text, " + ", ".join(
    f"pg_catalog.current_setting('{name}')" for name in _SETTINGS
)


async def check_settings(connection: Connection, address: Address) -> None:
    """Raise StoreRefused where the server is set to lose events, or is too old.

    Raises StoreFailed where it is a standby now, which may be over when it is tried again.
    """
    row = await connection.fetchrow(_READ)
    assert row is not None, "settings are one row"
    standby, *values = row
    found: dict[str, str] = dict(zip(_SETTINGS, values, strict=True))
    if standby == "true":
        raise StoreFailed(
            f"{address.name} is a standby, which takes no writes: name the primary, or promote it",
            written=False,
            passes=True,
        )
    if int(found["server_version_num"]) < OLDEST:
        raise StoreRefused(
            f"{address.name} is PostgreSQL {found['server_version']}: use release "
            f"{OLDEST // 10_000} or newer"
        )
    for name, why in _WANTED.items():
        if _is_weak(name, found) and name not in address.allowed:
            raise StoreRefused(
                f"{address.name} has {name}={found[name]}: {why}. Set it otherwise on the server "
                f"or for this user, or add allow={name} to the URL if that may happen"
            )
    for setting, wanted in _NEEDED:
        if found[setting] not in (wanted, *_AS_GOOD.get(setting, ())):
            raise StoreRefused(
                f"{address.name} has {setting}={found[setting]}, and {wanted} is needed: set it "
                f"for this user or database, or make a database that has it"
            )


def _is_weak(name: str, found: dict[str, str]) -> bool:
    value = found[name]
    if name != "synchronous_commit":
        return value != "on"
    # With standbys that commits wait for, a commit on this server alone is not what was asked for.
    return value == "off" or (value == "local" and found["synchronous_standby_names"] != "")
