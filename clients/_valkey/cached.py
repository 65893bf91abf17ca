"""Cache-aside: one producer per key, in this process and across processes.

Each caller looks once, in one atomic step: a value that is there is returned, and where there is
none, or it is in the last tenth of its life, one caller gets the lock and produces. The others
get the value that is still there, or wait: for the producer's own result when it runs in this
process, and by looking again when it runs elsewhere.
"""

from __future__ import annotations

import copy
import logging
import os
import random
import re
import secrets
import threading
import time
from concurrent.futures import Future, wait
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.crc import key_slot

from ..errors import ValkeyConfigurationError, ValkeyError
from .commands import Script, script_command
from .errors import UnexpectedReply
from .identity_digest import identity_digest
from .replies import flag, text_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .commands import Command
    from .runner import Runner

__all__ = ["Flights", "Lookup", "entry_key", "lock_name"]

_log = logging.getLogger("clients.valkey")

# What a cluster looks for: the first opening brace, and something before the next closing one.
_TAGGED = re.compile(r"[^{]*\{[^}]+\}", re.DOTALL)
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


class _LeaderInterrupted(Exception):  # noqa: N818 - it stays in here
    """The producing thread was interrupted: whoever waits tries for himself."""


class _Flight(Future[str]):
    """A production that is under way, and the thread that it runs in."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()


#: The productions that are under way in a process, by process and key: a forked child must not
#: wait for its parent's.
Flights = dict[tuple[int, str], _Flight]


class Lookup(NamedTuple):
    """One caller's wish for a cached value.

    Args:
        runner: Sends the commands.
        flights: What is under way in this process.
        name: The key, with its prefix.
        lock: The lock's key, as ``lock_name`` has it.
        expire_seconds: How long a value is good.
        lock_seconds: How long the others wait for one producer.
        produce: Makes the value.
    """

    runner: Runner
    flights: Flights
    name: str
    lock: str
    expire_seconds: int
    lock_seconds: int
    produce: Callable[[], Any]

    def text(self) -> str:
        """Return the value's JSON text, from the cache or from the producer."""
        token = secrets.token_hex(16)
        early = int(self.expire_seconds * 1000 * _EARLY)
        keys = (self.name, self.lock)
        arguments = (token, self.lock_seconds * 1000, early)
        look: Command[tuple[str | None, bool]] = script_command(_LOOK, keys, arguments, _found)
        pause = _SHORTEST_PAUSE
        # A lock ends after lock_seconds at the latest; after two of them, produce without one.
        patience = time.monotonic() + 2 * self.lock_seconds
        while True:
            value, mine = self.runner.run(look)
            if mine:
                return self._lead(token, value)
            if value is not None:
                return str(value)
            remaining = patience - time.monotonic()
            if remaining <= 0:
                return self._produced()
            flight = self.flights.get((os.getpid(), self.name))
            if flight is not None:
                if flight.thread == threading.get_ident():
                    raise ValkeyError(
                        f"the producer of key {self.name!r} asks for the same key, and would wait "
                        "for itself: let it make the value without cached()"
                    )
                wait([flight], min(remaining, self.lock_seconds))
                failure = flight.exception() if flight.done() else None
                if failure is not None and not isinstance(failure, _LeaderInterrupted):
                    raise copy.copy(failure)
                if flight.done() and failure is None:
                    return flight.result()
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no matter of security
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _lead(self, token: str, value: str | None) -> str:
        flight = _Flight()
        key = (os.getpid(), self.name)
        try:
            self.flights[key] = flight
            text = self._produce(token, value)
        except Exception as error:
            flight.set_exception(error)
            raise
        except BaseException:
            # An interrupt is nobody's but ours: the others try again.
            flight.set_exception(_LeaderInterrupted())
            raise
        else:
            flight.set_result(text)
            return text
        finally:
            if self.flights.get(key) is flight:
                self.flights.pop(key, None)

    def _produce(self, token: str, value: str | None) -> str:
        try:
            text = self._produced()
        except BaseException as error:
            self._release(token)
            if value is None or not isinstance(error, Exception):
                raise
            # The value that is there is still good: this was only an early renewal.
            _log.warning(
                "renewing key %r failed with %s: its cached value stays until it expires",
                self.name,
                type(error).__name__,
            )
            return value
        keys = (self.name, self.lock)
        # A producer slower than its lock stores nothing: somebody else may have begun anew.
        try:
            self.runner.run(script_command(_STORE, keys, (token, text, self.expire_seconds), flag))
        except ValkeyError as error:
            # Not when the server is silent: that would only cost another time-out.
            if error.code is not None:
                self._release(token)
            raise
        return text

    def _produced(self) -> str:
        return self.runner.commands.codec.dump(self.name, self.produce())

    def _release(self, token: str) -> None:
        try:
            self.runner.run(script_command(_RELEASE, (self.lock,), (token,), flag))
        except Exception as error:  # noqa: BLE001 - must not replace the producer's own error
            _log.warning("the lock %r stays until it expires: %s", self.lock, error)


def _found(reply: Any) -> tuple[str | None, bool]:
    if type(reply) is not list or len(reply) != len(("value", "lock")):
        raise UnexpectedReply("a value and a lock", reply)
    return text_or_none(reply[0]), flag(reply[1])


def entry_key(key: str, user: Mapping[str, Any], per_user: object) -> str:
    """Return the key, without prefix, of an entry that is everybody's or one user's.

    Args:
        key: What the caller calls it.
        user: The identity that is in force; empty outside of any user.
        per_user: What the caller said.

    Raises:
        ValkeyConfigurationError: The caller does not say whose the entry is, although there is a
            user, or wants a user's where there is none.
    """
    if per_user is False or (per_user is None and not user):
        return key
    if per_user is None:
        raise ValkeyConfigurationError(
            f"cached({key!r}) is called for a user, and does not say whose the entry is: pass "
            "per_user=True for an entry of each user's own, or per_user=False for one that "
            "everybody may see"
        )
    if per_user is not True:
        raise ValkeyConfigurationError(
            f"per_user is {type(per_user).__name__}: it must be True, False or None"
        )
    if not user:
        raise ValkeyConfigurationError(
            f"cached({key!r}, per_user=True) is called outside of any user: enter user_context() "
            "first, or pass per_user=False"
        )
    return f"{key}:user:{identity_digest(user)}"


def lock_name(prefix: str, name: str) -> str:
    """Return the lock's key for the key *name*: behind the same prefix, in the same cluster slot.

    Source: https://valkey.io/topics/cluster-spec/ (hash tags).
    """
    if "{" in prefix or _TAGGED.match(name):
        return f"{name}:lock"
    if "}" in name:
        return f"{prefix}lock:{{{_tag_of(key_slot(name.encode()))}}}:{name}"
    return f"{prefix}lock:{{{name}}}"


@lru_cache(maxsize=1024)
def _tag_of(slot: int) -> str:
    return next(tag for tag in map(str, count()) if key_slot(tag.encode()) == slot)
