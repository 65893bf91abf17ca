"""The clients as Dagster resources, for assets, checks, sensors and schedules.

Every behaviour is the clients' own. What is added: all resource objects of a process share one
client for each configuration; it is made at the first use, never by a hook of Dagster's, and
closed when the process ends. Until then ``close()`` on it, and a ``with`` block's end, do nothing,
because another asset, check or sensor of the process may use it. https://docs.dagster.io/guides/build/external-resources
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any, Self

from .errors import (
    ClientError,
    VaultAuthenticationError,
    VaultConnectionError,
    VaultSecretNotFoundError,
    VaultSecretsError,
)

try:
    import dagster as dg
except ModuleNotFoundError as error:
    if error.name != "dagster":  # Dagster is there, and something that it needs is not
        raise
    raise ModuleNotFoundError(
        "clients.dagster_adapter needs Dagster: pip install 'failfast-clients[dagster]'",
        name="dagster",
    ) from error

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from ._dagster.auth import auth_as_config
from ._dagster.checks import (
    CREDENTIALS,
    check_clients,
    check_login,
    identity_of,
    known_value,
)
from ._dagster.config import (
    VARIABLES,
    VaultSecretsResourceConfig,
    options_of,
    resolve,
    setting,
)
from ._dagster.fake import FakeVaultClient
from ._dagster.registry import existing_client, shared_client
from ._shared.environment import VaultSettings
from ._shared.lifecycle import keep_open
from ._shared.validation import merged_settings
from .factory import Clients, PostgresOptions, ValkeyOptions, build_clients
from .vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .postgres_client import PostgresClient
    from .valkey_client import ValkeyClient
    from .vault_auth import VaultAuth

__all__ = [
    "ClientsResource",
    "FakeVaultSecretsResource",
    "VaultAuthenticationError",
    "VaultConnectionError",
    "VaultSecretNotFoundError",
    "VaultSecretsError",
    "VaultSecretsResource",
    "VaultSecretsResourceConfig",
    "vault_secrets_resource",
]

_log = logging.getLogger("clients.dagster")


class _VaultResource(VaultSecretsResourceConfig, dg.ConfigurableResource[Any]):
    """What the resources share: the settings, and the process's client for them."""

    if TYPE_CHECKING:
        auth: VaultAuth | Mapping[str, str] | None = None
    else:  # what Dagster stores, and what a run gets
        auth: dict[str, str] | None = Field(
            default=None, description="How to log in, by 'method', in place of auth_method"
        )

    @field_validator("auth", mode="before")
    @classmethod
    def _auth_as_config(cls, auth: object) -> object:
        return auth_as_config(auth)

    def _check_settings(self) -> None:
        super()._check_settings()
        check_login(self)

    @classmethod
    def from_env(cls, **settings: Any) -> Self:
        """Make the resource from those ``VAULT_*`` variables that are set.

        The variables' names are stored, never their values. Where one is missing, the code
        location loads all the same, and the first use says which.

        Args:
            settings: Fields to set otherwise, such as ``cache_ttl=60``. Without ``auth_method``
                it is ``VAULT_AUTH_METHOD``; without that ``"approle"`` when there are a role id
                and no token, ``"token_file"`` when there is ``VAULT_TOKEN_FILE`` and no token,
                else ``"token"``. Where a token or role id is among the *settings*, the variables
                play no part in that.

        Returns:
            The resource, which reads the values at its first use.

        Raises:
            ConfigurationError: ``VAULT_SKIP_VERIFY`` is no boolean, or one of the *settings*
                cannot work.
        """
        env = VaultSettings.from_env()
        # Dagster refuses a variable that is unset even for an optional field, so only those that
        # are set; an empty address is an unset one, and keeps the default from being used.
        found: dict[str, Any] = {"vault_addr": ""} | {
            name: dg.EnvVar(variable)
            for name, (variable, setting) in VARIABLES.items()
            if getattr(env, setting)
        }
        if settings.get("auth") is not None:
            found = {name: found[name] for name in ("vault_addr", "namespace") if name in found}
            return cls(**found | settings)
        # As in VaultClient: an ambient token must not override a role id that is spelled out.
        own = settings.get("token") or settings.get("role_id")
        decisive = settings if own else found | settings
        approle = decisive.get("role_id") and not decisive.get("token")
        method = "approle" if approle else "token"
        if env.token is None and env.token_file is not None and not own:
            method = "token_file"
        if env.auth_method is not None and not own:
            method = env.auth_method
        method = settings.get("auth_method", method)
        # What another method needs would contradict this one.
        every = {name for names in CREDENTIALS.values() for name in names}
        unused = every.difference(CREDENTIALS.get(method, every))
        found = {name: one for name, one in found.items() if name not in unused}
        return cls(**found | {"auth_method": method} | settings)

    @classmethod
    def from_config(cls, config: VaultSecretsResourceConfig, **settings: Any) -> Self:
        """Make the resource from a configuration that is there already.

        Args:
            config: The configuration.
            settings: Fields to set otherwise.

        Returns:
            The resource.

        Raises:
            ConfigurationError: A setting cannot work.
        """
        return cls(**config.model_dump() | settings)

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except dg.DagsterInvalidInvocationError as error:  # its cause repeats the value
            raise dg.DagsterInvalidInvocationError(str(error)) from None

    def _shared_vault(self) -> VaultClient:
        resolved = resolve(self)
        return shared_client(resolved, resolved.connect)


