"""Sessions: tokens that are extended by use, end for certain, and can be revoked together.

All sessions of one user are fields of one hash, so that every operation is one atomic step on one
key: a revoked session cannot come back through a renewal that was under way, the list has no
stale members, and the whole works in a cluster. A token is the user's tag, which leads to that
key, followed by 256 random bits. Only the hash of those bits is stored.

Sources: https://cheatsheetseries.owasp.org/cheatsheets/Session_Management_Cheat_Sheet.html (idle
and absolute time-outs, entropy), https://docs.python.org/3/library/secrets.html (256 bits).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from .._shared.secrecy import Masked
from ..errors import ValkeyConfigurationError, ValkeyError
from .arguments import checked_expiry, checked_key
from .commands import Command, Script, script_command
from .errors import UnexpectedReply
from .identity_digest import DIGEST_LENGTH, checked_identity, identity_digest
from .reply_shapes import flag, integer, integers, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .runner import Runner

__all__ = ["Session", "SessionClient", "SessionStore"]

_TOKEN_BYTES = 32
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

# ARGV: field. The session without a renewal.
_LOOK_UP: Final = Script(
    "look up session",
    _COMMON
    + """
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then
  return false
end
local idle, deadline, created, rest = unpack_session(text)
if not idle or idle <= now then
  return false
end
return {ARGV[1], number(created), number(idle), number(deadline), rest}
""",
)

# ARGV: field, the JSON that is to be there, the JSON that takes its place.
# Returns whether the session lives, and whether its JSON was replaced.
_EXCHANGE: Final = Script(
    "update session",
    _COMMON
    + """
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then
  return {0, 0}
end
local idle, deadline, created, rest = unpack_session(text)
if not idle or idle <= now then
  return {0, 0}
end
if rest ~= ARGV[2] then
  return {1, 0}
