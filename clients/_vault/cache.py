"""The cache of secrets: bounded in time and number, one load for all who miss the same key."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from .._shared.locks import OwnedLock
from .._shared.single_flight import SingleFlight, WaitTimeoutError
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
        self._loads: SingleFlight[CacheKey, dict[str, Any]] = SingleFlight(VaultError)
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
        led = False

        def make() -> dict[str, Any]:
            nonlocal led
            led = True
            # The load that this call would have waited for may just have ended.
            cached = self._counted(key)
            return self._load(key, load) if cached is None else cached

        try:
            found = self._loads.run(key, make, max(0.0, wait()))
        except WaitTimeoutError:
            self._loads.forget(key)  # it is over for those who come later, too
            self._count_coalesced()
            raise VaultConnectionError(
                f"the secret {key[2]!r} was not read in time: another thread is still reading "
                "it; raise timeout, or see why Vault is slow",
                reason="timeout",
            ) from None
        except VaultError:
            if not led:
                self._count_coalesced()
            raise
        if not led:
            self._count_coalesced()
        return _copy_secret(found)

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
            self._loads.forget()
            self._cleared = self._tickets

    def _counted(self, key: CacheKey) -> dict[str, Any] | None:
        """Return the cached secret, or None, and count it as a hit or a miss."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._clock() < entry.expires_at:
                self._hits += 1
                return entry.secret
            self._misses += 1
            return None

    def _count_coalesced(self) -> None:
        with self._lock:
            self._coalesced += 1

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
