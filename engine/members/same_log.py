"""Whether the log at a place is still the one that a process has shared with others.

Rules: who takes a log over has read it, and has answered for it. A store makes a log where there is
none, so a file that somebody has moved away would begin anew, and know no key and no event of what
was acknowledged. It is looked at before the store is opened, by a reader, which makes nothing.
"""

from __future__ import annotations

from ..errors import StoreRefused
from ..host.supervisor import Life
from ..outside.log_file import LogFile
from ..runtime.ports import Ports
from ..stores.contract.backend import Outside
from ..stores.contract.outside import NoLog

__all__ = ["SameLog"]


class SameLog:
    """The place of a log, looked at by who would own it."""

    def __init__(self, outside: Outside, ports: Ports) -> None:
        self._outside = outside
        self._ports = ports

    async def check(self, log_id: str, life: Life) -> None:
        """Raise StoreRefused where another log is there than this one, or none.

        Note in `life` whether it is another one.
        """
        reader = self._outside.log_reader()
        log = LogFile(reader, self._ports)
        try:
            await log.open()
            found = log.log_id
        except NoLog:
            found = ""
        finally:
            await log.close()
        life.is_displaced = found not in ("", log_id)
        if found != log_id:
            raise StoreRefused(
                f"{reader.name} has {'another log' if found else 'no log'} now: somebody has "
                f"moved, removed or replaced the one that this process shares. Nothing was made or "
                f"changed. Put the right one back, or start this process again"
            )
