"""The ways to log in as plain configuration: Dagster stores the settings of a resource as text.

==============  ===================================================
method          further names
==============  ===================================================
``token_file``  ``path``
``approle``     ``role_id``, ``secret_id_file``, ``mount``
``kubernetes``  ``role``, ``token_path``, ``mount``
``jwt``         ``role``, ``path``, ``mount``
``cert``        ``role``, ``mount``
``agent``
==============  ===================================================

What is a secret itself, such as a token, has a field of its own, which takes a variable.
"""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._shared.secrecy import Masked
from .._shared.validation import checked_choice
from ..errors import VaultConfigurationError
from ..vault_auth import Agent, AppRole, Certificate, Jwt, Kubernetes, Token, TokenFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..vault_auth import VaultAuth

__all__ = ["auth_as_config", "auth_of"]

_KINDS: dict[str, tuple[type, Callable[..., VaultAuth], tuple[str, ...]]] = {
    "token_file": (TokenFile, TokenFile, ("path",)),
    "approle": (AppRole, AppRole, ("role_id", "secret_id_file", "mount")),
    "kubernetes": (Kubernetes, Kubernetes, ("role", "token_path", "mount")),
    "jwt": (
        Jwt,
        lambda role, path, **mount: Jwt(role, Path(path), **mount),
        ("role", "path", "mount"),
    ),
    "cert": (Certificate, Certificate, ("role", "mount")),
    "agent": (Agent, Agent, ()),
}


def auth_as_config(auth: object) -> object:
    """Return an object of ``clients.vault_auth`` as configuration; anything else as it is.

    Raises:
        VaultConfigurationError: It holds a secret or a callable.
    """
    for method, (kind, _, names) in _KINDS.items():
        if not isinstance(auth, kind):
            continue
        if isinstance(auth, AppRole) and auth.secret_id_file is None:
            raise _refusal(
                "an AppRole with its secret id",
                "pass secret_id_file=, or role_id and secret_id=EnvVar(...) to the resource",
            )
        if isinstance(auth, Jwt) and auth.path is None:
            raise _refusal("a Jwt without a file", "pass the path of a file")
        told = {name: getattr(auth, name) for name in names}
        return {"method": method} | {
            name: value.reveal() if isinstance(value, Masked) else value
            for name, value in told.items()
            if value is not None
        }
    if isinstance(auth, Token):
        raise _refusal("a Token", "pass token=EnvVar(...) to the resource, or TokenFile(...)")
    return auth


def auth_of(config: Mapping[str, str]) -> VaultAuth:
    """Return the object that *config* describes.

    Raises:
        VaultConfigurationError: A name is unknown or missing, or a value is unusable.
    """
    method = checked_choice(
        "auth's method",
        config.get("method"),
        _KINDS,
        partial(VaultConfigurationError, reason="setting"),
    )
    _, make, names = _KINDS[method]
    told: dict[str, Any] = {name: value for name, value in config.items() if name != "method"}
    if unknown := sorted(told.keys() - set(names)):
        raise VaultConfigurationError(
            f"auth has no {', '.join(map(repr, unknown))} for the method {method!r}: known are "
            f"{', '.join(names) or 'none'}",
            reason="setting",
        )
    needed = [
        name
        for name, one in inspect.signature(make).parameters.items()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    if missing := [name for name in needed if not told.get(name)]:
        raise VaultConfigurationError(
            f"auth has no {', '.join(map(repr, missing))}, which the method {method!r} needs",
            reason="missing_setting",
        )
    return make(**told)


def _refusal(what: str, instead: str) -> VaultConfigurationError:
    return VaultConfigurationError(
        f"auth is {what}, which Dagster's configuration cannot carry, for it is stored as text: "
        f"{instead}",
        reason="setting",
    )
