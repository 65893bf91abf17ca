"""Sign the values of an identity, so that SQL of the application's role cannot forge one.

The server checks the signature with a key that the role cannot read: see
``sql/optional/signed_identity.sql``, which also says what is signed. It is HMAC-SHA-256,
https://www.rfc-editor.org/rfc/rfc2104, of the server process that the value is for, of when it
expires, and of the setting's name.
"""

from __future__ import annotations

import hmac
import logging
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .._shared.fork import on_fork
from .._shared.interrupts import is_interrupt
from .._shared.locks import OwnedLock
from .._shared.rotating_url import called_past_cache
from ..errors import ClientError, PostgresConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .prepared import OwnStatement

__all__ = ["REFUSED", "IdentityKey", "Signatures", "identity_key_of"]

_log = logging.getLogger("clients.postgres")

#: What the server refuses a signature with.
REFUSED = "28000"

_SHORTEST, _LONGEST = 32, 64
#: Seconds for which a signature is good. Any server process takes one that was made for no
#: certain one, as a pooler needs them: such are good for less long.
_LIFETIME, _LIFETIME_BEHIND_POOLER = 300.0, 60.0
#: Seconds after which the callable is called again.
_CALL_AGAIN = 30.0
#: Seconds between two calls because the server refused what was signed.
_PAUSE = 1.0
#: The server counts microseconds from the beginning of 2000.
_SERVERS_EPOCH = 946_684_800
#: How many signed values a session keeps.
_MAX_KEPT = 64


class _Key(NamedTuple):
    number: int
    hmac: hmac.HMAC
    #: What tells it from other keys, and nothing of it.
    mark: bytes


def identity_key_of(source: object) -> IdentityKey | None:
    """Return the key that a client was given, so that no frame shows it; None without one.

    Args:
        source: The bytes, or a callable that returns them; None for none.
    """
    if source is None or isinstance(source, IdentityKey):
        return source
    return IdentityKey(source)


class IdentityKey:
    """A key, or a callable that returns one: it is called again every half a minute.

    Args:
        source: 32 to 64 bytes, or a callable that returns them; also as hexadecimal text.
    """

    def __init__(self, source: object) -> None:
        self._call = source if callable(source) else None
        self._given = None if callable(source) else _keyed(source)
        del source
        self._key: _Key | None = None
        #: When the callable is called again, on the monotonic clock.
        self.next_call_at = math.inf if self._call is None else 0.0
        self._called_at = self._next_renewal_at = 0.0
        #: How often what was signed before has become old.
        self.changes = 0
        self._renew_lock()
        on_fork(self._renew_lock)

    def __repr__(self) -> str:
        return "<the key of the identity>"

    def current(self) -> _Key:
        """Return the key to sign with.

        Raises:
            PostgresConfigurationError: There is none.
            ClientError: The callable failed, and has given none before.
        """
        key = self._key
        if key is not None and time.monotonic() < self.next_call_at:
            return key
        return self._renewed(key, past_cache=False)

    def renew(self, refused: int) -> bool:
        """Call the callable again, past every cache; return whether there is another key now.

        Args:
            refused: The number of the key that the server has refused.
        """
        if self._call is None:
            return False
        key = self._key
        if key is not None and key.number != refused:
            return True
        return self._renewed(key, past_cache=True).number != refused

    def expect_another(self) -> None:
        """Call the callable again soon: the server has refused a signature.

        SQL can raise that error itself, as often as it likes: the callable has its pause.
        """
        if self._call is not None:
            self.next_call_at = min(self.next_call_at, self._called_at + _PAUSE)
            self.changes += 1

    def _renew_lock(self) -> None:
        self._lock = OwnedLock()

    def _renewed(self, known: _Key | None, *, past_cache: bool) -> _Key:
        with self._lock:
            if self._key is not None and self._key is not known:
                return self._key  # another thread has called it meanwhile
            now = time.monotonic()
            if known is not None and now < (
                self._next_renewal_at if past_cache else self.next_call_at
            ):
                return known
            if self._call is not None:
                self._called_at = now
                self.next_call_at = now + _CALL_AGAIN
            if past_cache:
                self._next_renewal_at = now + _PAUSE
            made = self._made(past_cache=past_cache)
            if isinstance(made, hmac.HMAC):
                mark = _mark(made)
                if known is None or known.mark != mark:
                    self._key = _Key(1 if known is None else known.number + 1, made, mark)
                    self.changes += 1
                    return self._key
            if known is None:
                self.next_call_at = 0.0
                if isinstance(made, ClientError):
                    raise made
                raise PostgresConfigurationError(str(made))
            if not isinstance(made, hmac.HMAC):
                _log.warning("identity_key stays as it is for now: %s", made)
            return known

    def _made(self, *, past_cache: bool) -> hmac.HMAC | str | ClientError:
        if self._call is None:
            return self._given if self._given is not None else "identity_key is None"
        return _called(self._call, past_cache=past_cache)


