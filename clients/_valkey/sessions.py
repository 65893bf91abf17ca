"""Sessions: tokens that slide, end for certain, and can be revoked all at once.

All sessions of one user are fields of one hash, so that every operation is one atomic step on one
key: a revoked session cannot come back through a renewal that was under way, the list has no
stale members, and the whole works in a cluster. A token is the user's tag, which leads to that
key, followed by 256 random bits. Only the hash of those bits is stored.

Sources: https://cheatsheetseries.owasp.org/cheatsheets/Session_Management_Cheat_Sheet.html (idle
and absolute time-outs, entropy), https://docs.python.org/3/library/secrets.html (256 bits).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import ValkeyConfigurationError, ValkeyError
from .arguments import checked_expiry, checked_key, from_json, to_json
from .commands import Script, same, script_command

if TYPE_CHECKING:
    from .commands import Command, T

    class ClientWithKeys(Protocol):
        """What a ValkeyClient gives a SessionStore, which its module imports."""

        @property
        def key_prefix(self) -> str: ...

        def _run(self, command: Command[T]) -> T: ...


__all__ = ["Session", "SessionStore"]

_TOKEN_BYTES = 32
_TAG_BYTES = 16
_TAG_LENGTH = 22
_TOKEN = re.compile(r"[A-Za-z0-9_-]{65}")

# Each field is "idle deadline:absolute deadline:created:JSON", in the server's milliseconds.
_COMMON = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function unpack_session(text)
  local idle, deadline, created, rest = string.match(text, '^(%d+):(%d+):(%d+):(.*)$')
  if not idle then
    return nil
  end
  return tonumber(idle), tonumber(deadline), tonumber(created), rest
end
local function number(value)
  return string.format('%.0f', value)
end
local function live_sessions()
  local found, latest = {}, 0
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    local idle, deadline, created, rest = unpack_session(all[at + 1])
    if not idle or idle <= now then
      redis.call('HDEL', KEYS[1], all[at])
    else
      latest = math.max(latest, idle)
      table.insert(found, {all[at], number(created), number(idle), number(deadline), rest})
    end
  end
  return found, latest
end
"""

# ARGV: field, idle and absolute milliseconds, JSON.
_CREATE: Final = Script(
    "create session",
    _COMMON
    + """
local _, latest = live_sessions()
local deadline = now + tonumber(ARGV[3])
local idle = math.min(now + tonumber(ARGV[2]), deadline)
redis.call('HSET', KEYS[1], ARGV[1],
           number(idle) .. ':' .. number(deadline) .. ':' .. number(now) .. ':' .. ARGV[4])
redis.call('PEXPIREAT', KEYS[1], number(math.max(latest, idle)))
return 1
""",
)

# ARGV: field, idle milliseconds.
_READ: Final = Script(
    "read session",
    _COMMON
    + """
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then
  return false
end
local idle, deadline, created, rest = unpack_session(text)
if not idle or idle <= now then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return false
end
idle = math.min(now + tonumber(ARGV[2]), deadline)
redis.call('HSET', KEYS[1], ARGV[1],
           number(idle) .. ':' .. number(deadline) .. ':' .. number(created) .. ':' .. rest)
if redis.call('PEXPIRETIME', KEYS[1]) < idle then
  redis.call('PEXPIREAT', KEYS[1], number(idle))
end
return {ARGV[1], number(created), number(idle), number(deadline), rest}
""",
)

_LIST: Final = Script("list sessions", _COMMON + "return (live_sessions())")
_REVOKE: Final = Script("revoke session", "return redis.call('HDEL', KEYS[1], ARGV[1])")
_REVOKE_ALL: Final = Script(
    "revoke all sessions",
    _COMMON + "local found = live_sessions()\nredis.call('DEL', KEYS[1])\nreturn #found",
)


@dataclass(frozen=True, slots=True)
class Session:
    """What is known about a live session.

    Args:
        id: A name to show and to revoke it by; it gives no access.
        user_id: Whose it is.
        data: What ``create`` was given.
        created_at: When it began; this and the next two in seconds since 1970, by the server's
            clock.
        expires_at: When it ends unless it is read before.
        ends_at: When it ends in any case.
    """

    id: str
    user_id: str
    data: Any = field(repr=False)
    created_at: float
    expires_at: float
    ends_at: float