#: The public names of a client, but for what only its owner may do.
_OF_CLIENTS = {"addr", *(name for name in dir(VaultClient) if name[0] != "_")} - {"close"}


class VaultSecretsResource(_VaultResource):
    """Secrets from Vault or OpenBao. The first use in a process logs in.

    Every other method of ``VaultClient`` is the client's, too: ``get_database_url``,
    ``secret_age``, ``stats`` and so on, but not ``close``, for the client is shared. An AppRole's
    token is revoked when the process ends, a token that was given never.

    Args:
        auth: How to log in, in place of *auth_method* and the fields for it: an object of
            `clients.vault_auth` that holds no secret itself, such as ``Kubernetes("shop")``, or
            the same as configuration, such as ``{"method": "kubernetes", "role": "shop"}``.
    """

    if not TYPE_CHECKING:  # a type checker finds them at `client`

        def __getattr__(self, name: str) -> Any:
            if name in _OF_CLIENTS:
                return getattr(self.client, name)
            return super().__getattr__(name)

    @property
    def client(self) -> VaultClient:
        """The process's client; ``close()`` on it does nothing, because others share it.

        Raises:
            VaultError: A setting is missing, or Vault cannot be reached or refuses the login.
        """
        return self._shared_vault()

    def get_secret(
        self,
        path: str,
        version: int | None = None,
        use_cache: bool = True,  # noqa: FBT001, FBT002 - as in VaultClient
    ) -> dict[str, Any]:
        """Return the fields of a secret.

        Args:
            path: ``crm/database``, or the HTTP API's spelling ``secret/data/crm/database``.
            version: A version from 1 on; the latest one when None.
            use_cache: False reads fresh, and refreshes the cache.

        Raises:
            VaultSecretNotFoundError: There is no such secret or version.
            VaultAuthenticationError: The login is refused, or a policy denies the path.
            VaultConnectionError: Vault could not be reached, or could not answer.
        """
        return self.client.get_secret(path, version, use_cache)

    def get_database_credentials(
        self, database_path: str = "bike-data-flow/production/database"
    ) -> dict[str, str]:
        """Return ``username``, ``password``, ``host``, ``port`` and ``database``.

        The port is ``"5432"`` where the secret has none.

        Args:
            database_path: The secret's path.

        Raises:
            VaultError: There is no such secret or field.
        """
        return self.client.get_database_credentials(database_path)

    def get_api_key(self, provider: str) -> str:
        """Return the field ``api_key`` of ``bike-data-flow/production/api-keys/<provider>``.

        Args:
            provider: The secret's name in that folder.

        Raises:
            VaultError: There is no such secret or field.
        """
        return self.client.get_api_key(provider)

    def list_secrets(self, path: str) -> list[str]:
        """Return the names in a folder; those of folders end in a slash.

        Args:
            path: The folder, such as ``crm``; ``/`` for the mount's root.

        Raises:
            VaultSecretNotFoundError: There is no such folder.
            VaultError: Any other failure, as for ``get_secret``.
        """
        return self.client.list_secrets(path)

    def health_check(self) -> bool:
        """Return whether Vault is unsealed and knows us; never raise. The log says why not."""
        return _answers("Vault", lambda: self.client.health_check())  # noqa: PLW0108 - `client` raises

    def clear_cache(self) -> None:
        """Forget the secrets that are cached for this configuration, in this process.

        Raises:
            VaultConfigurationError: A setting is missing.
        """
        client = existing_client(resolve(self))
        if isinstance(client, VaultClient):
            client.clear_cache()


