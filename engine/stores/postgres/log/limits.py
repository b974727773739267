"""What bounds a transaction that has the log's lock over several statements.

Rules: it waits for that lock so long and no longer, and the server ends it where its next statement
does not come. It hears of a machine that is lost after hours, and of a process that stands still
never, and nobody could open the log or append before.
"""

from __future__ import annotations

from typing import Final

__all__ = ["IDLE_SECONDS", "LIMITS", "LOCK_SECONDS"]

LOCK_SECONDS: Final = 10
"""How long it waits for whoever uses the schema."""
IDLE_SECONDS: Final = 10
"""How long the server waits for the next statement."""
LIMITS: Final = (
    f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; "
    f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"
)
"""Its first words, where it is a long one."""
