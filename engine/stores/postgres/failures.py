"""What an error of a server or of its driver means, and who must act.

Rules: an answer of the server to one statement says that nothing of it was written; a line that
broke says nothing. A message has the server's own words where they carry no values: the primary
message of an error, never its detail. Nothing is imported of the driver: its errors are told by
their SQLSTATE and their names.
"""

from __future__ import annotations

import ssl
from typing import Final

from ...errors import StoreFailed, StoreRefused
from ...runtime.certificates import refusal_of
from .address import Address

__all__ = [
    "CANCELED",
    "LOCKED",
    "cannot_begin_tls",
    "cannot_connect",
    "described_failure",
    "has_no_connection",
    "has_no_room",
    "is_lost",
    "is_nobodys_fault",
    "is_not_prepared",
    "is_passing",
    "passes_by_itself",
    "sqlstate_of",
]

_LOST: Final = ("08", "57P01", "57P02", "57P03", "57P05", "25006", "25P03", "25P04")
"""The connection is of no use any more: also where the server has become a standby (25006), or has
a limit of the administrator's for transactions (25P03, 25P04)."""
_LOST_NAMES: Final = frozenset(
    ("InterfaceError", "InternalClientError", "ConnectionDoesNotExistError", "ProtocolError")
)
"""Errors of the driver itself, which say that its connection is closed or was used wrongly."""
LOCKED: Final = "55P03"
"""Somebody else has held a lock for longer than was waited for."""
_PASSING: Final = ("40001", "40P01", LOCKED)
"""What may be gone in a moment: conflicts with other transactions, and locks that they hold."""
_OUT_OF_TIME: Final = ("57014",)
"""A statement took longer than an administrator lets it."""
NO_TABLE: Final = "42P01"
"""A statement names a table that is not there, or was dropped meanwhile."""
CANCELED: Final = "57014"
"""A statement took longer than the server lets it, or somebody has ended it there."""
_NO_ROOM: Final = ("53", "58030")
"""Neither disk, memory nor connections are left for it."""
_NO_CONNECTION: Final = "53300"
_POOLER_REFUSES: Final = "08P01"
"""Of PgBouncer for each reason; the driver has it for nothing else that ends a start."""
_READ_ONLY: Final = "25006"
_ENDED: Final = "08"
_OUT_OF_TIME_HINT: Final = ". Let statements of this user take longer (statement_timeout)"
_NOT_PREPARED: Final = ("26000", "42P05")
"""A statement is prepared on another connection than this one: a pooler gave it to somebody."""
_REFUSED: Final = {
    "28": "the server does not take this user or password: mend the URL, or the server's "
    "pg_hba.conf",
    "3D000": "there is no such database: create it",
    "42501": "this user lacks a right there: grant it",
}


def sqlstate_of(error: BaseException) -> str:
    """Give the five characters by which the server names an error; "" for another error."""
    state = getattr(error, "sqlstate", None)
    return state if isinstance(state, str) else ""


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection is gone, so that nobody knows what its statement has done."""
    if isinstance(error, OSError | EOFError):
        return True
    state = sqlstate_of(error)
    if state:
        return state.startswith(_LOST)
    if isinstance(error, ValueError):
        return False  # the driver cannot encode a value, and has sent nothing
    return any(kind.__name__ in _LOST_NAMES for kind in type(error).__mro__)


def is_passing(error: BaseException) -> bool:
    """Tell whether the server said no for now, and has written nothing."""
    return sqlstate_of(error).startswith(_PASSING)


def passes_by_itself(error: BaseException) -> bool:
    """Tell whether nothing is wrong with what was asked: the server was away, full or busy."""
    return (
        is_lost(error)
        or is_passing(error)
        or sqlstate_of(error).startswith(_NO_ROOM + _OUT_OF_TIME)
    )


def has_no_room(error: BaseException | None) -> bool:
    """Tell whether the server has too little left of something: connections, for one."""
    return error is not None and sqlstate_of(error).startswith(_NO_ROOM)


def has_no_connection(error: BaseException | None) -> bool:
    """Tell whether somebody who would connect was refused for want of one, also by a pooler."""
    return error is not None and sqlstate_of(error).startswith((_NO_CONNECTION, _POOLER_REFUSES))


def is_nobodys_fault(error: BaseException) -> bool:
    """Tell whether neither a statement nor what it writes is to blame: it was ended, for one."""
    return passes_by_itself(error) or sqlstate_of(error) == CANCELED


def is_not_prepared(error: BaseException) -> bool:
    """Tell whether a pooler has taken a prepared statement elsewhere; nothing was run then."""
    return sqlstate_of(error) in _NOT_PREPARED


def described_failure(error: BaseException) -> str:
    """Say what was raised, with the server's primary message, which names no values of rows."""
    state = sqlstate_of(error)
    if not state:
        # Others' words may quote what they were given.
        return type(error).__name__
    message = getattr(error, "message", None)
    text = message if isinstance(message, str) else type(error).__name__
    return f"{text} (SQLSTATE {state})"


def cannot_connect(address: Address, error: BaseException) -> StoreFailed | StoreRefused:
    """Say why a server could not be connected to, and who must act."""
    state = sqlstate_of(error)
    for begin, mend in _REFUSED.items():
        if state.startswith(begin):
            return StoreRefused(f"{address.name}: {mend} ({described_failure(error)})")
    if isinstance(error, ssl.SSLCertVerificationError):
        hosts = " and ".join(host.name for host in address.hosts)
        otherwise = "give the certificate that signs it as sslrootcert=FILE"
        return StoreRefused(f"{address.name}: the server {refusal_of(error, hosts, otherwise)}")
    if "rejected SSL" in str(error):
        return StoreRefused(
            f"{address.name}: the server speaks no TLS, and this connection needs it: turn `ssl` "
            f"on there"
        )
    if isinstance(error, ssl.SSLError):
        return cannot_begin_tls(address, error)
    if state.startswith(_READ_ONLY):
        return StoreFailed(
            f"{address.name} takes no writes now: it is a standby, or "
            f"default_transaction_read_only is on there or for this user "
            f"({described_failure(error)}). Try again when that is over",
            written=False,
            passes=True,
        )
    if state and not is_lost(error) and not state.startswith(_NO_ROOM):
        return StoreFailed(
            f"{address.name} was reached, and the log cannot be opened: "
            f"{described_failure(error)}{_OUT_OF_TIME_HINT if state in _OUT_OF_TIME else ''}",
            written=False,
            passes=passes_by_itself(error),
        )
    why = described_failure(error)
    if isinstance(error, TimeoutError):
        why = "no answer in time"
    elif state.startswith(_ENDED):
        why += (
            ". It was ended from there: if a pooler stands between, look that it pools sessions or "
            "transactions, and has connections to the server left"
        )
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror
    return StoreFailed(
        f"{address.name} cannot be reached: {why}. Try again", written=False, passes=True
    )


def cannot_begin_tls(address: Address, error: OSError) -> StoreRefused:
    """Say that files of certificates cannot be used, or the other side's TLS is none."""
    why = type(error).__name__
    if not isinstance(error, ssl.SSLError):
        why = error.strerror or why
    return StoreRefused(
        f"{address.name}: TLS cannot begin ({why}): look at sslrootcert, sslcert and sslkey, which "
        f"are files without a password that this process may read"
    )