def _called(function: Callable[..., Any], *, past_cache: bool) -> hmac.HMAC | str | ClientError:
    """Call for a key; nothing of it is in a frame when an error comes out."""
    try:
        return _keyed(called_past_cache(function) if past_cache else function())
    except ClientError as error:
        return error
    except Exception as error:
        if is_interrupt(error):
            raise
        # Its text is the caller's, and may have the key in it.
        return f"the callable identity_key failed with {type(error).__name__}"


def _keyed(source: Any) -> hmac.HMAC | str:
    """Return what signs with a key; for what is none, what is wrong with it."""
    if isinstance(source, str):
        try:
            source = bytes.fromhex(source)
        except ValueError:
            return "identity_key is text that is not hexadecimal: pass bytes, or their hex()"
    if not isinstance(source, bytes | bytearray):
        return f"identity_key must be bytes or a callable, and is {type(source).__name__}"
    if not _SHORTEST <= len(source) <= _LONGEST:
        return (
            f"identity_key has {len(source)} bytes: it must have {_SHORTEST} to {_LONGEST}, such "
            "as os.urandom(32)"
        )
    return hmac.new(source, digestmod="sha256")


def _mark(key: hmac.HMAC) -> bytes:
    own = key.copy()
    own.update(b"which key it is")
    return own.digest()


class _Kept(NamedTuple):
    statement: OwnStatement
    values: tuple[bytes, ...]
    #: On the monotonic clock.
    until: float
    changes: int
    #: By the clock that can be set.
    signed_at: float


class Signatures:
    """Signs for one session.

    Args:
        key: With what.
        backend_pid: The server process; None: any, as behind a pooler.
    """

    __slots__ = ("_kept", "_key", "_lifetime", "_process", "key_number", "sent")

    def __init__(self, key: IdentityKey, backend_pid: int | None) -> None:
        self._key = key
        self._process = (backend_pid or 0).to_bytes(4)
        self._lifetime = _LIFETIME if backend_pid else _LIFETIME_BEHIND_POOLER
        self._kept: dict[OwnStatement, _Kept] = {}
        #: With which key it has signed last.
        self.key_number = 0
        #: What it has signed last.
        self.sent: tuple[bytes, ...] = ()

    def signed(self, context: OwnStatement) -> OwnStatement:
        """Return a context statement whose values are signed.

        Args:
            context: A statement of ``ContextSql``; its values stand behind the first parameter.

        Raises:
            ClientError: There is no key.
        """
        kept = self._kept.get(context)
        if (
            kept is None
            or kept.changes != self._key.changes
            # Long enough before it expires for clocks that differ.
            or time.monotonic() >= kept.until
            # The server's clock goes on while this machine sleeps, and the monotonic one stops.
            or not 0 <= time.time() - kept.signed_at < self._lifetime / 2
        ):
            kept = self._sign(context)
        self.sent = kept.values
        return kept.statement

    def of(self, names: Sequence[bytes], values: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return signed values; an empty one stays empty.

        Args:
            names: The settings.
            values: The value of each.

        Raises:
            ClientError: There is no key.
        """
        key, now = self._key.current(), time.time()
        self.key_number = key.number
        return tuple(
            self._signed(key.hmac, name, value, now) if value else b""
            for name, value in zip(names, values, strict=True)
        )

    def renew(self) -> bool:
        """Return whether there is another key than the one that the server has refused."""
        return self._key.renew(self.key_number)

    def _sign(self, context: OwnStatement) -> _Kept:
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        limit, *rest = context.params or ()
        count = len(context.signed)
        self._key.current()
        # Before signing: what another thread changes meanwhile makes this one old at once.
        changes, signed_at = self._key.changes, time.time()
        values = self.of(context.signed, rest[:count])
        until = min(time.monotonic() + self._lifetime / 2, self._key.next_call_at)
        statement = context._replace(params=(limit, *values, *rest[count:]))
        kept = _Kept(statement, values, until, changes, signed_at)
        self._kept[context] = kept
        return kept

    def _signed(self, key: hmac.HMAC, name: bytes, value: bytes, now: float) -> bytes:
        expiry = b"%016x" % int((now + self._lifetime - _SERVERS_EPOCH) * 1_000_000)
        own = key.copy()
        own.update(b"%b%b%b:%b" % (self._process, expiry, name, value))
        return b"%b%b%b" % (expiry, own.hexdigest().encode(), value)
