"""Getters for secrets of a known shape: database, Valkey, e-mail, API keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ..errors import VaultError
from .paths import join_path

__all__ = ["DATABASE", "VALKEY", "SecretFields", "TypedGetters"]

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


#: Where the URLs are by default.
DATABASE = "crm/database"
VALKEY = "crm/valkey"


class TypedGetters(ABC):
    """What a Vault client offers on top of ``get_secret``."""

    @abstractmethod
    def get_secret(
        self,
        path: str,
        version: int | None = None,
        use_cache: bool = True,  # noqa: FBT001, FBT002
    ) -> dict[str, Any]:
        """Return the fields of a secret."""

    def get_database_url(self, *, path: str = DATABASE, use_cache: bool = True) -> str:
        """Return the field ``url`` of the secret at *path*.

        Args:
            path: Where the secret is.
            use_cache: False reads fresh, and refreshes the cache.

        Raises:
            VaultError: There is no such secret or field.
        """
        return self._fields(path, use_cache=use_cache).text("url")

    def get_database_admin_url(self, *, path: str = DATABASE, use_cache: bool = True) -> str | None:
        """Return the field ``admin_url`` of the secret at *path*, None where it has none.

        Args:
            path: Where the secret is.
            use_cache: False reads fresh, and refreshes the cache.

        Raises:
            VaultError: There is no such secret.
        """
        return self._fields(path, use_cache=use_cache).optional_text("admin_url")

    def get_valkey_url(self, *, path: str = VALKEY, use_cache: bool = True) -> str:
        """Return the field ``url`` of the secret at *path*.

        Args:
            path: Where the secret is.
            use_cache: False reads fresh, and refreshes the cache.

        Raises:
            VaultError: There is no such secret or field.
        """
        return self._fields(path, use_cache=use_cache).text("url")

    def get_email_credentials(
        self, *, path: str = "crm/email", use_cache: bool = True
    ) -> dict[str, str]:
        """Return the fields ``api_key`` and ``from_address`` of the secret at *path*.

        Args:
            path: Where the secret is.
            use_cache: False reads fresh, and refreshes the cache.

        Raises:
            VaultError: There is no such secret or field.
        """
        fields = self._fields(path, use_cache=use_cache)
        return {name: fields.text(name) for name in ("api_key", "from_address")}

    def get_database_credentials(
        self, path: str = "bike-data-flow/production/database", *, use_cache: bool = True
    ) -> dict[str, str]:
        """Return ``username``, ``password``, ``host``, ``port`` and ``database``.

        The port is ``"5432"`` where the secret has none.

        Args:
            path: Where the secret is.
            use_cache: False reads fresh, and refreshes the cache.

        Raises:
            VaultError: There is no such secret or field.
        """
        fields = self._fields(path, use_cache=use_cache)
        return {
            "username": fields.text("username"),
            "password": fields.text("password"),
            "host": fields.text("host"),
            "port": fields.port("port", default="5432"),
            "database": fields.text("database"),
        }

    def get_api_key(
        self,
        provider: str,
        prefix: str = "bike-data-flow/production/api-keys",
        *,
        use_cache: bool = True,
    ) -> str:
        """Return the field ``api_key`` of the secret *provider* below *prefix*.

        Args:
            provider: The secret's name, such as ``openweather``.
            prefix: The folder that it is in.
            use_cache: False reads fresh, and refreshes the cache.

        Raises:
            VaultError: There is no such secret or field.
        """
        path = join_path(prefix, provider)
        return self._fields(path, use_cache=use_cache).text("api_key")

    def _fields(self, path: str, *, use_cache: bool) -> SecretFields:
        return SecretFields(self.get_secret(path, use_cache=use_cache), path)
