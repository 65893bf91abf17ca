"""The settings of a Vault resource, and how they become a client's. No Dagster is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from .._shared.environment import VaultSettings
from .._shared.validation import checked_choice
from ..errors import ClientError, ConfigurationError, VaultConfigurationError
from ..vault_client import VaultClient
from .auth import auth_of
from .checks import CREDENTIALS, check_vault, identity_of, refuse_beside_auth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..vault_auth import VaultAuth

_refusal = partial(VaultConfigurationError, reason="setting")

__all__ = [
    "VARIABLES",
    "ResolvedVault",
    "VaultSecretsResourceConfig",
    "looked_up",
    "options_of",
    "resolve",
    "setting",
]

#: Masks the value on Dagster's pages, in its launchpad and in its GraphQL answers.
_SECRET: dict[str, JsonValue] = {"dagster__is_secret": True}
#: The variable that each setting comes from by default, and the setting's name in VaultSettings.
VARIABLES = {
    "vault_addr": ("VAULT_ADDR", "addr"),
    "token": ("VAULT_TOKEN", "token"),
    "role_id": ("VAULT_ROLE_ID", "role_id"),
    "secret_id": ("VAULT_SECRET_ID", "secret_id"),
    "namespace": ("VAULT_NAMESPACE", "namespace"),
}
# What build_clients() takes from the database's secret.
_SECRET_OPTIONS = ("admin_url", "identity_key")


class VaultSecretsResourceConfig(BaseModel):
    """Configuration of the Vault resources.

    Give secrets as ``EnvVar``: Dagster stores a literal value in its database.

    Args:
        vault_addr: The server's URL.
        auth_method: ``"approle"`` or ``"token"``; or ``"token_file"``, ``"kubernetes"``,
            ``"jwt"``, ``"cert"`` or ``"agent"``, whose settings are the environment's.
        role_id: The AppRole's role id.
        secret_id: The AppRole's secret id.
        token: A token; it is neither renewed nor revoked.
        namespace: The namespace; ``VAULT_NAMESPACE`` when None.
        timeout: Seconds that a whole call may take, retries and pauses included.
        retries: Further tries after a failure that may pass.
        cache_ttl: Seconds that a secret stays cached in this process; 0 turns the cache off.

    Raises:
        ConfigurationError: A setting cannot work, whatever the variables hold.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    vault_addr: str = Field(
        default="https://vault.internal.bike-data-flow.com:8200", description="URL of the server"
    )
    auth_method: str = Field(default="approle", description="How to log in to Vault")
    role_id: str | None = Field(default=None, description="AppRole: role id")
    secret_id: str | None = Field(
        default=None, description="AppRole: secret id", repr=False, json_schema_extra=_SECRET
    )
    token: str | None = Field(
        default=None, description="Token", repr=False, json_schema_extra=_SECRET
    )
    namespace: str | None = Field(default=None, description="Namespace")
    timeout: int = Field(default=30, description="Seconds for a whole call, retries included")
    retries: int = Field(default=3, description="Further tries after a failure that may pass")
    cache_ttl: int = Field(default=300, description="Seconds that a secret stays cached; 0: off")

    if not TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            try:
                super().__init__(**settings)
                self._check_settings()
            except (ClientError, ValidationError) as error:
                # Error reporters collect the local variables of each frame that failed.
                del settings, self
                raise error.with_traceback(None) from None

    def _check_settings(self) -> None:
        check_vault(self)

    def __reduce__(self) -> Any:
        # Dagster itself hands a resource to other processes by its definition, never by a pickle.
        for name, one in type(self).model_fields.items():
            value = getattr(self, name, None)
            if one.json_schema_extra == _SECRET and value and not hasattr(value, "env_var_name"):
                raise TypeError(
                    f"{type(self).__name__} holds {name} as text, and a pickle would hold it in "
                    f"clear: give it as EnvVar, or make the resource in the other process"
                )
        # Made again from its fields: what Dagster keeps beside them cannot be unpickled.
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        return _remade, (type(self), fields)

    @field_validator("*", mode="wrap")
    @classmethod
    def _keep_variables(
        cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        if not hasattr(value, "env_var_name"):
            return validate(value)
        kind = cls.model_fields[str(info.field_name)].annotation
        if kind is float:
            raise ValueError(
                "Dagster has variables for text and whole numbers only: give a number here"
            )
        if kind is int and not isinstance(value, int):
            raise ValueError(
                f"a whole number from a variable is EnvVar.int({value.env_var_name!r})"
            )
        # An EnvVar is a str or int that holds the variable's name or 0; pydantic would make
        # a plain value of it, and "VAULT_TOKEN" would be sent as the token.
        validate(value)
        return value


def _remade(
    kind: type[VaultSecretsResourceConfig], fields: dict[str, Any]
) -> VaultSecretsResourceConfig:
    return kind(**fields)


@dataclass(frozen=True, slots=True)
class ResolvedVault:
    """A configuration without variables, complete; equal ones share a client."""

    vault_addr: str = field(repr=False)  # one with a password in it is refused
    auth_method: str
    role_id: str | None
    secret_id: str | None = field(repr=False)
    token: str | None = field(repr=False)
    namespace: str | None
    timeout: int
    retries: int
    cache_ttl: int
    auth: VaultAuth | None = None

    def connect(self) -> VaultClient:
        """Return a client that has logged in.

        Raises:
            VaultError: A setting is unusable, or Vault cannot be reached or refuses the login.
        """
        return VaultClient(
            self.vault_addr,
            self.token,
            auth=self.auth,
            auth_method=None if self.auth is not None else self.auth_method,
            role_id=self.role_id,
            secret_id=self.secret_id,
            namespace=self.namespace,
            timeout=self.timeout,
            retries=self.retries,
            cache_ttl=self.cache_ttl,
        )


def resolve(config: VaultSecretsResourceConfig) -> ResolvedVault:
    """Look up the variables of *config* and check the whole; nothing is sent.

    Returns:
        The settings, without credentials that the authentication method has no use for.

    Raises:
        VaultConfigurationError: ``auth_method`` is unknown, or something is missing; all of it is
            named in one message.
    """
    # Straight into a value whose repr is safe: error reporters show the variables of each frame.
    found = ResolvedVault(
        **{name: setting(config, name) for name in VaultSecretsResourceConfig.model_fields}
    )
    env = VaultSettings.from_env()
    # A class without an address of its own takes the environment's, as build_clients() does.
    if not found.vault_addr and not type(config).model_fields["vault_addr"].default and env.addr:
        found = replace(found, vault_addr=env.addr.reveal())
    auth = _auth(config, found)
    method = found.auth_method
    if auth is None:
        checked_choice("auth_method", method, CREDENTIALS, _refusal)
    needed = ("vault_addr", *(() if auth is not None else CREDENTIALS[method]))
    if env.secret_id_file is not None or env.wrapped_secret_id is not None:
        needed = tuple(name for name in needed if name != "secret_id" or found.secret_id)
    if missing := [name for name in needed if getattr(found, name) is None]:
        named = ", ".join(f"{name} ({_variable(config, name)})" for name in missing)
        whose = "auth" if auth is not None else f"auth_method {method!r}"
        hint = (
            "; a token is given: for a login with it set auth_method to 'token'"
            if found.token and "role_id" in missing
            else ""
        )
        raise VaultConfigurationError(
            f"{named} not set: {whose} needs it; set the environment variable, "
            "or the variable that you named instead, to a text that is not empty, and give the "
            f"field as EnvVar or use from_env(){hint}",
            reason="missing_setting",
        )
    unused: dict[str, Any] = dict.fromkeys({"role_id", "secret_id", "token"}.difference(needed))
    # With another login, what the method's default says makes no difference.
    return replace(found, **unused, auth=auth, auth_method="" if auth else method)


def _auth(config: VaultSecretsResourceConfig, found: ResolvedVault) -> VaultAuth | None:
    told = getattr(config, "auth", None)
    if told is None:
        return None
    refuse_beside_auth([name for name in ("role_id", "secret_id", "token") if getattr(found, name)])
    values = {name: looked_up(value) for name, value in told.items()}
    return auth_of({name: value.strip() for name, value in values.items() if value})


def options_of(name: str, given: Mapping[str, Any] | None, known: type) -> dict[str, Any]:
    """Return the settings of PostgreSQL's or Valkey's client that a resource was given.

    Args:
        name: The field's name, for messages.
        given: Its value.
        known: The typed dict of all settings.

    Raises:
        ConfigurationError: One is unknown, or cannot be configuration.
    """
    options = dict(given or {})
    if unknown := sorted(options.keys() - known.__annotations__.keys()):
        raise ConfigurationError(
            f"{name} has no setting {', '.join(map(repr, unknown))}: known are "
            f"{', '.join(known.__annotations__)}"
        )
    try:
        json.dumps(options)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"{name} has a value that is not JSON, which Dagster's configuration cannot carry, "
            "such as a callable: build that client in a resource of your own"
        ) from None
    for secret in _SECRET_OPTIONS:
        if options.get(secret) is not None:
            raise ConfigurationError(
                f"{name} has the setting {secret}, which Dagster would store: put it into the "
                "secret in Vault; None here means that there is none"
            )
    for setting_name, value in options.items():
        if hasattr(value, "env_var_name") or (isinstance(value, dict) and "env" in value):
            raise ConfigurationError(
                f"{name}: {setting_name} is a variable, which only a field of its own may be"
            )
    if isinstance(options.get("identity"), dict):
        options["identity"] = identity_of(options["identity"])
    return options


def looked_up(value: Any) -> Any:
    """Return what a variable holds; anything else as it is."""
    return value.get_value() if hasattr(value, "env_var_name") else value


def setting(config: VaultSecretsResourceConfig, name: str) -> Any:
    """Return a field of *config*, its variable looked up; what is empty counts as unset.

    Returns:
        The value; where it is unset, the field's default, but None for an address or credential.

    Raises:
        VaultConfigurationError: The variable should hold a number and does not.
    """
    value = getattr(config, name)
    if hasattr(value, "env_var_name"):
        try:
            value = looked_up(value)
        except ValueError:  # from int(), whose text repeats the variable's value
            raise VaultConfigurationError(
                f"{name}: the environment variable {getattr(config, name).env_var_name} is no "
                "whole number",
                reason="setting",
            ) from None
    if isinstance(value, str):
        value = value.strip() or None
    if isinstance(value, dict):
        value = {one: looked_up(inside) for one, inside in value.items()}
    if value is None and name not in VARIABLES:
        return type(config).model_fields[name].default
    return value


def _variable(config: VaultSecretsResourceConfig, name: str) -> str:
    return str(getattr(getattr(config, name), "env_var_name", VARIABLES[name][0]))
