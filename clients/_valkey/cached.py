"""Cache-aside: one producer per key, in this process and across processes.

Each caller looks once, in one atomic step: a value that is there is returned, and where there is
none, or it is in the last tenth of its life, one caller gets the lock and produces. The others
get the value that is still there, or wait: for the producer's own result when it runs in this
process, and by looking again when it runs elsewhere. Where Valkey cannot be used and the caller
said so, the value is produced once for all who wait in this process, and is not stored.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from redis.crc import key_slot

from .._shared.interrupts import is_interrupt
from .._shared.jitter import between
from .._shared.single_flight import ReentrantCallError, SingleFlight, WaitTimeoutError
from .._shared.validation import checked_flag
from ..errors import ClientError, ValkeyConfigurationError, ValkeyError
from .commands import Command, Script, script_command
from .errors import UnexpectedReply
from .hash_tags import has_hash_tag, tag_of_slot
from .identity_digest import identity_digest
from .reply_shapes import flag, stored, text_or_none
from .unavailable import is_unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .runner import Runner

__all__ = ["Lookup", "Productions", "entry_key", "lock_name"]

_T = TypeVar("_T")

_log = logging.getLogger("clients.valkey")

_EARLY = 0.1
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1

# KEYS: value, lock. ARGV: token, or nothing to leave the lock alone; lock milliseconds; early
# milliseconds. Returns the value if there is one, whether it is time to produce one, and whether
# the caller holds the lock now.
_LOOK: Final = Script(
    "look into cache",
    """
local value = redis.call('GET', KEYS[1])
local left = value and redis.call('PTTL', KEYS[1]) or 0
local due, mine = 0, 0
if not value or (left >= 0 and left <= tonumber(ARGV[3])) then
  due = 1
  if ARGV[1] ~= '' and redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then
    mine = 1
  end
end
return {value, due, mine}
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


#: The productions that are under way in this process, by key and by whether they go on without
#: Valkey.
Productions = SingleFlight[tuple[str, bool], str]


class _Unavailable(Exception):  # noqa: N818 - it stays in here
    """Valkey cannot be used now."""


