"""Typed access to the fields of a secret; a message names path and field, never a value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clients.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["optional_text", "port_text", "required_text"]

_LAST_PORT = 65535


def required_text(secret: Mapping[str, Any], field: str, path: str) -> str:
    """Return a field that must be there.

    Raises:
        VaultError: It is missing, empty or no text.
    """
    value = optional_text(secret, field, path)
    if value is None:
        raise _field_error(path, field, "is missing")
    return value


def optional_text(secret: Mapping[str, Any], field: str, path: str) -> str | None:
    """Return a field, or None where the secret has none.

    Raises:
        VaultError: It is empty or no text.
    """
    value = secret.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _field_error(path, field, f"is a {type(value).__name__} and no text")
    if not value.strip():
        raise _field_error(path, field, "is empty")
    return value


def port_text(secret: Mapping[str, Any], field: str, path: str, *, default: str) -> str:
    """Return a port, which people store as a number or as text.

    Raises:
        VaultError: It is no port.
    """
    value = secret.get(field)
    if value is None:
        return default
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
        raise _field_error(path, field, "is no port")
    if not 0 < int(text) <= _LAST_PORT:
        raise _field_error(path, field, "is no port")
    return text


def _field_error(path: str, field: str, problem: str) -> VaultError:
    return VaultError(
        f"the secret {path!r} is unusable: its field {field!r} {problem}; write it with "
        f"`vault kv patch`",
        reason="field",
    )
