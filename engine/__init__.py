"""Foldline: an asyncio engine for CQRS and event sourcing, embedded in your own process.

Everything that an application needs is named here, each name from exactly one file, in groups by
who needs it: who writes a domain, runs it, asks it, looks back, operates it; and what is raised.
What a call here takes or returns is named here too. Kits for tests are in `foldline.testing`,
what other libraries need in `foldline.integrations`, and what a store of your own promises in
`foldline.stores.contract.log`. Every other module is the engine's own, and may change.
"""

from msgspec import Struct as _Struct

from .authorization import Action as Action
from .authorization import Authorize as Authorize
from .engine import Engine as Engine
from .errors import ArchiveUnread as ArchiveUnread
from .errors import BrokerFailed as BrokerFailed
from .errors import Closed as Closed
from .errors import Conflict as Conflict
from .errors import Damaged as Damaged
from .errors import DeadlinePassed as DeadlinePassed
from .errors import DefinitionError as DefinitionError
from .errors import EngineError as EngineError
from .errors import EngineFailed as EngineFailed
from .errors import EventUnread as EventUnread
from .errors import Forbidden as Forbidden
from .errors import HandlerFailed as HandlerFailed
from .errors import InvalidInput as InvalidInput
from .errors import KeyReused as KeyReused
from .errors import MessageRefused as MessageRefused
from .errors import NotRun as NotRun
from .errors import OutcomeUnknown as OutcomeUnknown
from .errors import Overloaded as Overloaded
from .errors import ProjectionFailed as ProjectionFailed
from .errors import ProjectionLag as ProjectionLag
from .errors import ProjectionUnserved as ProjectionUnserved
from .errors import ReactionTooDeep as ReactionTooDeep
from .errors import Rejected as Rejected
from .errors import StoreFailed as StoreFailed
from .errors import StoreLocked as StoreLocked
from .errors import StoreRefused as StoreRefused
from .errors import StreamUnreadable as StreamUnreadable
from .errors import UsageError as UsageError
from .errors import Voided as Voided
from .errors import WrongVersion as WrongVersion
from .explained import explain as _explain
from .health.bounds import Health as Health
from .health.report import HealthCheck as HealthCheck
from .health.report import HealthReport as HealthReport
from .histogram import Histogram as Histogram
from .host.portal import Portal as Portal
from .limits import Limits as Limits
from .log.feed import Feed as Feed
from .log.history import History as History
from .log.history import HistoryPage as HistoryPage
from .log.history import LoggedEvent as LoggedEvent
from .middleware import Middleware as Middleware
from .middleware import QueryCall as QueryCall
from .model.aggregate import Aggregate as Aggregate
from .model.aggregate import Context as Context
from .model.aggregate import applies as applies
from .model.aggregate import handles as handles
from .model.boundary import Boundary as Boundary
from .model.conditions import OneOf as OneOf
from .model.conditions import Range as Range
from .model.conditions import above as above
from .model.conditions import at_least as at_least
from .model.conditions import at_most as at_most
from .model.conditions import below as below
from .model.conditions import between as between
from .model.conditions import one_of as one_of
from .model.decisions import Claim as Claim
from .model.decisions import Decision as Decision
from .model.decisions import Release as Release
from .model.decisions import UniqueValue as UniqueValue
from .model.difference import ABSENT as ABSENT
from .model.difference import Change as Change
from .model.difference import difference as difference
from .model.joint import To as To
from .model.joint import decides as decides
from .model.messages import Command as Command
from .model.messages import Envelope as Envelope
from .model.messages import Event as Event
from .model.messages import Following as Following
from .model.messages import Id as Id
from .model.messages import Meta as Meta
from .model.messages import Query as Query
from .model.messages import Receipt as Receipt
from .model.messages import following as following
from .model.personal import ERASED as ERASED
from .model.personal import Personal as Personal
from .model.private import Private as Private
from .model.process import ProcessManager as ProcessManager
from .model.projection import Projection as Projection
from .model.projection import Row as Row
from .model.projection import Table as Table
from .model.projection import projects as projects
from .model.reactor import Reactor as Reactor
from .model.reactor import reacts as reacts
from .model.reactor import when_rejected as when_rejected
from .model.retention import Retention as Retention
from .model.sink import Delivery as Delivery
from .model.sink import Sink as Sink
from .model.sql_projection import AsyncSql as AsyncSql
from .model.sql_projection import Sql as Sql
from .model.sql_projection import SqlProjection as SqlProjection
from .model.stored import StoredEvent as StoredEvent
from .model.timers import After as After
from .model.timers import At as At
from .model.timers import CancelTimer as CancelTimer
from .model.timers import Timer as Timer
from .model.upcasting import Retired as Retired
from .model.upcasting import downcasts as downcasts
from .model.upcasting import upcasts as upcasts
from .outside.archive import Archive as Archive
from .outside.onlooker import Onlooker as Onlooker
from .outside.onlooker import OnlookerQuery as OnlookerQuery
from .personal.operations import PersonalData as PersonalData
from .projections.operations import Projections as Projections
from .projections.operations import Status as Status
from .projections.retry import Retried as Retried
from .queries.declared import answers as answers
from .queries.live import LiveQuery as LiveQuery
from .queries.past import PastViews as PastViews
from .queries.views import Views as Views
from .recording.forms import Recording as Recording
from .retry import Retry as Retry
from .running import calm_collector as calm_collector
from .running import run as run
from .runtime.ports import FAILPOINTS as FAILPOINTS
from .runtime.ports import Clock as Clock
from .runtime.ports import Ids as Ids
from .runtime.ports import Ports as Ports
from .runtime.ports import Watcher as Watcher
from .runtime.ports import Worker as Worker
from .runtime.ports import Workers as Workers
from .statistics import BuildProgress as BuildProgress
from .statistics import DirectoryStatistics as DirectoryStatistics
from .statistics import EngineStatistics as EngineStatistics
from .statistics import IntakeStatistics as IntakeStatistics
from .statistics import JournalStatistics as JournalStatistics
from .statistics import LiveStatistics as LiveStatistics
from .statistics import MembershipStatistics as MembershipStatistics
from .statistics import OwnerStatistics as OwnerStatistics
from .statistics import ProjectionFailure as ProjectionFailure
from .statistics import ProjectorStatistics as ProjectorStatistics
from .statistics import QueryStatistics as QueryStatistics
from .statistics import ReactionStatistics as ReactionStatistics
from .statistics import ServerStatistics as ServerStatistics
from .statistics import SnapshotStatistics as SnapshotStatistics
from .statistics import SpreadStatistics as SpreadStatistics
from .statistics import StoreStatistics as StoreStatistics
from .statistics import SubscriptionStatistics as SubscriptionStatistics
from .statistics import TimerStatistics as TimerStatistics
from .stores.contract.keys import Erasure as Erasure
from .stores.contract.keys import KeyStore as KeyStore
from .stores.contract.keys import SubjectKey as SubjectKey
from .stores.contract.log import Store as Store
from .stores.contract.views import Build as Build
from .stores.contract.views import Parked as Parked
from .stores.contract.views import ProjectionDecision as ProjectionDecision
from .stores.memory import MemoryStore as MemoryStore
from .telemetry import CommandBegan as CommandBegan
from .telemetry import CommitBegan as CommitBegan
from .telemetry import ForwardBegan as ForwardBegan
from .telemetry import LoadBegan as LoadBegan
from .telemetry import Observation as Observation
from .telemetry import ProjectionBegan as ProjectionBegan
from .telemetry import QueryBegan as QueryBegan
from .telemetry import Telemetry as Telemetry
from .tenants.tenants import Tenants as Tenants
from .tenants.tenants import TenantsStatistics as TenantsStatistics
from .timers.schedule import Schedule as Schedule
from .write.keys import id_from_key as id_from_key

