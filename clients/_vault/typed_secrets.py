"""Getters for secrets of a known shape: database, Valkey, e-mail, API keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from .connection_urls import postgres_url, valkey_url
from .fields import SecretFields
from .paths import join_path, split_mount

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
        *,
        mount_point: str | None = None,
    ) -> dict[str, Any]:
        """Return the fields of a secret."""

    def get_database_url(
        self, *, path: str = DATABASE, use_cache: bool = True, login_required: bool = True
    ) -> str:
        """Return PostgreSQL's URL: the field ``url``, or what the secret's parts say.

        The parts are ``host``, ``port``, ``username`` (or ``user``), ``password``, ``database``
        (or ``dbname``, ``db``), and libpq's own parameters, such as ``sslmode``; ``host`` may be
        the folder of a socket. Each is escaped where it has to be. A secret with both has to say
        the same twice.

        Args:
            path: Where the secret is; ``mount:path`` for another mount than the client's.
            use_cache: False reads fresh, and refreshes the cache.
            login_required: False also takes a secret without user and password, for a login that
                comes from elsewhere.

        Returns:
            The URL.

        Raises:
            VaultError: There is no such secret or field, or two fields contradict each other.
        """
        fields = self._fields(path, use_cache=use_cache)
        return postgres_url(fields, login_required=login_required)

    def get_database_admin_url(self, *, path: str = DATABASE, use_cache: bool = True) -> str | None:
        """Return the field ``admin_url`` of the secret at *path*, None where it has none.

        Args:
            path: Where the secret is; ``mount:path`` for another mount than the client's.
            use_cache: False reads fresh, and refreshes the cache.

        Raises:
            VaultError: There is no such secret.
        """
        url = self._fields(path, use_cache=use_cache).url("admin_url")
        return None if url is None else url.reveal()

    def get_valkey_url(self, *, path: str = VALKEY, use_cache: bool = True) -> str:
        """Return Valkey's URL: the field ``url``, or what the secret's parts say.

        The parts are ``host``, ``port``, ``username`` (or ``user``), ``password``, ``database``
        (or ``db``), ``tls`` (or ``ssl``) and the ``ssl_*`` options of a URL; ``host`` may be the
        path of a socket. Each is escaped where it has to be. A secret with both has to say the
        same twice.

        Args:
            path: Where the secret is; ``mount:path`` for another mount than the client's.
            use_cache: False reads fresh, and refreshes the cache.

        Returns:
            The URL.

        Raises:
            VaultError: There is no such secret or field, or two fields contradict each other.
        """
        return valkey_url(self._fields(path, use_cache=use_cache))

    def get_email_credentials(
        self, *, path: str = "crm/email", use_cache: bool = True
    ) -> dict[str, str]:
        """Return the fields ``api_key`` and ``from_address`` of the secret at *path*.

        Args:
            path: Where the secret is; ``mount:path`` for another mount than the client's.
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
        if "url" in fields.names() and "username" not in fields.names():
            raise fields.error("username", "is missing: its 'url' is for get_database_url()")
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
        return SecretFields(self.get_secret(path, use_cache=use_cache), path).text("api_key")

    def _fields(self, path: str, *, use_cache: bool) -> SecretFields:
        mount, inside = split_mount(path)
        return SecretFields(self.get_secret(inside, use_cache=use_cache, mount_point=mount), path)
