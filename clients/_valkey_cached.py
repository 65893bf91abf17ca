"""Cache-aside: one producer per key, in this process and across processes."""

from __future__ import annotations

import logging
import os
import random
import secrets
import threading
import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as StillRunning
from typing import TYPE_CHECKING, Any, Final

from clients._valkey_arguments import checked_expiry, checked_key, from_json, to_json
from clients._valkey_commands import script_command
from clients._valkey_scripts import Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.valkey_client import ValkeyClient

__all__ = ["CacheAside"]

_LOG = logging.getLogger("clients.valkey_client")

# A value is renewed in the last tenth of its life by the first one who asks then.
_EARLY = 0.1
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1

# KEYS: value, lock. ARGV: token, lock milliseconds, early milliseconds.
# Returns the value if there is one, and whether the caller holds the lock now.
_LOOK: Final = Script(
    "look into cache",
    """
local value = redis.call('GET', KEYS[1])
local left = value and redis.call('PTTL', KEYS[1]) or 0
local mine = 0
if not value or (left >= 0 and left <= tonumber(ARGV[3])) then
  if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
    mine = 1
  end
end
return {value, mine}
""",
)

# KEYS: value, lock. ARGV: token, value, expiry in seconds.
_STORE: Final = Script(
    "store into cache",
    """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
""",
)

# KEYS: lock. ARGV: token.
_RELEASE: Final = Script(
    "release cache lock",
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
""",
)


class CacheAside:
    """Reads a value from the cache, or has it produced once.

    Args:
        client: Where values and locks are kept.
    """

    def __init__(self, client: ValkeyClient) -> None:
        self._client = client
        self._flights: dict[tuple[int, str], Future[str]] = {}
        self._lock = threading.Lock()

    def get(
        self, key: str, expire_seconds: int, produce: Callable[[], Any], lock_seconds: int
    ) -> Any:
        """See ``ValkeyClient.cached``."""
        name = checked_key(self._client.key_prefix, key)
        checked_expiry(name, expire_seconds)
        checked_expiry(lock_name(name), lock_seconds)
        # A process forked while a flight was under way must not wait for its parent's.
        flight_key = (os.getpid(), name)
        while True:
            flight: Future[str] = Future()
            running = self._flights.setdefault(flight_key, flight)
            if running is flight:
                break
            try:
                return from_json(name, running.result(lock_seconds))
            except (CancelledError, StillRunning):
                # Its leader was interrupted, or is slower than any lock: try for ourselves.
                self._forget(flight_key, running)
        try:
            text = self._fetch(name, expire_seconds, produce, lock_seconds)
        except Exception as error:
            flight.set_exception(error)
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(text)
        finally:
            self._forget(flight_key, flight)
        return from_json(name, text)

    def _fetch(
        self, name: str, expire_seconds: int, produce: Callable[[], Any], lock_seconds: int
    ) -> str:
        token = secrets.token_hex(16)
        early = int(expire_seconds * 1000 * _EARLY)
        look = script_command(
            _LOOK, (name, lock_name(name)), (token, lock_seconds * 1000, early), _same
        )
        pause = _SHORTEST_PAUSE
        # Whoever holds the lock stores, fails, or loses it within lock_seconds; twice that is
        # the longest wait before we produce without one.
        patience = time.monotonic() + 2 * lock_seconds
        while True:
            value, mine = self._client.run(look)
            if mine:
                return self._produce(name, expire_seconds, produce, token, value)
            if value is not None:
                return str(value)
            if time.monotonic() > patience:
                return to_json(name, produce())
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no matter of security
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _produce(
        self,
        name: str,
        expire_seconds: int,
        produce: Callable[[], Any],
        token: str,
        value: str | None,
    ) -> str:
        try:
            text = to_json(name, produce())
        except BaseException as error:
            self._release(name, token)
            if value is None or not isinstance(error, Exception):
                raise
            # The value that is there is still good: this was only an early renewal.
            _LOG.warning(
                "renewing %r failed with %s; the cached value stays until it expires",
                name,
                type(error).__name__,
            )
            return value
        keys = (name, lock_name(name))
        # A producer slower than its lock stores nothing: somebody else may have begun anew.
        self._client.run(script_command(_STORE, keys, (token, text, expire_seconds), int))
        return text

    def _release(self, name: str, token: str) -> None:
        try:
            self._client.run(script_command(_RELEASE, (lock_name(name),), (token,), int))
        except Exception as error:  # noqa: BLE001 - must not replace the producer's own error
            _LOG.warning("the lock of %r stays until it expires: %s", name, error)

    def _forget(self, flight_key: tuple[int, str], flight: Future[str]) -> None:
        with self._lock:
            if self._flights.get(flight_key) is flight:
                del self._flights[flight_key]


def lock_name(name: str) -> str:
    """Return the lock's key for the key *name*, in the same cluster slot."""
    start = name.find("{")
    end = name.find("}", start + 1)
    if start >= 0 and end > start + 1:
        return f"{name}:lock"
    return f"{{{name}}}:lock"


def _same(reply: Any) -> Any:
    return reply


