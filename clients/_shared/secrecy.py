"""Keep secrets out of text that people read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")

    def reveal(self) -> str:
        """Return the secret."""
        return self._value


if TYPE_CHECKING:
    _Environment = Mapping[str, str]
else:  # error reporters go through every mapping that a frame holds
    _Environment = object


class MaskedEnvironment(_Environment):
    """Variables that do not show in a frame's locals.

    Args:
        environ: The variables.
    """

    __slots__ = ("_get", "_names")

    def __init__(self, environ: Mapping[str, str]) -> None:
        # A method of the variables would show them in its own repr.
        def get(name: str) -> str | None:
            return environ.get(name)

        self._get = get
        self._names = tuple(environ)

    def __getitem__(self, name: str) -> str:
        value = self._get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a variable, or *default*."""
        value = self._get(name)
        return default if value is None else value

    def __repr__(self) -> str:
        return "***"
