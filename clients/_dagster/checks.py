"""What can be told of a resource's settings before anybody knows what its variables hold.

A setting that cannot work is refused when the resource is made, and so by ``dagster definitions
validate``; what comes from a variable is checked when it is used. No Dagster is imported.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from .._postgres.rls_context import RlsContexts
from .._postgres.settings import PostgresSettings
from .._shared.secrecy import Masked
from .._shared.validation import checked_choice
from .._valkey.arguments import checked_prefix
from .._valkey.settings import Limits
from .._vault.paths import database_path, secret_path, split_mount
from .._vault.settings import checked_address, checked_namespace, checked_numbers
from .._vault.sources import checked_text
from ..errors import VaultConfigurationError
from ..identity import RlsSetting
from ..postgres_client import PostgresClient
from ..valkey_client import ValkeyClient
from .auth import auth_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

__all__ = [
    "CREDENTIALS",
    "check_clients",
    "check_login",
    "check_vault",
    "identity_of",
    "known_value",
    "refuse_beside_auth",
]

_refusal = partial(VaultConfigurationError, reason="setting")

#: The fields that each way to log in needs. What the others need, VaultClient takes from the
#: environment: VAULT_AUTH_ROLE, VAULT_AUTH_MOUNT, VAULT_TOKEN_FILE.
CREDENTIALS: dict[str, tuple[str, ...]] = {
    "approle": ("role_id", "secret_id"),
    "token": ("token",),
    **dict.fromkeys(("token_file", "kubernetes", "jwt", "cert", "agent"), ()),
}
_SECRETS = ("role_id", "secret_id", "token")


def check_vault(config: BaseModel) -> None:
    """Refuse a setting for Vault that cannot be right.

    Args:
        config: The resource, or its configuration.

    Raises:
        VaultConfigurationError: One is unusable.
    """
    if address := known_value(config, "vault_addr"):
        checked_address("vault_addr", Masked(address))
    checked_namespace("namespace", known_value(config, "namespace"))
    numbers = {name: known_value(config, name) for name in ("timeout", "retries", "cache_ttl")}
    fields = type(config).model_fields
    checked_numbers(
        **{name: fields[name].default if one is None else one for name, one in numbers.items()}
    )
    for name in _SECRETS:
        if known_value(config, name):
            checked_text(name, Masked(known_value(config, name)))
    if (method := known_value(config, "auth_method")) is not None:
        checked_choice("auth_method", method, CREDENTIALS, _refusal)


def check_login(config: BaseModel) -> None:
    """Refuse ways to log in that exclude each other.

    Args:
        config: The resource.

    Raises:
        VaultConfigurationError: There are some, or *auth* describes none.
    """
    method, auth = known_value(config, "auth_method"), getattr(config, "auth", None)
    if auth is not None:
        _check_auth(config, auth, method)
    elif method is not None:
        _check_method(config, method)


def _check_auth(config: BaseModel, auth: Mapping[str, Any], method: str | None) -> None:
    refuse_beside_auth([name for name in _SECRETS if known_value(config, name)])
    told, usual = auth.get("method"), type(config).model_fields["auth_method"].default
    if _is_variable(told):
        return
    # A word stands for what a variable will hold.
    auth_of({name: "variable" if _is_variable(one) else one for name, one in auth.items()})
    if method not in {None, usual, told}:
        raise VaultConfigurationError(
            f"auth_method {method!r} and auth, whose method is {told!r}, contradict each other: "
            "give one of them",
            reason="contradiction",
        )


def _check_method(config: BaseModel, method: str) -> None:
    own = CREDENTIALS[method]
    given = [name for name in _SECRETS if getattr(config, name) is not None]
    if given and not set(own) & set(given):
        others = [name for name, needed in CREDENTIALS.items() if set(needed) & set(given)]
        raise VaultConfigurationError(
            f"auth_method is {method!r}, which does not use {' and '.join(given)}: set "
            f"auth_method to {' or '.join(map(repr, others))}, or leave out {' and '.join(given)}",
            reason="contradiction",
        )


def refuse_beside_auth(given: list[str]) -> None:
    """Refuse the fields of another login beside ``auth``.

    Raises:
        VaultConfigurationError: There are some.
    """
    if given:
        raise VaultConfigurationError(
            f"auth and {' and '.join(given)} contradict each other: give one of them",
            reason="contradiction",
        )


def check_clients(
    config: BaseModel, postgres: Mapping[str, Any], valkey: Mapping[str, Any]
) -> None:
    """Refuse a setting for PostgreSQL or Valkey that cannot be right.

    Args:
        config: The resource.
        postgres: The settings of PostgreSQL's client, without those that are variables.
        valkey: The same for Valkey.

    Raises:
        ConfigurationError: A setting is unusable.
    """
    settings = {**_defaults(PostgresClient), **postgres}
    PostgresSettings(**{name: settings[name] for name in PostgresSettings.__annotations__})
    RlsContexts(settings["identity"], settings["local_role"], 0)
    settings = {**_defaults(ValkeyClient), **valkey}
    Limits(**{name: settings[name] for name in Limits.__annotations__})
    checked_prefix(settings["key_prefix"])
    for name in ("database_role", "valkey_role"):
        if role := known_value(config, name):
            database_path(role)
    for name in ("database_path", "valkey_path"):
        if path := known_value(config, name):
            mount, inside = split_mount(path)
            secret_path(mount or "secret", inside)


def identity_of(identity: Mapping[str, str] | None) -> dict[str, RlsSetting] | None:
    """Return the identity that a resource's field spells; None where it is None.

    Raises:
        PostgresConfigurationError: A value does not spell a setting.
    """
    if identity is None:
        return None
    return {name: RlsSetting.from_text(text) for name, text in identity.items()}


def _defaults(kind: type) -> dict[str, Any]:
    parameters = inspect.signature(kind).parameters
    return {name: one.default for name, one in parameters.items()}


def known_value(config: BaseModel, name: str) -> Any:
    """Return a field without variables; None where nothing else is in it, or it is empty."""
    value = getattr(config, name)
    if _is_variable(value):
        return None
    if isinstance(value, dict) and any(map(_is_variable, value.values())):
        return {name: one for name, one in value.items() if not _is_variable(one)} or None
    return (value.strip() or None) if isinstance(value, str) else value


def _is_variable(value: object) -> bool:
    return hasattr(value, "env_var_name")