class _Interrupted(BaseException):
    """The producing thread was interrupted: that is no answer for those who wait."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class Lookup(NamedTuple):
    """One caller's wish for a cached value.

    Args:
        runner: Sends the commands.
        productions: What is under way in this process.
        name: The key, with its prefix.
        lock: The lock's key, as ``lock_name`` has it.
        expire_seconds: How long a value is good.
        lock_seconds: How long the others wait for one producer.
        produce: Makes the value.
        goes_on: Whether to produce when Valkey cannot be used.
    """

    runner: Runner
    productions: Productions
    name: str
    lock: str
    expire_seconds: int
    lock_seconds: int
    produce: Callable[[], Any]
    goes_on: bool = False

    def text(self) -> str:
        """Return the value's JSON text, from the cache or from the producer."""
        try:
            return self._from_cache()
        except _Unavailable:
            pass
        try:
            return self._once(self._produced, 2 * self.lock_seconds)
        except WaitTimeoutError:
            return self._produced()

    def _from_cache(self) -> str:
        value, due, _ = self._look("")
        if value is not None and not due:
            return value
        try:
            # While somebody here renews a value that is still good, the others have it.
            return self._once(self._lead, 2 * self.lock_seconds if value is None else 0.0)
        except WaitTimeoutError:
            return self._produced() if value is None else value

    def _once(self, make: Callable[[], str], seconds: float) -> str:
        def interruptible() -> str:
            try:
                return make()
            except Exception as error:
                if is_interrupt(error):
                    raise _Interrupted(error) from None
                raise

        try:
            return self.productions.run((self.name, self.goes_on), interruptible, seconds)
        except ReentrantCallError:
            raise ValkeyError(
                f"the producer of key {self.name!r} reads the same key, and would wait for "
                "itself: let it make the value without cached()"
            ) from None
        except _Interrupted as interrupted:
            raise interrupted.error from None

    def _lead(self) -> str:
        """Produce with the lock, or wait for who has it in another process."""
        token = secrets.token_hex(16)
        pause, waited = _SHORTEST_PAUSE, 0.0
        # A lock ends after lock_seconds at the latest; after two of them, produce without one.
        while waited < 2 * self.lock_seconds:
            value, _, mine = self._look(token)
            if mine:
                return self._produce(token, value)
            if value is not None:
                return value
            this = pause * between(0.5, 1.0)
            time.sleep(this)
            waited += this
            pause = min(pause * 2, _LONGEST_PAUSE)
        return self._produced()

    def _look(self, token: str) -> tuple[str | None, bool, bool]:
        early = int(self.expire_seconds * 1000 * _EARLY)
        keys = (self.name, self.lock) if token else (self.name,)
        arguments = (token, self.lock_seconds * 1000, early)
        look: Command[tuple[str | None, bool, bool]] = script_command(
            _LOOK, keys, arguments, _found, is_divisible=True
        )
        try:
            return self._run(look)
        except ValkeyError as error:
            if not token or not _are_parted(error):
                raise
        # The lock first: whoever had it before has stored the value by then.
        words = ("SET", self.lock, token, "NX", "PX", str(self.lock_seconds * 1000))
        take: Command[bool] = Command(words, (self.lock,), stored)
        mine = self._run(take)
        value, due, _ = self._look("")
        if mine and not due:
            self._release(token)
        return value, due, mine and due

    def _run(self, command: Command[_T]) -> _T:
        try:
            reply = self.runner.run(command, impatient=self.goes_on)
        except ClientError as error:
            is_parted = command.is_divisible and _are_parted(error)
            if self.goes_on and is_unavailable(error) and not is_parted:
                self.runner.outage.failed(error)
                raise _Unavailable from error
            raise
        if self.goes_on:
            self.runner.outage.answered()
        return reply

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
        try:
            self._store(token, text)
        except _Unavailable:
            pass  # the value is there all the same
        except ValkeyError as error:
            # Not when the server is silent: that would only cost another time-out.
            if error.code is not None:
                self._release(token)
            raise
        return text

    def _store(self, token: str, text: str) -> None:
        """Store *text*; a producer slower than its lock stores nothing: another may have begun."""
        seconds = str(self.expire_seconds)
        keys = (self.name, self.lock)
        whole: Command[bool] = script_command(
            _STORE, keys, (token, text, seconds), flag, is_divisible=True
        )
        try:
            self._run(whole)
        except ValkeyError as error:
            if not _are_parted(error):
                raise
        else:
            return
        # Not one step: a lock that ends before the value is there lets it replace a newer one.
        owner: Command[str | None] = Command(
            ("GET", self.lock), (self.lock,), text_or_none, writes=False
        )
        if self._run(owner) == token:
            value: Command[bool] = Command(
                ("SET", self.name, text, "EX", seconds), (self.name,), stored
            )
            self._run(value)
            self._release(token)

    def _produced(self) -> str:
        return self.runner.commands.codec.dump(self.name, self.produce())

    def _release(self, token: str) -> None:
        try:
            self._run(script_command(_RELEASE, (self.lock,), (token,), flag))
        except _Unavailable:
            pass  # the log has been told
        except Exception as error:  # noqa: BLE001 - must not replace the producer's own error
            _log.warning("the lock %r stays until it expires: %s", self.lock, error)


def _are_parted(error: ClientError) -> bool:
    """Return whether the keys are being moved, so that the servers take one key at a time."""
    return isinstance(error, ValkeyError) and error.code == "TRYAGAIN"


def _found(reply: Any) -> tuple[str | None, bool, bool]:
    if type(reply) is not list or len(reply) != len(("value", "due", "mine")):
        raise UnexpectedReply("a value and two flags", reply)
    return text_or_none(reply[0]), flag(reply[1]), flag(reply[2])


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
    checked_flag("per_user", per_user, ValkeyConfigurationError, optional=True)
    if not user:
        raise ValkeyConfigurationError(
            f"cached({key!r}, per_user=True) is called outside of any user: enter user_context() "
            "first, or pass per_user=False"
        )
    return f"{key}:user:{identity_digest(user)}"


def lock_name(prefix: str, name: str) -> str:
    """Return the lock's key for the key *name*: behind the same prefix, in the same cluster slot.

    A prefix with an opening brace has a hash tag where the server is a cluster.
    """
    if "{" in prefix or has_hash_tag(name):
        return f"{name}:lock"
    if "}" in name:
        return f"{prefix}lock:{{{tag_of_slot(key_slot(name.encode()))}}}:{name}"
    return f"{prefix}lock:{{{name}}}"