class SessionStore:
    """Creates, reads, lists and revokes sessions; each call is one round trip.

    Args:
        client: The ValkeyClient that keeps them.
        idle_seconds: A session that is not read for that long ends.
        absolute_seconds: A session ends after that long in any case.
        namespace: Stands before the keys, after the client's own prefix.

    Raises:
        ValkeyConfigurationError: A number is no whole number from 1 up, or the namespace is
            empty.
    """

    def __init__(
        self,
        client: ClientWithKeys,
        *,
        idle_seconds: int = 1800,
        absolute_seconds: int = 43_200,
        namespace: str = "session",
    ) -> None:
        self._run = client._run  # noqa: SLF001 - this is a part of the client
        self._prefix = checked_key(client.key_prefix, namespace, "namespace")
        self._idle = checked_expiry(self._prefix, idle_seconds) * 1000
        self._absolute = checked_expiry(self._prefix, absolute_seconds) * 1000

    def create(self, user_id: str, data: Any = None) -> str:
        """Begin a session.

        Args:
            user_id: Whose it is.
            data: Anything that JSON can say.

        Returns:
            The token: 65 URL-safe characters. It is shown only here, and is a secret.

        Raises:
            ValkeyError: The call failed.
        """
        tag = self._tag(user_id)
        secret = secrets.token_urlsafe(_TOKEN_BYTES)
        key = self._key(tag)
        text = to_json(key, [user_id, data])
        arguments = (_digest(secret), self._idle, self._absolute, text)
        self._run(script_command(_CREATE, (key,), arguments, int))
        return tag + secret

    def read(self, token: str) -> Session | None:
        """Read a session, and let it live *idle_seconds* more.

        Args:
            token: What ``create`` returned.

        Returns:
            The session; None when it has ended, was revoked, or never was.

        Raises:
            ValkeyError: The call failed. A failure is never None.
        """
        parts = _split(token)
        if parts is None:
            return None
        key = self._key(parts[0])
        arguments = (_digest(parts[1]), self._idle)
        row = self._run(script_command(_READ, (key,), arguments, same))
        return None if row is None else _session(key, row)

    def revoke(self, session: str | Session) -> bool:
        """End one session now.

        Args:
            session: Its token, or what ``read`` or ``list`` returned.

        Returns:
            Whether it was there.

        Raises:
            ValkeyError: The call failed.
        """
        if isinstance(session, Session):
            tag, name = self._tag(session.user_id), session.id
        else:
            parts = _split(session)
            if parts is None:
                return False
            tag, name = parts[0], _digest(parts[1])
        return self._run(script_command(_REVOKE, (self._key(tag),), (name,), bool))

    def revoke_all(self, user_id: str) -> int:
        """End all sessions of a user now.

        Args:
            user_id: Whose.

        Returns:
            How many there were.

        Raises:
            ValkeyError: The call failed.
        """
        key = self._key(self._tag(user_id))
        return self._run(script_command(_REVOKE_ALL, (key,), (), int))

    def list(self, user_id: str) -> list[Session]:
        """List the live sessions of a user, without renewing them.

        Args:
            user_id: Whose.

        Returns:
            The sessions, the oldest first; without their tokens, which nobody knows any more.

        Raises:
            ValkeyError: The call failed.
        """
        key = self._key(self._tag(user_id))
        rows = self._run(script_command(_LIST, (key,), (), same))
        return sorted((_session(key, row) for row in rows), key=lambda one: one.created_at)

    def _tag(self, user_id: str) -> str:
        digest = hashlib.sha256(checked_key("", user_id, "user id").encode()).digest()
        return base64.urlsafe_b64encode(digest[:_TAG_BYTES]).decode().rstrip("=")

    def _key(self, tag: str) -> str:
        return f"{self._prefix}:{tag}"


def _split(token: object) -> tuple[str, str] | None:
    if not isinstance(token, str):
        raise ValkeyConfigurationError(
            f"a session token is {type(token).__name__}: it must be a str"
        )
    if not _TOKEN.fullmatch(token):
        return None
    return token[:_TAG_LENGTH], token[_TAG_LENGTH:]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _session(key: str, row: list[str]) -> Session:
    name, created, expires, ends, text = row
    try:
        user_id, data = from_json(key, text)
    except (TypeError, ValueError):
        raise ValkeyError(f"the sessions in key {key!r} are not of this store") from None
    return Session(name, user_id, data, int(created) / 1000, int(expires) / 1000, int(ends) / 1000)
