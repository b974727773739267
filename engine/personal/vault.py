"""The keys in use: encrypts for a subject, and decrypts until he is erased.

Rules: a secret is made before it is needed, and is durable before anything that it encrypted is
written: `flush` comes before each append. A key's number is the time at which it was made, so a
file of keys that was lost or set back gives no number again, which would be another person's. What
is encrypted is bound to the place where it stands, so it cannot be moved to another. An erasure by
another process is seen within a second, and as much later as the store takes to hear of it.
Encryption is AES in Galois/Counter Mode with a key of 256 bits and a random nonce of 96 bits (NIST
SP 800-38D), by the library `cryptography`. No error and no log line has a secret or a text.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from ..errors import Damaged, DefinitionError, StoreFailed, StoreRefused
from ..model.codec import EventRegistry
from ..model.personal import SEALED, SNAPSHOTS
from ..model.stored import StoredEvent
from ..runtime.futures import retrieve
from ..runtime.ports import Ports
from ..stores.contract.keys import CopiedKeys, Erasure, KeyStore, PlacedKeys, SubjectKey
from ..stores.contract.log import AppendRequest
from .lost import TypedSource, refuse_lost_keys

__all__ = ["Vault", "check_installed", "reading"]

_KEYS_MAX: Final = 65_536
"""Ciphers that are kept ready."""
_LOOK_SECONDS: Final = 1.0
"""How long a cipher is used without a look whether another process has erased anybody."""
_KEEP_SECONDS: Final = 5.0
"""How long an append waits for new keys: all others wait behind it."""
_NONCE_BYTES: Final = 12
_SEALED_NUMBER: Final = re.compile(f'"{re.escape(SEALED)}":"([0-9]{{1,18}})\\.'.encode())
"""The number of the key, in the payload of a stored event."""


def check_installed() -> None:
    """Raise DefinitionError where the library is not installed; nothing is imported."""
    if importlib.util.find_spec("cryptography") is None:
        raise DefinitionError(
            "personal fields need the package cryptography: pip install '../foldline[personal]'"
        )


class _Cipher(msgspec.Struct):
    number: int
    subject: str
    aead: Any
    """None if the secret is destroyed."""


class Vault:
    """The keys of one log, as one engine uses them."""

    def __init__(self, store: KeyStore) -> None:
        check_installed()
        self.store = store
        self._placed = store if isinstance(store, PlacedKeys) else None
        self._copied = store if isinstance(store, CopiedKeys) else None
        self._ports = Ports()
        self._make_aead: Any = None
        self._opened = False
        self._largest = 0
        """The largest number of a key."""
        self.begun_before: Mapping[int, int] = {}
        """Erasures that were unfinished as this process began to write, with the number of the key
        that their person had then; 0 for none."""
        self._new: dict[str, SubjectKey] = {}
        """Keys that are not durable yet, by subject."""
        self._ciphers: OrderedDict[int, _Cipher] = OrderedDict()
        self._by_subject: OrderedDict[str, _Cipher] = OrderedDict()
        self._changes = 0
        self._looked = 0.0
        self._keeping: asyncio.Task[None] | None = None
        """Makes new keys durable; it goes on where nobody waits for it any more."""
        self._keeping_since = 0.0
        self._are_kept = True
        """Whether new keys could be made durable, when it was tried last."""
        self.is_kept = False
        """Whether others in this process read by it, so that an engine's end leaves it open."""
        self.keeps_states = True
        """Whether states may be sealed: not while some in memory have a person who was erased."""

    # -- life ---------------------------------------------------------------------------------

    async def open(
        self,
        ports: Ports,
        log_id: str,
        log: TypedSource | None = None,
        names: Set[str] = frozenset(),
        *,
        only_reads: bool = False,
    ) -> None:
        """Open the store of keys; a second call does nothing.

        With a log, of which events of these names may be personal, keys that are lost are not made
        anew: raises StoreRefused.
        """
        if self._opened:
            return
        if log is not None and self._placed is not None:
            await refuse_lost_keys(await self._placed.missing(ports), log, names)
        library: Any = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
        self._make_aead = library.AESGCM
        self._ports = ports
        self._largest = await self.store.open(ports, log_id, only_reads=only_reads)
        self._opened = True
        self._changes, self._looked = self.store.change_count(), ports.clock.monotonic()

    async def begin(self) -> None:
        """Note what others have begun: from now on this process alone makes keys."""
        if self._copied is not None:
            await self._copied.catch_up(anew=True)
            self.forget()
        unfinished = await self.store.unfinished()
        self.begun_before = {each.number: self.made(each.subject) or 0 for each in unfinished}

    async def close(self) -> None:
        """Close it, unless it is kept; a second call does nothing."""
        if self.is_kept:
            return
        if (keeping := self._keeping) is not None:
            keeping.cancel()
            await asyncio.wait([keeping])
        self._opened = False
        self.forget()
        await self.store.close()

    # -- encrypting ---------------------------------------------------------------------------

    def seal(self, subject: str, plain: bytes, bound: bytes) -> str:
        """Give a text that only this subject's key opens, and only beside `bound`."""
        cipher = self._cipher_of(subject)
        nonce = bytes.fromhex(self._ports.ids.new_id())[:_NONCE_BYTES]
        sealed: bytes = cipher.aead.encrypt(nonce, plain, bound)
        return f"{cipher.number}.{b64encode(nonce + sealed).decode('ascii')}"

    def unseal(self, sealed: str, bound: bytes, position: int) -> bytes | None:
        """Give what was sealed, or None if its subject has been erased."""
        cipher = self._named(sealed, position)
        if cipher.aead is None:
            return None
        try:
            raw = b64decode(sealed.partition(".")[2], validate=True)
            plain: bytes = cipher.aead.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound)
        except Exception as error:  # InvalidTag of the library, or a text that is none
            raise Damaged(
                position,
                f"its personal fields do not open with key {cipher.number} "
                f"({type(error).__name__}): they were changed, or stood in another place",
            ) from None
        return plain

    def subject_of(self, sealed: str, position: int) -> str:
        """Give whose data was sealed; raise Damaged as `unseal` does."""
        return self._named(sealed, position).subject

    def _named(self, sealed: str, position: int) -> _Cipher:
        """Give the key that a sealed text names."""
        number = sealed.partition(".")[0]
        if not (number.isascii() and number.isdecimal()):
            raise Damaged(position, "its personal fields are no text of ours")
        cipher = self._cipher(int(number))
        if cipher is None:
            raise Damaged(
                position,
                f"its personal fields are encrypted with key {number}, which {self.store!r} does "
                f"not have and never had: give the engine the log's own file of keys",
            )
        return cipher

    async def know(self, events: Iterable[StoredEvent]) -> None:
        """Have the keys of events that another process may have written a moment ago."""
        if self._copied is None or not self._opened:
            return
        for stored in events:
            found = _SEALED_NUMBER.search(stored.payload)
            if found is not None and not self._is_told_of(int(found[1])):
                await self._copied.catch_up()
                return

    def _is_told_of(self, number: int) -> bool:
        """Tell whether who decodes is told the right thing: not that a key is missing."""
        try:
            return self._cipher(number) is not None
        except StoreFailed:
            return True  # so is he: others of the same page need no key

    async def flush(self, requests: Sequence[AppendRequest] | None = None) -> None:
        """Make new keys durable: what they have encrypted may be written then.

        While that fails, what needs no new key of these requests does not wait for it. What does
        waits some seconds, as everybody waits behind it; without requests it waits for the store.
        Raises StoreFailed, also where the keys are not there any more: nothing is to be written
        then that nobody reads after a restart.
        """
        if self._placed is not None:
            self._placed.check()
        if not self._new or not (requests is None or self._are_kept or self._need(requests)):
            return
        wanted = list(self._new.values())
        begun = self._keeping_since if self._is_keeping() else asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(None if requests is None else begun + _KEEP_SECONDS):
                while self._lack(wanted):
                    await self._kept_once()
        except (TimeoutError, StoreFailed) as error:
            if self._placed is not None:
                self._placed.check()
            if requests is not None and not self._need(requests):
                return  # nor does the first of them
            if isinstance(error, StoreFailed):
                raise
            raise StoreFailed(
                f"the keys of personal data could not be kept for {_KEEP_SECONDS:g} s, and nothing "
                f"waits longer for a new one",
                written=False,
                passes=True,
            ) from None

    def _lack(self, wanted: Sequence[SubjectKey]) -> bool:
        return any(self._new.get(key.subject) is key for key in wanted)

    def _is_keeping(self) -> bool:
        return self._keeping is not None and not self._keeping.done()

    async def _kept_once(self) -> None:
        """Wait for what is under way, or begin it: appends and erasures meet here.

        It may have begun without the newest keys, and then comes again.
        """
        keeping = self._keeping
        if keeping is None or keeping.done():
            self._keeping_since = asyncio.get_running_loop().time()
            keeping = self._keeping = asyncio.create_task(self._keep_new(), name="foldline keys")
            keeping.add_done_callback(retrieve)
        await asyncio.shield(keeping)

    async def _keep_new(self) -> None:
        new = list(self._new.values())
        self._are_kept = False
        try:
            await self.store.add(new)
        except StoreRefused as error:  # it may be mended while the engine runs
            raise StoreFailed(str(error), written=False) from error
        self._are_kept = True
        for key in new:
            if self._new.get(key.subject) is key:
                del self._new[key.subject]

    def _need(self, requests: Sequence[AppendRequest]) -> bool:
        """Tell whether events have something that a new key has encrypted."""
        sealed = [f'"{key.number}.'.encode() for key in self._new.values()]
        return any(
            mark in text
            for request in requests
            for write in request.writes
            for event in write.events
            for text in (event.payload, event.metadata)
            for mark in sealed
        )

    # -- erasing ------------------------------------------------------------------------------

    async def erase(self, subject: str, reason: str, principal: str | None) -> Erasure:
        """Destroy the keys of a subject; from then on nobody reads what they have encrypted."""
        await self.flush()
        asked = self._ports.clock.now()
        try:
            return await self.store.erase(Erasure(0, subject, asked, 0, reason, principal))
        finally:
            self.forget()  # whoever gives the call up: the key may be destroyed

    def made(self, subject: str) -> int | None:
        """Give the number of a subject's key, which says when it was made; None if it has none."""
        key = self._new.get(subject) or self.store.current(subject)
        return None if key is None else key.number

    async def erase_states(self) -> None:
        """Destroy the key of snapshots, which have everybody's data in them.

        That is an erasure of its own, which `states_are_gone` finishes.
        """
        await self.flush()
        try:
            await self.store.erase(Erasure(0, SNAPSHOTS, self._ports.clock.now(), 0))
        finally:
            self.forget()

    async def states_are_gone(self) -> None:
        """Note that nobody has anything in memory any more that was read before `erase_states`."""
        for each in await self.store.unfinished():
            if each.subject == SNAPSHOTS:
                await self.store.finish(each.number, self._ports.clock.now())

    async def let_go(self) -> int:
        """Give the number of the last erasure of states that is finished; 0 where there is none.

        What has a smaller number is in no memory.
        """
        kept = await self.store.erasures(SNAPSHOTS)
        return max((each.number for each in kept if each.finished is not None), default=0)

    async def unfinished(self) -> Sequence[Erasure]:
        """Give the erasures of people of whom views or memory may still have something."""
        return [each for each in await self.store.unfinished() if each.subject != SNAPSHOTS]

    def forget(self) -> None:
        """Keep no cipher ready: each is looked up again."""
        self._ciphers.clear()
        self._by_subject.clear()

    # -- keys ---------------------------------------------------------------------------------

    def _cipher_of(self, subject: str) -> _Cipher:
        self._look()
        cipher = self._by_subject.get(subject)
        if cipher is not None:
            return cipher
        key = self._new.get(subject) or self.store.current(subject)
        if key is None:
            self._largest = max(self._largest + 1, self._ports.clock.now())
            secret = bytes.fromhex(self._ports.ids.new_id() + self._ports.ids.new_id())
            key = self._new[subject] = SubjectKey(self._largest, subject, secret)
        cipher = self._keep(key)
        if len(self._by_subject) >= _KEYS_MAX:
            self._by_subject.popitem(last=False)
        self._by_subject[subject] = cipher
        return cipher

    def _cipher(self, number: int) -> _Cipher | None:
        self._look()
        cipher = self._ciphers.get(number)
        if cipher is not None:
            return cipher
        key = next((k for k in self._new.values() if k.number == number), None)
        key = key or self.store.find(number)
        return None if key is None else self._keep(key)

    def _keep(self, key: SubjectKey) -> _Cipher:
        aead = None if key.secret is None else self._make_aead(key.secret)
        cipher = _Cipher(key.number, key.subject, aead)
        if len(self._ciphers) >= _KEYS_MAX:
            self._ciphers.popitem(last=False)
        self._ciphers[key.number] = cipher
        return cipher

    def _look(self) -> None:
        """See from time to time whether another process has changed the keys."""
        now = self._ports.clock.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        changes = self.store.change_count()
        # Only then: where that cannot be told, nothing that was read before is used either.
        self._looked = now
        if changes != self._changes:
            self._changes = changes
            self.forget()

    def __repr__(self) -> str:
        return f"Vault({self.store!r})"


@asynccontextmanager
async def reading(registry: EventRegistry, ports: Ports, log_id: str) -> AsyncGenerator[None]:
    """Let events be decrypted inside, where the registry was given a vault that nobody opened."""
    sealer = registry.sealer
    if not isinstance(sealer, Vault):
        yield
        return
    await sealer.open(ports, log_id, only_reads=True)
    try:
        yield
    finally:
        await sealer.close()
