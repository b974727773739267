"""Foldline: an asyncio engine for CQRS and event sourcing, embedded in your own process.

What an application needs is named here, each from exactly one file. Stores and test kits are in
`engine.stores` and `engine.testing`.
"""

from .aggregate import Aggregate as Aggregate
from .aggregate import Context as Context
from .aggregate import applies as applies
from .aggregate import handles as handles
from .answers import answers as answers
from .archive import Archive as Archive
from .authorization import Action as Action
from .authorization import Authorize as Authorize
from .difference import ABSENT as ABSENT
from .difference import Change as Change
from .difference import difference as difference
from .engine import Engine as Engine
from .errors import Closed as Closed
from .errors import Conflict as Conflict
from .errors import Damaged as Damaged
from .errors import DeadlinePassed as DeadlinePassed
from .errors import DefinitionError as DefinitionError
from .errors import EngineError as EngineError
from .errors import EngineFailed as EngineFailed
from .errors import Forbidden as Forbidden
from .errors import HandlerFailed as HandlerFailed
from .errors import InvalidInput as InvalidInput
from .errors import KeyReused as KeyReused
from .errors import NotRun as NotRun
from .errors import OutcomeUnknown as OutcomeUnknown
from .errors import Overloaded as Overloaded
from .errors import ProjectionLag as ProjectionLag
from .errors import ProjectionUnserved as ProjectionUnserved
from .errors import Rejected as Rejected
from .errors import StoreFailed as StoreFailed
from .errors import StoreLocked as StoreLocked
from .errors import StoreRefused as StoreRefused
from .errors import StreamUnreadable as StreamUnreadable
from .errors import UsageError as UsageError
from .errors import Voided as Voided
from .errors import WrongVersion as WrongVersion
from .history import History as History
from .history import HistoryPage as HistoryPage
from .history import LoggedEvent as LoggedEvent
from .keys import id_from_key as id_from_key
from .limits import Limits as Limits
from .messages import Command as Command
from .messages import Envelope as Envelope
from .messages import Event as Event
from .messages import Id as Id
from .messages import Meta as Meta
from .messages import Query as Query
from .messages import Receipt as Receipt
from .messages import following as following
from .portal import Portal as Portal
from .ports import Ports as Ports
from .projection import Projection as Projection
from .projection import Row as Row
from .projection import Table as Table
from .projection import projects as projects
from .running import calm_collector as calm_collector
from .running import run as run
from .statistics import EngineStatistics as EngineStatistics
from .telemetry import Telemetry as Telemetry
from .upcasting import Retired as Retired
from .upcasting import upcasts as upcasts
from .views import Views as Views
