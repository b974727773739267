"""A new log out of what another event store or an exported file has stored.

In comes a source, event by event, and the host's mapping function, which says what each becomes
here. Out goes a log that is whole and verified, or none. Read in this order: `events`, the sources
(`json_lines`, `event_stores`, `kurrentdb`), `drafts`, `numbering`, `importing`.
"""

from .events import Imported, Mapping, SourceEvent

__all__ = ["Imported", "Mapping", "SourceEvent"]