class FakeVaultSecretsResource(VaultSecretsResource):
    """Secrets from a dict, for tests of your assets; it stands wherever the real one does.

    ``FakeVaultSecretsResource(secrets={"crm/email": {"api_key": "x", "from_address": "a@b.c"}})``

    Args:
        secrets: The fields of each secret, by path.
        healthy: False lets every call fail as if Vault were unreachable.
    """

    # Dagster lets a field be null only where the annotation says so.
    secrets: dict[str, dict[str, Any | None]] = Field(default={}, repr=False)
    healthy: bool = True

    @property
    def client(self) -> VaultClient:
        """A client that answers from *secrets*, with every method of the real one.

        Raises:
            VaultConfigurationError: *secrets* has an unfit path, or a value that is no JSON.
        """
        known = _fakes.get(id(self))
        if known is None:
            made = FakeVaultClient(self.secrets, healthy=self.healthy)
            keep_open(made)  # as the real one
            known = _fakes.setdefault(id(self), made)
            weakref.finalize(self, _fakes.pop, id(self), None)
        return known

    def clear_cache(self) -> None:
        """Forget the secrets that this resource's client has cached.

        Raises:
            VaultConfigurationError: *secrets* has an unfit path, or a value that is no JSON.
        """
        self.client.clear_cache()


#: The client of each fake, by the fake's id.
_fakes: dict[int, FakeVaultClient] = {}


#: The fields for further settings, all that may be in them, and the fields short for one of them.
_OPTIONS: dict[str, tuple[type, tuple[str, ...]]] = {
    "postgres_options": (
        PostgresOptions,
        ("pool_size", "min_size", "statement_timeout", "identity", "local_role"),
    ),
    "valkey_options": (ValkeyOptions, ("key_prefix",)),
}


class ClientsResource(_VaultResource):
    """All three clients, as ``build_clients()`` makes them; the first use in a process connects.

    Args:
        vault_addr: The URL of Vault; ``VAULT_ADDR`` when empty.
        auth: As for ``VaultSecretsResource``.
        postgres_options: Settings of ``PostgresClient``, such as
            ``PostgresOptions(pool_timeout=1.0)``: those that are plain values.
        valkey_options: The same for ``ValkeyClient``.
        pool_size: The largest number of PostgreSQL connections of a process; short for the setting
            in *postgres_options*, as are the others that both have.
        min_size: How many of them are opened at the first use.
        statement_timeout: Seconds for each SQL statement; 0 is no limit.
        identity: Whose rows they are: by the name of each value its setting and type, such as
            ``{"tenant_id": "shop.tenant_id:int"}``; the types are ``uuid``, ``int``, ``str`` and
            ``dict``. None: the user alone, as in ``build_clients()``.
        local_role: The role that each transaction of a user runs under, as in ``build_clients()``.
        key_prefix: Stands before every Valkey key.
        database_role: A role of Vault's database secrets engine that gives user and password, as
            in ``build_clients()``.
        valkey_role: The same for Valkey.
        database_path: Where PostgreSQL's secret is, ``mount:path`` for another mount;
            ``FAILFAST_DATABASE_PATH`` or ``crm/database`` when None.
        valkey_path: The same for Valkey.
    """

    # The other resource has an address that stands for one installation.
    vault_addr: str = Field(default="", description="URL of Vault; VAULT_ADDR when empty")
    if TYPE_CHECKING:
        postgres_options: PostgresOptions | None = None
        valkey_options: ValkeyOptions | None = None
    else:  # Dagster lets a value be null only where the annotation says so
        postgres_options: dict[str, Any | None] | None = Field(
            default=None, description="PostgreSQL: further settings of its client"
        )
        valkey_options: dict[str, Any | None] | None = Field(
            default=None, description="Valkey: further settings of its client"
        )
    pool_size: int = Field(default=10, description="PostgreSQL: connections of a process, at most")
    min_size: int = Field(default=2, description="PostgreSQL: connections opened at first")
    statement_timeout: float = Field(default=30.0, description="Seconds for a statement; 0: any")
    identity: dict[str, str] | None = Field(
        default=None, description="PostgreSQL: whose rows; by name a setting, 'app.tenant_id:int'"
    )
    local_role: str | None = Field(default=None, description="PostgreSQL: the role of users' SQL")
    key_prefix: str = Field(default="", description="Valkey: stands before every key")
    database_role: str | None = Field(default=None, description="Vault's role for a user of ours")
    valkey_role: str | None = Field(default=None, description="The same for Valkey")
    database_path: str | None = Field(default=None, description="PostgreSQL's secret in Vault")
    valkey_path: str | None = Field(default=None, description="Valkey's secret in Vault")

    @field_validator("postgres_options", "valkey_options", mode="before")
    @classmethod
    def _check_options(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):
            options_of(str(info.field_name), value, _OPTIONS[str(info.field_name)][0])
        return value

    @property
    def vault(self) -> VaultClient:
        """Secrets. The process shares the clients, so ``close()`` on one does nothing.

        Raises:
            ClientError: One of the three could not be built; the message names it.
        """
        return self._shared_clients().vault

    @property
    def postgres(self) -> PostgresClient:
        """Rows, one user at a time.

        Raises:
            ClientError: One of the three could not be built; the message names it.
        """
        return self._shared_clients().postgres

    @property
    def valkey(self) -> ValkeyClient:
        """Sessions, counters, caches.

        Raises:
            ClientError: One of the three could not be built; the message names it.
        """
        return self._shared_clients().valkey

    def health_check(self) -> bool:
        """Return whether all three services work; never raise. The log says why not."""
        return _answers(
            "clients'",
            lambda: self._shared_clients().health_check(raise_on_failure=True).healthy,
        )

    def _check_settings(self) -> None:
        super()._check_settings()
        check_clients(self, *self._settings(known_value))

    def _settings(self, value_of: Callable[[ClientsResource, str], Any]) -> list[dict[str, Any]]:
        """Return the settings of PostgreSQL's and Valkey's clients."""
        settings = []
        for name, (kind, shorthands) in _OPTIONS.items():
            options = options_of(name, getattr(self, name), kind)
            given = {one: value_of(self, one) for one in shorthands}
            # A default that nobody wrote does not contradict an option.
            for one in given.keys() & options.keys():
                if given[one] == type(self).model_fields[one].default:
                    given[one] = None
            if "identity" in given:
                given["identity"] = identity_of(given["identity"])
            settings.append(merged_settings(name, kind, options, given))
        return settings

    def _shared_clients(self) -> Clients:
        postgres, valkey = self._settings(setting)
        where = {
            name: setting(self, name)
            for name in ("database_role", "valkey_role", "database_path", "valkey_path")
        }
        # Asked for first, so that it is closed last, and shared with the resource for Vault alone.
        vault = self._shared_vault()
        clients: dict[str, Any] = {"postgres": postgres, "valkey": valkey, **where}
        return shared_client(
            (vault, *map(_hashable, clients.values())),
            lambda: build_clients(vault=vault, **clients),
        )


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(sorted((name, _hashable(one)) for name, one in value.items()))
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


