"""The cache of secrets: bounded in time and number, one load for all who miss the same key."""

from __future__ import annotations

import copy
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from .._shared.locks import OwnedLock
from ..errors import VaultConnectionError, VaultError, VaultSecretNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CacheKey", "CacheStats", "SecretCache"]

#: Namespace, mount, path, version.
CacheKey: TypeAlias = tuple[str | None, str, str, int | None]

_MAX_ENTRIES = 4096


class CacheStats(TypedDict):
    """What the cache did; ``hits + misses + coalesced`` is the number of reads.

    ``misses`` went to the server, ``coalesced`` waited for the request of another thread.
    ``hit_rate`` is ``hits`` over all reads, 0.0 before the first.
    """

    hits: int
    misses: int
    coalesced: int
    entries: int
    hit_rate: float


@dataclass(slots=True)
class _Entry:
    secret: dict[str, Any] = field(repr=False)
    expires_at: float
    ticket: int


class _Flight:
    """One load on its way; ``done`` is set when it has landed or failed."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.secret: dict[str, Any] | None = None
        self.error: VaultError | None = None


class SecretCache:
    """Secrets that were read less than *ttl* seconds ago, on the monotonic clock.

    Callers get copies. Failures are never kept.

    Args:
        ttl: Seconds that an entry lives; 0 keeps nothing.
        max_entries: How many entries it holds; the oldest one makes room.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        ttl: float,
        *,
        max_entries: int = _MAX_ENTRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = ttl
        self._max_entries = max_entries
        self._clock = clock
        self._lock = OwnedLock()
        # In order of expiry, because every entry lives equally long.
        self._entries: dict[CacheKey, _Entry] = {}
        self._flights: dict[CacheKey, _Flight] = {}
        self._tickets = 0
        self._cleared = 0
        self._hits = self._misses = self._coalesced = 0

    def read(
        self,
        key: CacheKey,
        load: Callable[[], dict[str, Any]],
        *,
        fresh: bool,
        wait: Callable[[], float],
    ) -> dict[str, Any]:
        """Return the secret, loading it at most once for all threads that miss it together.

        Args:
            key: Which secret.
            load: Read it from the server.
            fresh: Load it whatever the cache holds, and refresh the entry.
            wait: Returns the seconds that the caller has left to wait for another's load.

        Raises:
            VaultError: What *load* raised; all who waited for it get a copy.
        """
        if fresh or not self._ttl:
            with self._lock:
                self._misses += 1
            return _copy_secret(self._load(key, load))
        first = True
        while True:
            own = _Flight()
            try:
                found = self._find(key, own, first=first)
                if found is own:
                    own.secret = self._load(key, load)
                    return _copy_secret(own.secret)
            except VaultError as error:
                own.error = error
                raise
            finally:
                # Wherever Ctrl-C strikes: a load that nobody makes would block its key for ever.
                self._land(key, own)
            if isinstance(found, dict):
                return _copy_secret(found)
            if not found.done.wait(max(0.0, wait())):
                self._land(key, found)  # it is over for those who come later, too
                raise VaultConnectionError(
                    f"the secret {key[2]!r} was not read in time: another thread is still reading "
                    "it; raise timeout, or see why Vault is slow",
                    reason="timeout",
                )
            if found.error is not None:
                # Threads must not raise one and the same object: each adds its own traceback.
                raise copy.copy(found.error) from found.error.__cause__
            if found.secret is not None:
                return _copy_secret(found.secret)
            # Its thread was interrupted, which is no answer for anybody else: try again.
            first = False

    def hit(self, key: CacheKey) -> dict[str, Any] | None:
        """Return the secret when it is here, and None when ``read()`` has to look further.

        Apart from ``read()``, because nearly every read ends here, and is measured in microseconds.

        Args:
            key: Which secret.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or self._clock() >= entry.expires_at:
                return None
            self._hits += 1
        return _copy_secret(entry.secret)

    def stats(self) -> CacheStats:
        """Return the counts of one moment."""
        with self._lock:
            self._drop_expired()
            reads = self._hits + self._misses + self._coalesced
            return CacheStats(
                hits=self._hits,
                misses=self._misses,
                coalesced=self._coalesced,
                entries=len(self._entries),
                hit_rate=self._hits / reads if reads else 0.0,
            )

    def clear(self) -> None:
        """Forget every secret; what is being loaded now is not kept either."""
        with self._lock:
            self._entries.clear()
            self._flights.clear()
            self._cleared = self._tickets

    def _find(self, key: CacheKey, own: _Flight, *, first: bool) -> dict[str, Any] | _Flight:
        """Return the cached secret, or the load to wait for: *own* where there is no other."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._clock() < entry.expires_at:
                self._hits += first
                return entry.secret
            flight = self._flights.setdefault(key, own)
            if flight is own:
                self._misses += first
            else:
                self._coalesced += first
            return flight

    def _land(self, key: CacheKey, flight: _Flight) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.done.set()

    def _load(self, key: CacheKey, load: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        with self._lock:
            self._tickets += 1
            ticket = self._tickets
        try:
            secret = load()
        except VaultSecretNotFoundError:
            self._drop(key, ticket)
            raise
        self._keep(key, secret, ticket)
        return secret

    def _drop(self, key: CacheKey, ticket: int) -> None:
        # The server has just said that there is no such secret any more.
        with self._lock:
            known = self._entries.get(key)
            if known is not None and known.ticket < ticket:
                del self._entries[key]

    def _keep(self, key: CacheKey, secret: dict[str, Any], ticket: int) -> None:
        if not self._ttl:
            return
        with self._lock:
            known = self._entries.get(key)
            # A slow answer must not overwrite what was asked for later, nor outlive clear().
            if ticket <= self._cleared or (known is not None and known.ticket > ticket):
                return
            self._entries.pop(key, None)
            self._make_room()
            self._entries[key] = _Entry(secret, self._clock() + self._ttl, ticket)

    def _make_room(self) -> None:
        self._drop_expired()
        while len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._entries:
            oldest = next(iter(self._entries))
            if now < self._entries[oldest].expires_at:
                return
            del self._entries[oldest]


def _copy_secret(secret: dict[str, Any]) -> dict[str, Any]:
    # Secrets are JSON, for which this is several times faster than copy.deepcopy.
    # Nearly all values are text, which needs no copy.
    return {
        name: value if isinstance(value, str) else _copy(value) for name, value in secret.items()
    }


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_copy(one) for one in value]
    return value
