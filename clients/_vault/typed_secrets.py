"""Getters for secrets of a known shape: database, Valkey, e-mail, API keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from .fields import SecretFields
from .paths import join_path

__all__ = ["DATABASE", "VALKEY", "TypedGetters"]

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