# Who writes a domain: its messages, aggregates and views.
__all__ = [
    "ERASED",
    "After",
    "Aggregate",
    "At",
    "Boundary",
    "CancelTimer",
    "Claim",
    "Command",
    "Context",
    "Decision",
    "Delivery",
    "Event",
    "Id",
    "Meta",
    "Personal",
    "Private",
    "ProcessManager",
    "Projection",
    "Query",
    "Reactor",
    "Release",
    "Retired",
    "Row",
    "Schedule",
    "Sink",
    "Sql",
    "SqlProjection",
    "Table",
    "Timer",
    "To",
    "UniqueValue",
    "Views",
    "answers",
    "applies",
    "decides",
    "downcasts",
    "handles",
    "projects",
    "reacts",
    "upcasts",
    "when_rejected",
]

# Who runs it: the engine, what it is given, and commands on their way.
__all__ += [
    "FAILPOINTS",
    "Action",
    "Authorize",
    "Clock",
    "Engine",
    "Envelope",
    "Following",
    "Ids",
    "KeyStore",
    "Limits",
    "MemoryStore",
    "Middleware",
    "Portal",
    "Ports",
    "QueryCall",
    "Receipt",
    "Recording",
    "Retry",
    "Store",
    "SubjectKey",
    "Tenants",
    "Watcher",
    "Worker",
    "Workers",
    "calm_collector",
    "following",
    "id_from_key",
    "run",
]

