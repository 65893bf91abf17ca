"""Typed access to the fields of a secret; a message names path and field, never a value."""

from __future__ import annotations

from typing import Any

from ..errors import VaultError

__all__ = ["SecretFields"]

_LAST_PORT = 65535


class SecretFields:
    """A secret that a failing frame can hold as a local variable without showing it.

    Args:
        secret: The fields.
        path: Where they come from, for messages.
    """

    __slots__ = ("_path", "_secret")

    def __init__(self, secret: dict[str, Any], path: str) -> None:
        self._secret = secret
        self._path = path

    def text(self, name: str) -> str:
        """Return a field that must be there.

        Raises:
            VaultError: It is missing, empty or no text.
        """
        if self._secret.get(name) is None:
            raise self._error(name, "is missing")
        return str(self.optional_text(name))

    def optional_text(self, name: str) -> str | None:
        """Return a field, or None where the secret has none.

        Raises:
            VaultError: It is empty or no text.
        """
        if self._secret.get(name) is None:
            return None
        if not isinstance(self._secret[name], str):
            raise self._error(name, f"is a {type(self._secret[name]).__name__} and no text")
        if not self._secret[name].strip():
            raise self._error(name, "is empty")
        return str(self._secret[name])

    def port(self, name: str, *, default: str) -> str:
        """Return a port, which people store as a number or as text.

        Raises:
            VaultError: It is no port.
        """
        if self._secret.get(name) is None:
            return default
        if not _is_port(self._secret[name]):
            raise self._error(name, "is no port")
        return str(self._secret[name]).strip()

    def _error(self, name: str, problem: str) -> VaultError:
        return VaultError(
            f"the secret {self._path!r} is unusable: its field {name!r} {problem}; write it with "
            "`vault kv patch`",
            reason="field",
        )


def _is_port(value: object) -> bool:
    text = str(value).strip()
    is_number = text.isascii() and text.isdigit() and not isinstance(value, bool)
    return is_number and len(text) <= len(str(_LAST_PORT)) and 0 < int(text) <= _LAST_PORT
