"""Each command once, for the client and for the pipeline: words, keys and the reply's meaning.

A script is one atomic step on the server.
Sources: https://valkey.io/topics/eval-intro/ and https://valkey.io/commands/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ..errors import ValkeyConfigurationError
from .arguments import (
    checked_amount,
    checked_expiry,
    checked_key,
    checked_keys,
    checked_text,
)
from .reply_shapes import counter, flag, identity, integer, nothing, stored, text_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .json_codec import JsonCodec

__all__ = ["INCREMENT", "SET_MANY", "Command", "CommandSet", "Script", "script_command"]

T = TypeVar("T")

_KEYS_SHOWN = 3
#: For ``Command``'s parameter *writes*.
_READS: Final = False


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


class Command(Generic[T]):
    """One request.

    No dataclass and no named tuple: each call makes one, and those take two to five times as long.

    Args:
        words: What is sent, numbers as text: see ``pack``.
        keys: The keys that it touches; they decide which server gets it.
        shape: Takes the reply, and refuses one that the command does not have.
        convert: Turns what *shape* returns into what the caller gets.
        writes: Whether it can change anything.
        script: The script that *words* are the keys and arguments of.
        is_divisible: Whether the caller can do the same key by key, where a server of a cluster
            cannot do it in one step because the keys are being moved.
    """

    __slots__ = ("convert", "is_divisible", "keys", "script", "shape", "words", "writes")

    def __init__(  # noqa: PLR0917 - keywords cost a class call twice its time
        self,
        words: tuple[str, ...],
        keys: tuple[str, ...],
        shape: Callable[[Any], Any],
        convert: Callable[[Any], T] = identity,
        writes: bool = True,  # noqa: FBT001, FBT002 - likewise
        script: Script | None = None,
        is_divisible: bool = False,  # noqa: FBT001, FBT002 - likewise
    ) -> None:
        self.words = words
        self.keys = keys
        self.shape = shape
        self.convert = convert
        self.writes = writes
        self.script = script
        self.is_divisible = is_divisible

    @property
    def name(self) -> str:
        """The command as the server knows it."""
        return self.words[0] if self.script is None else "EVALSHA"

    @property
    def telemetry(self) -> dict[str, str] | None:
        """What a span says of the command beside its name; never a key."""
        return None if self.script is None else {"db.stored_procedure.name": self.script.sha}

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
    shape: Callable[[Any], Any],
    convert: Callable[[Any], T] = identity,
    *,
    is_divisible: bool = False,
) -> Command[T]:
    """Return the command that runs *script*."""
    words = (str(len(keys)), *keys, *map(str, arguments))
    return Command(words, keys, shape, convert, script=script, is_divisible=is_divisible)


class CommandSet:
    """Builds checked commands on prefixed keys.

    Args:
        prefix: Stands before every key.
        codec: Turns values into JSON texts and back.
    """

    def __init__(self, prefix: str, codec: JsonCodec) -> None:
        self.prefix = prefix
        self.codec = codec

    def get(self, key: str, expire_seconds: int | None = None) -> Command[str | None]:
        name = checked_key(self.prefix, key)
        if expire_seconds is None:
            return Command(("GET", name), (name,), text_or_none, identity, _READS)
        seconds = checked_expiry(name, expire_seconds)
        return Command(("GETEX", name, "EX", str(seconds)), (name,), text_or_none)

    def get_json(self, key: str, expire_seconds: int | None = None) -> Command[Any]:
        command: Command[Any] = self.get(key, expire_seconds)
        command.convert = partial(self._loaded, command.keys[0])
        return command

    def set(
        self,
        key: str,
        value: str,
        expire_seconds: int | None = None,
        *,
        only_if_absent: bool = False,
    ) -> Command[bool]:
        name = checked_key(self.prefix, key)
        words: tuple[str, ...] = ("SET", name, checked_text(name, value))
        if expire_seconds is not None:
            words += ("EX", str(checked_expiry(name, expire_seconds)))
        if only_if_absent:
            words += ("NX",)
        return Command(words, (name,), stored)

    def set_json(
        self,
        key: str,
        value: Any,
        expire_seconds: int | None = None,
        *,
        only_if_absent: bool = False,
    ) -> Command[bool]:
        text = self.codec.dump(checked_key(self.prefix, key), value)
        return self.set(key, text, expire_seconds, only_if_absent=only_if_absent)

    def delete(self, key: str) -> Command[bool]:
        return self._simple(flag, "DEL", key)

    def exists(self, key: str) -> Command[bool]:
        return self._simple(flag, "EXISTS", key, writes=False)

    def ttl(self, key: str) -> Command[int]:
        return self._simple(integer, "TTL", key, writes=False)

    def expire(self, key: str, seconds: int) -> Command[bool]:
        name = checked_key(self.prefix, key)
        return Command(("EXPIRE", name, str(checked_expiry(name, seconds))), (name,), flag)

    def incr(self, key: str, amount: int = 1, expire_seconds: int | None = None) -> Command[int]:
        name = checked_key(self.prefix, key)
        amount = checked_amount(name, amount)
        if expire_seconds is None:
            return Command(("INCRBY", name, str(amount)), (name,), integer)
        seconds = checked_expiry(name, expire_seconds)
        return script_command(INCREMENT, (name,), (amount, seconds), counter)

    def names(self, keys: Iterable[str]) -> tuple[str, ...]:
        return tuple(checked_keys(self.prefix, keys))

    def set_many(
        self, values: Mapping[str, str], expire_seconds: int | None = None
    ) -> Command[None]:
        if not isinstance(values, Mapping):
            raise ValkeyConfigurationError(
                f"values is {type(values).__name__}: it must be a dict of keys and texts"
            )
        names = tuple(checked_keys(self.prefix, values))
        texts = [checked_text(n, v) for n, v in zip(names, values.values(), strict=True)]
        if expire_seconds is None:
            words = [word for pair in zip(names, texts, strict=True) for word in pair]
            return Command(("MSET", *words), names, nothing)
        seconds = checked_expiry(", ".join(names), expire_seconds)
        return script_command(SET_MANY, names, (seconds, *texts), integer, lambda _: None)

    def delete_many(self, keys: Iterable[str]) -> Command[int]:
        names = self.names(keys)
        return Command(("DEL", *names), names, integer)

    def _simple(
        self, shape: Callable[[Any], T], word: str, key: str, *, writes: bool = True
    ) -> Command[T]:
        name = checked_key(self.prefix, key)
        return Command((word, name), (name,), shape, writes=writes)

    def _loaded(self, name: str, text: str | None) -> Any:
        return None if text is None else self.codec.load(name, text)
