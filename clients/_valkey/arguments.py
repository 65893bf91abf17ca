"""Refuse unusable arguments before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._shared.validation import checked_callable, is_encodable, shown
from ..errors import ValkeyConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "checked_amount",
    "checked_expiry",
    "checked_key",
    "checked_keys",
    "checked_prefix",
    "checked_producer",
    "checked_text",
    "encodable",
]

# The server counts expiry in milliseconds from 1970 in 63 bits; a thousand centuries will do.
_LONGEST_EXPIRY = 3_153_600_000_000
_SMALLEST_AMOUNT, _LARGEST_AMOUNT = -(2**63), 2**63 - 1


def checked_key(prefix: str, key: object, what: str = "key") -> str:
    """Return *prefix* + *key*; messages call it *what*.

    Raises:
        ValkeyConfigurationError: The key is empty, no str, or no text that UTF-8 can hold.
    """
    if not isinstance(key, str):
        raise ValkeyConfigurationError(f"a {what} is {type(key).__name__}: it must be a str")
    if not key:
        raise ValkeyConfigurationError(
            f"a {what} is empty: name what it stands for, as in 'user:42'"
        )
    return prefix + (key if key.isascii() else encodable(key, f"the {what} {key!r}"))


def checked_keys(prefix: str, keys: Iterable[object]) -> list[str]:
    """Return the prefixed keys.

    Raises:
        ValkeyConfigurationError: One is unusable, or a single str stands for the list.
    """
    if isinstance(keys, str | bytes):
        raise ValkeyConfigurationError("keys is a single text: it must be a list of keys")
    try:
        return [checked_key(prefix, key) for key in keys]
    except TypeError:
        raise ValkeyConfigurationError(
            f"keys is {type(keys).__name__}: it must be a list of keys"
        ) from None  # the TypeError says nothing more


def checked_prefix(prefix: object) -> str:
    """Return *prefix*.

    Raises:
        ValkeyConfigurationError: It is no str, or no text that UTF-8 can hold.
    """
    if not isinstance(prefix, str):
        raise ValkeyConfigurationError(f"key_prefix is {type(prefix).__name__}: it must be a str")
    return encodable(prefix, "key_prefix")


def checked_text(key: str, value: object) -> str:
    """Return *value*.

    Raises:
        ValkeyConfigurationError: It is no str, or no text that UTF-8 can hold.
    """
    if not isinstance(value, str):
        raise ValkeyConfigurationError(
            f"the value for key {key!r} is {type(value).__name__}: it must be a str; set_json() "
            "stores other types"
        )
    text = str.__str__(value)  # that of a subclass, such as an Enum, may print as another
    return text if text.isascii() else encodable(text, f"the value for key {key!r}")


def checked_expiry(key: str, seconds: object) -> int:
    """Return *seconds*.

    Raises:
        ValkeyConfigurationError: It is no int, or less than 1, or absurdly large.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise ValkeyConfigurationError(
            f"the expiry of key {key!r} is {type(seconds).__name__}: it must be a whole number "
            "of seconds, at least 1, or None for no expiry"
        )
    if not 1 <= seconds <= _LONGEST_EXPIRY:
        raise ValkeyConfigurationError(
            f"the expiry of key {key!r} is {shown(seconds)} seconds: it must be from 1 to "
            f"{_LONGEST_EXPIRY}; delete() removes a key"
        )
    return int(seconds)


def checked_amount(key: str, amount: object) -> int:
    """Return *amount*.

    Raises:
        ValkeyConfigurationError: It is no int, or does not fit into 64 bits.
    """
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise ValkeyConfigurationError(
            f"the amount for key {key!r} is {type(amount).__name__}: it must be an int"
        )
    if not _SMALLEST_AMOUNT <= amount <= _LARGEST_AMOUNT:
        raise ValkeyConfigurationError(f"the amount for key {key!r} does not fit into 64 bits")
    return int(amount)


def checked_producer(key: str, produce: Callable[[], Any]) -> Callable[[], Any]:
    """Return *produce*.

    Raises:
        ValkeyConfigurationError: It cannot be called.
    """
    return checked_callable(
        f"the producer of key {key!r}",
        produce,
        ValkeyConfigurationError,
        that="returns the value",
    )


def encodable(text: str, what: str) -> str:
    """Return *text*.

    Raises:
        ValkeyConfigurationError: UTF-8 cannot hold it.
    """
    if not is_encodable(text):
        raise ValkeyConfigurationError(f"{what} holds a lone surrogate, which UTF-8 cannot hold")
    return text