end
-- The expiry of the key stays, too: HSET does not touch it.
redis.call('HSET', KEYS[1], ARGV[1], string.sub(text, 1, #text - #rest) .. ARGV[3])
return {1, 1}
""",
)

_LIST: Final = Script("list sessions", _COMMON + "return (live_sessions())")
_REVOKE: Final = Script("revoke session", "return redis.call('HDEL', KEYS[1], ARGV[1])")
_REVOKE_ALL: Final = Script(
    "revoke all sessions",
    _COMMON + "local found = live_sessions()\nredis.call('DEL', KEYS[1])\nreturn #found",
)

#: How often an update begins again because another one came first: each time one has succeeded.
_MOST_UPDATES = 1000


class SessionClient(Protocol):
    """The part of a ``ValkeyClient`` that a store needs."""

    @property
    def runner(self) -> Runner:
        """What it sends its commands through."""


@dataclass(frozen=True, slots=True)
class Session:
    """What is known about a live session.

    Args:
        id: A name to show and to revoke it by; it gives no access.
        user_id: Whose it is; "" where its identity has no value of that name.
        data: What ``create`` was given.
        created_at: When it began; this and the next two in seconds since 1970, by the server's
            clock.
        expires_at: When it ends unless it is read before.
        ends_at: When it ends in any case.
        identity: All the values that say whose it is, for ``execute(..., identity=)``.
    """

    id: str
    user_id: str
    data: Any = field(repr=False)
    created_at: float
    expires_at: float
    ends_at: float
    identity: dict[str, Any] = field(default_factory=dict, repr=False)


class SessionStore:
    """Creates, reads, changes, lists and revokes sessions.

    Each call is one round trip, and two for ``update`` and ``replace``. While Valkey cannot be
    used every call raises: no failure reads as an absent session, and nobody is logged out by it.

    Args:
        client: A ``ValkeyClient``, where they are kept.
        idle_seconds: A session that is not read for that long ends.
        absolute_seconds: A session ends after that long in any case.
        namespace: Stands before the keys, after the client's own prefix.

    Raises:
        ValkeyConfigurationError: A number is no whole number from 1 up, or the namespace is
            empty.
    """

    def __init__(
        self,
        client: SessionClient,
        *,
        idle_seconds: int = 1800,
        absolute_seconds: int = 43_200,
        namespace: str = "session",
    ) -> None:
        self._run = client.runner.run
        self._codec = client.runner.commands.codec
        self._prefix = checked_key(client.runner.commands.prefix, namespace, "namespace")
        self._idle = checked_expiry(self._prefix, idle_seconds) * 1000
        self._absolute = checked_expiry(self._prefix, absolute_seconds) * 1000

    def create(
        self,
        user_id: str | None = None,
        data: Any = None,
        *,
        identity: Mapping[str, Any] | None = None,
    ) -> str:
        """Begin a session.

        Args:
            user_id: Whose it is.
            data: Anything that JSON can express.
            identity: Further values that say whose it is, by name, as ``user_context`` takes
                them: ``{"tenant_id": 7}``.

        Returns:
            The token: 65 URL-safe characters. It is shown only here, and is a secret.

        Raises:
            ValkeyError: The call failed.
        """
        named = self._identity(user_id, identity)
        tag = identity_digest(named)
        key = self._key(tag)
        owner = named["user_id"] if list(named) == ["user_id"] else named
        text = self._codec.dump(key, [owner, data])
        # Masked while the request is under way: error reporters collect local variables.
        secret = Masked(secrets.token_urlsafe(_TOKEN_BYTES))
        arguments = (_digest(secret.reveal()), self._idle, self._absolute, text)
        self._run(script_command(_CREATE, (key,), arguments, integer))
        return tag + secret.reveal()

    def read(self, token: str) -> Session | None:
        """Read a session, and let it live *idle_seconds* more.

        Args:
            token: What ``create`` returned.

        Returns:
            The session; None when it has ended, was revoked, or never was.

        Raises:
            ValkeyError: The call failed. A failure is never None.
        """
        place = self._place(token)
        del token  # error reporters collect local variables
        place = _usable(place)
        if place is None:
            return None
        return self._session(_READ, place, self._idle)

    def update(self, session: str | Session, changes: Mapping[str, Any]) -> Session | None:
        """Set some of a session's data, in one atomic step, and leave its expiry as it is.

        Updates of other keys that happen at the same time are kept.

        Args:
            session: Its token, or what ``read`` or ``list`` returned.
            changes: Names and values. The data must be a dict, or None.

        Returns:
            The session with its new data; None when it has ended, was revoked, or never was: an
            update does not bring it back.

        Raises:
            ValkeyConfigurationError: *changes* is no dict of names, or a value is not JSON.
            ValkeyError: The call failed, or the data is no dict; then nothing was changed.
        """
        place = self._place(session)
        del session
        place = _usable(place)
        given: Any = changes
        if not isinstance(given, Mapping) or not all(type(one) is str for one in given):
            raise ValkeyConfigurationError(
                f"changes is {type(changes).__name__}: it must be a dict of names and values"
            )

        def changed(data: Any) -> Any:
            if data is not None and not isinstance(data, dict):
                raise ValkeyError(
                    f"the session's data is {type(data).__name__} and has no names to change: "
                    "use replace()"
                )
            return {**(data or {}), **changes}

        return self._change(place, changed)

    def replace(self, session: str | Session, data: Any) -> Session | None:
        """Replace a session's data, in one atomic step, and leave its expiry as it is.

        Args:
            session: Its token, or what ``read`` or ``list`` returned.
            data: Anything that JSON can express.

        Returns:
            The session with its new data; None when it has ended, was revoked, or never was.

        Raises:
            ValkeyError: The call failed, or the data is not JSON; then nothing was changed.
        """
        place = self._place(session)
        del session
        place = _usable(place)
        return self._change(place, lambda _: data)

    def revoke(self, session: str | Session) -> bool:
        """End one session now.

        Args:
            session: Its token, or what ``read`` or ``list`` returned.

        Returns:
            Whether it was there.

        Raises:
            ValkeyError: The call failed.
        """
        place = self._place(session)
        del session
        place = _usable(place)
        if place is None:
            return False
        return self._run(script_command(_REVOKE, (place.key,), (place.field,), flag))

    def revoke_all(
        self, user_id: str | None = None, *, identity: Mapping[str, Any] | None = None
    ) -> int:
        """End all sessions of a user now.

        Args:
            user_id: Whose.
            identity: The further values that ``create`` was given: those of exactly this
                identity end.

        Returns:
            How many there were.

        Raises:
            ValkeyError: The call failed.
        """
        key = self._key(identity_digest(self._identity(user_id, identity)))
        return self._run(script_command(_REVOKE_ALL, (key,), (), integer))

    def list(
        self, user_id: str | None = None, *, identity: Mapping[str, Any] | None = None
    ) -> list[Session]:
        """List the live sessions of a user, without renewing them.

        Args:
            user_id: Whose.
            identity: The further values that ``create`` was given.

        Returns:
            The sessions, the oldest first; without their tokens, which nobody knows any more.

        Raises:
            ValkeyError: The call failed.
        """
        key = self._key(identity_digest(self._identity(user_id, identity)))
        command: Command[Sequence[Sequence[str]]] = script_command(_LIST, (key,), (), _rows)
        found = (self._made(key, row) for row in self._run(command))
        return sorted(found, key=lambda one: one.created_at)

    def _identity(self, user_id: object, identity: object) -> dict[str, Any]:
        # As it comes back from the server, so that a Session leads to the same key.
        text = self._codec.dump(self._prefix, checked_identity(user_id, identity))
        named: dict[str, Any] = self._codec.load(self._prefix, text)
        return named

    def _change(self, place: _Place | None, change: Callable[[Any], Any]) -> Session | None:
        if place is None:
            return None
        for _ in range(_MOST_UPDATES):
            look_up: Command[list[str] | None] = script_command(
                _LOOK_UP, (place.key,), (place.field,), _row
            )
            row = self._run(look_up)
            if row is None:
                return None
            owner, data = self._loaded(place.key, row[-1])
            text = self._codec.dump(place.key, [owner, change(data)])
            arguments = (place.field, row[-1], text)
            exchange: Command[tuple[bool, bool]] = script_command(
                _EXCHANGE, (place.key,), arguments, _two_flags
            )
            lives, replaced = self._run(exchange)
            if not lives:
                return None
            if replaced:
                return self._made(place.key, [*row[:-1], text])
        raise ValkeyError(
            f"the session in key {place.key!r} was changed by others {_MOST_UPDATES} times "
            "meanwhile: nothing was changed by this call"
        )

    def _session(self, script: Script, place: _Place, *arguments: int) -> Session | None:
        command: Command[Sequence[str] | None] = script_command(
            script, (place.key,), (place.field, *arguments), _row
        )
        row = self._run(command)
        return None if row is None else self._made(place.key, row)

    def _made(self, key: str, row: Sequence[str]) -> Session:
        name, created, expires, ends, text = row
        owner, data = self._loaded(key, text)
        identity = owner if isinstance(owner, dict) else {"user_id": owner}
        return Session(
            name,
            str(identity.get("user_id", "")),
            data,
            int(created) / 1000,
            int(expires) / 1000,
            int(ends) / 1000,
            identity,
        )

    def _loaded(self, key: str, text: str) -> tuple[Any, Any]:
        found = self._codec.load(key, text)
        if (
            not isinstance(found, list)
            or len(found) != len(("owner", "data"))
            or not isinstance(found[0], str | dict)
        ):
            raise ValkeyError(f"the sessions in key {key!r} are not of this store")
        return found[0], found[1]

    def _place(self, session: object) -> _Place | ValkeyConfigurationError | None:
        # Not raised here, where the frames still have what may be a token.
        if isinstance(session, Session):
            return _Place(self._key(identity_digest(session.identity)), session.id)
        if not isinstance(session, str):
            return ValkeyConfigurationError(
                f"a session token is {type(session).__name__}: it must be a str"
            )
        if not _TOKEN.fullmatch(session):
            return None
        return _Place(self._key(session[:DIGEST_LENGTH]), _digest(session[DIGEST_LENGTH:]))

    def _key(self, tag: str) -> str:
        return f"{self._prefix}:{tag}"


class _Place(NamedTuple):
    """Where a session is kept: the key of its user's hash, and its field."""

    key: str
    field: str


def _usable(place: _Place | ValkeyConfigurationError | None) -> _Place | None:
    if isinstance(place, ValkeyConfigurationError):
        raise place
    return place


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _row(reply: Any) -> list[str] | None:
    if reply is None:
        return None
    row = texts(reply, 5)
    if not all(one.isascii() and one.isdigit() for one in row[1:4]):
        raise UnexpectedReply("a session", reply)
    return row


def _rows(reply: Any) -> list[Sequence[str]]:
    if type(reply) is not list:
        raise UnexpectedReply("sessions", reply)
    return [texts(row, 5) for row in reply]


def _two_flags(reply: Any) -> tuple[bool, bool]:
    lives, replaced = integers(reply, 2)
    return lives == 1, replaced == 1