# Who asks it: conditions of a query, and answers that go on.
__all__ += [
    "LiveQuery",
    "OneOf",
    "Onlooker",
    "OnlookerQuery",
    "Range",
    "above",
    "at_least",
    "at_most",
    "below",
    "between",
    "one_of",
]

# Who looks back: histories, states and views of the past, and the log as it grows.
__all__ += [
    "ABSENT",
    "Archive",
    "AsyncSql",
    "Change",
    "Feed",
    "History",
    "HistoryPage",
    "LoggedEvent",
    "PastViews",
    "difference",
]

# Who operates it: projections at run time, numbers, and what a telemetry is shown.
__all__ += [
    "Build",
    "BuildProgress",
    "CommandBegan",
    "CommitBegan",
    "DirectoryStatistics",
    "EngineStatistics",
    "Erasure",
    "ForwardBegan",
    "Health",
    "HealthCheck",
    "HealthReport",
    "Histogram",
    "IntakeStatistics",
    "JournalStatistics",
    "LiveStatistics",
    "LoadBegan",
    "MembershipStatistics",
    "Observation",
    "OwnerStatistics",
    "Parked",
    "PersonalData",
    "ProjectionBegan",
    "ProjectionDecision",
    "ProjectionFailure",
    "Projections",
    "ProjectorStatistics",
    "QueryBegan",
    "QueryStatistics",
    "ReactionStatistics",
    "Retention",
    "Retried",
    "ServerStatistics",
    "SnapshotStatistics",
    "SpreadStatistics",
    "Status",
    "StoreStatistics",
    "StoredEvent",
    "SubscriptionStatistics",
    "Telemetry",
    "TenantsStatistics",
    "TimerStatistics",
]

# What is raised.
__all__ += [
    "ArchiveUnread",
    "BrokerFailed",
    "Closed",
    "Conflict",
    "Damaged",
    "DeadlinePassed",
    "DefinitionError",
    "EngineError",
    "EngineFailed",
    "EventUnread",
    "Forbidden",
    "HandlerFailed",
    "InvalidInput",
    "KeyReused",
    "MessageRefused",
    "NotRun",
    "OutcomeUnknown",
    "Overloaded",
    "ProjectionFailed",
    "ProjectionLag",
    "ProjectionUnserved",
    "ReactionTooDeep",
    "Rejected",
    "StoreFailed",
    "StoreLocked",
    "StoreRefused",
    "StreamUnreadable",
    "UsageError",
    "Voided",
    "WrongVersion",
]

for _name in __all__:
    _found: object = globals()[_name]
    if isinstance(_found, type) and issubclass(_found, _Struct):
        _explain(_found)
