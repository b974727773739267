"""The console: pages and a JSON API by which operators look at an engine and act on it.

`Console` is the ASGI application. `endpoints` is the table of its API, `permission` says who may do
what, and `static/` has the page, which is sent as it is. What the API gives is named here, too.
"""

from ...operations.answers import Audit as Audit
from ...operations.answers import AuditEntry as AuditEntry
from ...operations.answers import Claims as Claims
from ...operations.answers import Done as Done
from ...operations.answers import Latency as Latency
from ...operations.answers import LogEntry as LogEntry
from ...operations.answers import LogPage as LogPage
from ...operations.answers import Members as Members
from ...operations.answers import Overview as Overview
from ...operations.answers import Rates as Rates
from ...operations.answers import Retained as Retained
from ...operations.answers import Sagas as Sagas
from ...operations.answers import ShownChange as ShownChange
from ...operations.answers import ShownClaim as ShownClaim
from ...operations.answers import ShownProjection as ShownProjection
from ...operations.answers import ShownSaga as ShownSaga
from ...operations.answers import ShownState as ShownState
from ...operations.answers import ShownTimer as ShownTimer
from ...operations.answers import StreamCount as StreamCount
from ...operations.answers import Timers as Timers
from ...operations.operations import Operations as Operations
from .app import Console as Console
from .permission import ConsoleAction as ConsoleAction
from .permission import ConsoleAuthorize as ConsoleAuthorize
from .permission import PrincipalOf as PrincipalOf

__all__ = [
    "Audit",
    "AuditEntry",
    "Claims",
    "Console",
    "ConsoleAction",
    "ConsoleAuthorize",
    "Done",
    "Latency",
    "LogEntry",
    "LogPage",
    "Members",
    "Operations",
    "Overview",
    "PrincipalOf",
    "Rates",
    "Retained",
    "Sagas",
    "ShownChange",
    "ShownClaim",
    "ShownProjection",
    "ShownSaga",
    "ShownState",
    "ShownTimer",
    "StreamCount",
    "Timers",
]
