"""Each command once, for the client and for the pipeline: words, keys and the reply's meaning.

A script is one atomic step on the server.
Sources: https://valkey.io/topics/eval-intro/ and https://valkey.io/commands/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from ..errors import ValkeyConfigurationError
from .arguments import (
    checked_amount,
    checked_expiry,
    checked_key,
    checked_keys,
    checked_text,
    from_json,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


__all__ = [
    "GET_MANY",
    "INCREMENT",
    "SET_MANY",
    "Command",
    "CommandSet",
    "Script",
    "same",
    "script_command",
]

T = TypeVar("T")

_KEYS_SHOWN = 3


def same(reply: Any) -> Any:
    """Return the reply as it is."""
    return reply


class Script:
    """A Lua script.

    Args:
        name: What messages call it.
        text: The script.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.strip()
        # The protocol's own name for a script, and no matter of security.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


#: KEYS: the counter. ARGV: amount, expiry in seconds. A script and not MULTI, because a failed
#: INCRBY must not put an expiry on somebody else's value.
INCREMENT: Final = Script(
    "INCR with expiry",
    """
local value = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2], 'NX')
if math.abs(value) > 9007199254740991 then
  -- Beyond 2^53 Lua's number is not exact, and the stored text is.
  return redis.call('GET', KEYS[1])
end
return value
""",
)

#: KEYS: the keys. A script and not MGET, which passes a key of another type off as absent.
GET_MANY: Final = Script(
    "MGET",
    """
local values = {}
for number, key in ipairs(KEYS) do
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return redis.error_reply(value.err .. ", in '" .. key .. "'")
  end
  values[number] = value
end
return values
""",
)

#: KEYS: the keys. ARGV: expiry in seconds, then the values.
SET_MANY: Final = Script(
    "MSET with expiry",
    """
for number, key in ipairs(KEYS) do
  redis.call('SET', key, ARGV[number + 1], 'EX', ARGV[1])
end
return #KEYS
""",
)


class Command(NamedTuple, Generic[T]):
    """One request.

    Args:
        words: What is sent, numbers as text: see ``pack``.
        keys: The keys that it touches; they decide which server gets it.
        parse: Turns the reply into what the caller gets.
        writes: Whether it can change anything.
        script: The script that *words* are the keys and arguments of.
    """

    words: tuple[str, ...]
    keys: tuple[str, ...]
    parse: Callable[[Any], T]
    writes: bool = True
    script: Script | None = None

    @property
    def label(self) -> str:
        """The command and its keys for messages, without values."""
        name = self.script.name if self.script else self.words[0]
        if not self.keys:
            return name
        shown = ", ".join(repr(key) for key in self.keys[:_KEYS_SHOWN])
        more = len(self.keys) - _KEYS_SHOWN
        return f"{name} {shown}" + (f" and {more} more keys" if more > 0 else "")

    @property
    def full_words(self) -> tuple[str, ...]:
        """What to send to a server that may not know the script yet."""
        if self.script is None:
            return self.words
        return ("EVAL", self.script.text, *self.words)

    @property
    def short_words(self) -> tuple[str, ...]:
        """What to send to a server that knows the script."""
        if self.script is None:
            return self.words
        return ("EVALSHA", self.script.sha, *self.words)


def script_command(
    script: Script,
    keys: tuple[str, ...],
    arguments: Iterable[str | int],
    parse: Callable[[Any], T],
    *,
    writes: bool = True,
) -> Command[T]:
    """Return the command that runs *script*."""
    words = (str(len(keys)), *keys, *map(str, arguments))
    return Command(words, keys, parse, writes, script)


class CommandSet:
    """Builds checked commands on prefixed keys.

    Args:
        prefix: Stands before every key.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def get(self, key: str, expire_seconds: int | None) -> Command[str | None]:
        name = checked_key(self.prefix, key)
        if expire_seconds is None:
            return Command(("GET", name), (name,), same, writes=False)
        seconds = checked_expiry(name, expire_seconds)
        return Command(("GETEX", name, "EX", str(seconds)), (name,), same)

    def get_json(self, key: str, expire_seconds: int | None) -> Command[Any]:
        command = self.get(key, expire_seconds)
        name = command.keys[0]
        return command._replace(parse=lambda text: None if text is None else from_json(name, text))

    def set(
        self, key: str, value: str, expire_seconds: int | None, *, only_if_absent: bool
    ) -> Command[bool]:
        name = checked_key(self.prefix, key)
        words: tuple[str, ...] = ("SET", name, checked_text(name, value))
        if expire_seconds is not None:
            words += ("EX", str(checked_expiry(name, expire_seconds)))
        if only_if_absent:
            words += ("NX",)
        return Command(words, (name,), bool)

    def set_json(
        self, key: str, value: Any, expire_seconds: int | None, *, only_if_absent: bool
    ) -> Command[bool]:
        text = to_json(checked_key(self.prefix, key), value)
        return self.set(key, text, expire_seconds, only_if_absent=only_if_absent)

    def delete(self, key: str) -> Command[bool]:
        return self._simple(bool, "DEL", key)

    def exists(self, key: str) -> Command[bool]:
        return self._simple(bool, "EXISTS", key, writes=False)

    def ttl(self, key: str) -> Command[int]:
        return self._simple(int, "TTL", key, writes=False)

    def expire(self, key: str, seconds: int) -> Command[bool]:
        name = checked_key(self.prefix, key)
        return Command(("EXPIRE", name, str(checked_expiry(name, seconds))), (name,), bool)

    def incr(self, key: str, amount: int, expire_seconds: int | None) -> Command[int]:
        name = checked_key(self.prefix, key)
        amount = checked_amount(name, amount)
        if expire_seconds is None:
            return Command(("INCRBY", name, str(amount)), (name,), int)
        seconds = checked_expiry(name, expire_seconds)
        return script_command(INCREMENT, (name,), (amount, seconds), int)

    def get_many(self, keys: Iterable[str]) -> Command[dict[str, str | None]]:
        names = tuple(checked_keys(self.prefix, keys))
        asked = [name.removeprefix(self.prefix) for name in names]
        parse = lambda reply: dict(zip(asked, reply, strict=True))  # noqa: E731 - as get_json has it
        return script_command(GET_MANY, names, (), parse, writes=False)

    def set_many(self, values: Mapping[str, str], expire_seconds: int | None) -> Command[None]:
        if not isinstance(values, Mapping):
            raise ValkeyConfigurationError(
                f"values is {type(values).__name__}: it must be a dict of keys and texts"
            )
        names = tuple(checked_keys(self.prefix, values))
        texts = [checked_text(n, v) for n, v in zip(names, values.values(), strict=True)]
        if expire_seconds is None:
            words = [word for pair in zip(names, texts, strict=True) for word in pair]
            return Command(("MSET", *words), names, _nothing)
        seconds = checked_expiry(", ".join(names), expire_seconds)
        return script_command(SET_MANY, names, (seconds, *texts), _nothing)

    def delete_many(self, keys: Iterable[str]) -> Command[int]:
        names = tuple(checked_keys(self.prefix, keys))
        return Command(("DEL", *names), names, int)

    def _simple(
        self, parse: Callable[[Any], T], word: str, key: str, *, writes: bool = True
    ) -> Command[T]:
        name = checked_key(self.prefix, key)
        return Command((word, name), (name,), parse, writes)


def _nothing(_reply: Any) -> None:
    return None