class _LegacyResource(dg.ResourceDefinition):
    def configured(
        self, config_or_config_fn: Any, config_schema: Any = None, description: str | None = None
    ) -> Self:
        """Refuse a configuration that cannot work, as the resource itself does when it is made."""
        configured = super().configured(config_or_config_fn, config_schema, description)
        failure = None
        try:
            if isinstance(config_or_config_fn, dict):
                VaultSecretsResource(**_with_variables(config_or_config_fn))
        except (ClientError, ValidationError) as error:
            failure = error.with_traceback(None)
        del config_or_config_fn  # error reporters collect local variables
        if failure is not None:
            raise failure
        return configured


def _with_variables(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a legacy resource's configuration as fields; a variable is ``{"env": NAME}`` there."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        known = VaultSecretsResource.model_fields.get(name)
        if not isinstance(value, dict):
            fields[name] = value
        elif value.keys() != {"env"}:
            fields[name] = _with_variables(value)
        elif known is not None and known.annotation is int:
            fields[name] = dg.EnvVar.int(value["env"])
        else:
            fields[name] = dg.EnvVar(value["env"])
    return fields


def _vault_secrets(context: dg.InitResourceContext) -> VaultSecretsResource:
    resource: VaultSecretsResource = VaultSecretsResource.from_resource_context(context)
    return resource


#: The resource as ``.configured({...})`` makes it; a value may be ``{"env": NAME}``.
vault_secrets_resource = _LegacyResource(
    _vault_secrets,
    config_schema=VaultSecretsResource.to_config_schema(),
    description="Secrets from Vault or OpenBao, shared by all that a process runs",
)


def _answers(what: str, check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a question with two answers
        # Another's error may show a secret in its text.
        told = error if isinstance(error, ClientError) else type(error).__name__
        _log.warning("the %s health check failed: %s", what, told)
        return False
