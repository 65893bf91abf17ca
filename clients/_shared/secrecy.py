"""Keep secrets out of text that people read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Masked", "MaskedEnvironment", "redact"]

_MASK = "***"
# Credentials in any URL, also one that a driver built from its parts. Greedy up to the last @
# before white space: an unescaped @ or / in a password must not end the match early.
_URL_CREDENTIALS = re.compile(r"(?<=://)[^\s\"'<>]*@")
_DSN_PASSWORD = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


def redact(text: object, *secrets: str | None) -> str:
    """Return *text* without passwords.

    Args:
        text: A message, or an exception.
        secrets: Values that must not show; each is masked also in its percent-encoded forms.

    Returns:
        The text, with ``***`` for each secret and for the credentials of each URL.
    """
    result = str(text)
    for secret in secrets:
        if secret:
            # The longest form first: a shorter one could be a part of it.
            for form in sorted({secret, quote(secret, safe=""), quote_plus(secret)}, key=len)[::-1]:
                result = result.replace(form, _MASK)
    result = _URL_CREDENTIALS.sub(f"{_MASK}@", result)
    return _DSN_PASSWORD.sub(rf"\g<1>{_MASK}", result)


class Masked:
    """A secret that shows itself only to who asks: not in a repr, a log or a frame's locals."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masked):
            return NotImplemented
        return self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")

    def reveal(self) -> str:
        """Return the secret."""
        return self._value


class MaskedEnvironment(Mapping[str, str]):
    """Variables that do not show in a repr or a frame's locals.

    Args:
        environ: The variables.
    """

    __slots__ = ("_variables",)

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._variables = environ

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __repr__(self) -> str:
        return "***"
