"""Checks of settings: numbers, choices, switches, callables, files; refused alike."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..errors import ClientError

__all__ = [
    "LARGEST",
    "boolean_in",
    "checked_callable",
    "checked_choice",
    "checked_count",
    "checked_file",
    "checked_flag",
    "checked_seconds",
    "is_encodable",
    "merged_settings",
    "shown",
]

_ValueT = TypeVar("_ValueT")

# Sockets, locks and poll() take no time-out of more than some weeks, and fail only when they wait.
_A_DAY = 86_400.0
#: Beyond this, whole numbers are not exact everywhere on their way.
LARGEST = 2**53


def checked_seconds(
    name: str,
    value: object,
    refusal: Callable[[str], ClientError],
    *,
    allow_zero: bool = False,
    maximum: float = _A_DAY,
) -> float:
    """Return *value*, a duration.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        refusal: Makes the error.
        allow_zero: Whether 0 is a duration here.
        maximum: The longest one, in seconds.

    Raises:
        ClientError: It is no number, or out of bounds; infinity and NaN are.
    """
    number = _number(value, int | float)
    # Compared before the conversion, which fails for a huge whole number.
    if number is not None and (0 < number <= maximum or (allow_zero and number == 0)):
        return float(number)
    raise refusal(
        f"{name} is {shown(value)}: it must be a number of seconds, "
        f"{'at least' if allow_zero else 'above'} 0 and at most {maximum:g}"
    )


def checked_count(
    name: str,
    value: object,
    refusal: Callable[[str], ClientError],
    *,
    minimum: int,
    maximum: int = LARGEST,
) -> int:
    """Return *value*, a whole number.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        refusal: Makes the error.
        minimum: The smallest one that will do.
        maximum: The largest one.

    Raises:
        ClientError: It is no whole number, or out of bounds.
    """
    number = _number(value, int)
    if number is not None and minimum <= number <= maximum:
        return int(number)
    raise refusal(
        f"{name} is {shown(value)}: it must be a whole number of at least {minimum} and at most "
        f"{maximum}"
    )


def _number(value: object, kind: Any) -> Any:
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def shown(value: object) -> str:
    """Return *value* for a message, cut where it is long."""
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - the value is anybody's
        # Python refuses to print whole numbers of thousands of digits.
        return "a huge number" if isinstance(value, int) else f"a {type(value).__name__}"


def is_encodable(text: str) -> bool:
    """Return whether UTF-8 can hold *text*: a lone surrogate is no character."""
    # The codec's error has the whole text: the refusal is not to be raised while it is handled.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


def boolean_in(text: str) -> bool | None:
    """Return what a word says, in the spellings of environments and secrets; None: neither."""
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


def checked_flag(
    name: str, value: object, refusal: Callable[[str], ClientError], *, optional: bool = False
) -> bool | None:
    """Return *value*, a boolean, and no number that stands for one.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        refusal: Makes the error.
        optional: Whether None is a value.

    Raises:
        ClientError: It is something else.
    """
    if isinstance(value, bool) or (optional and value is None):
        return value
    raise refusal(
        f"{name} is {type(value).__name__}: it must be "
        f"{'True, False or None' if optional else 'True or False'}"
    )


def checked_choice(
    name: str, value: object, choices: Iterable[str], refusal: Callable[[str], ClientError]
) -> str:
    """Return *value*, one of several words.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        choices: The words.
        refusal: Makes the error.

    Raises:
        ClientError: It is none of them.
    """
    words = tuple(choices)
    if isinstance(value, str) and value in words:
        return value
    raise refusal(f"{name} is {shown(value)}: it must be one of {', '.join(map(repr, words))}")


def checked_callable(
    name: str, value: _ValueT, refusal: Callable[[str], ClientError], *, that: str
) -> _ValueT:
    """Return *value*, a callable. A refusal names its type alone: it may hold a secret.

    Args:
        name: The argument's name, for the message.
        value: What was given.
        refusal: Makes the error.
        that: What it has to do, for the message, such as "takes a connection".

    Raises:
        ClientError: It cannot be called.
    """
    if callable(value):
        return value
    raise refusal(f"{name} is {type(value).__name__}: it must be a callable that {that}")


def checked_file(
    name: str,
    path: str,
    refusal: Callable[[str], ClientError],
    *,
    may_need_password: bool = False,
    without: str = "store it without one",
) -> str:
    """Return *path*, a file of certificates or keys.

    Args:
        name: What names it, for the message.
        path: The file.
        refusal: Makes the error.
        may_need_password: Whether a key in it may have a password; else the TLS library would ask
            for it at the terminal, and wait.
        without: What to do about such a key, for the message.

    Raises:
        ClientError: It is missing, unreadable or no file, which the TLS library's own error would
            not tell, or holds a key with a password.
    """
    content = _content_of(path)
    if content is None:
        raise refusal(f"{name} names {path!r}, which is no file that can be read")
    if not may_need_password and b"ENCRYPTED" in content:
        raise refusal(f"{name} names {path!r}, whose key needs a password: {without}")
    return path


def _content_of(path: str) -> bytes | None:
    try:
        # To open a pipe would wait for its writer.
        return Path(path).read_bytes() if Path(path).is_file() else None
    except (OSError, ValueError):
        return None


def merged_settings(
    name: str, known: type, options: Mapping[str, Any] | None, shorthands: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of one client.

    Args:
        name: The argument that has the options, for messages.
        known: The typed dict of all settings.
        options: The settings that were given in one.
        shorthands: Settings that were given by themselves; None where one was not.

    Raises:
        ConfigurationError: A setting is unknown, or given twice with different values.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError(f"{name} is {type(options).__name__}: pass {known.__name__}(...)")
    settings = dict(options or {})
    if unknown := sorted(map(str, settings.keys() - known.__annotations__)):
        raise ConfigurationError(
            f"{name} has no setting {', '.join(map(repr, unknown))}: known are "
            f"{', '.join(known.__annotations__)}"
        )
    for setting, value in shorthands.items():
        known_value = value if value is None else settings.setdefault(setting, value)
        # The same object first: NaN, which the client refuses, does not equal itself.
        if known_value is not value and known_value != value:
            raise ConfigurationError(
                f"{setting} is given twice, also in {name}=, with different values: keep one"
            )
    return settings
