"""The numbers that the clients are told: seconds and counts, checked and refused alike."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import ClientError

__all__ = [
    "LARGEST",
    "checked_count",
    "checked_seconds",
    "is_readable",
    "needs_password",
    "shown",
]

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
    except ValueError:
        # Python refuses to print whole numbers of thousands of digits.
        return "a huge number"


def is_readable(path: str) -> bool:
    """Return whether *path* is a file that this process may read."""
    try:
        if not Path(path).is_file():  # to open a pipe would wait for its writer
            return False
        Path(path).open("rb").close()
    except OSError:
        return False
    return True


def needs_password(path: str) -> bool:
    """Return whether a key in the file has a password.

    The TLS library would ask for it at the terminal, and wait.
    """
    return b"ENCRYPTED" in Path(path).read_bytes()
