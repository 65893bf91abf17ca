"""How a VaultClient logs in: one small object for each way, passed as ``auth=``.

==============  ============================================  ====================================
class           where you run                                 what is read for each login
==============  ============================================  ====================================
`Token`         anywhere, with a token of your own, which     the callable, where it is one
                may come response-wrapped
`TokenFile`     beside a Vault Agent with a file sink         the file
`AppRole`       on a machine or in a pipeline                 the file, with ``secret_id_file=``
`Kubernetes`    in a pod with a service account               the service account's token
`Jwt`           with an identity provider, in a CI job        the file or callable
`Certificate`   with a client certificate                     the certificate's files
`Agent`         behind an agent that adds its own token       nothing: the agent logs in
==============  ============================================  ====================================

All but a `Token` that is text or wrapped, and `Agent`, log in again by themselves: before the token
expires, and once after Vault refused it. A token that a login obtained is renewed while that works,
and revoked by ``close()``. A credential has at most 65,536 bytes. Sources:
https://openbao.org/docs/auth/ and https://openbao.org/docs/agent-and-proxy/.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ._shared.secrecy import Masked, MaskedCallable
from ._vault.paths import check_mount_point
from ._vault.sources import checked_jwt, checked_path, checked_text
from .errors import VaultConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SERVICE_ACCOUNT_TOKEN",
    "Agent",
    "AppRole",
    "Certificate",
    "Jwt",
    "Kubernetes",
    "Token",
    "TokenFile",
    "VaultAuth",
]

#: Where Kubernetes puts the token of a pod's service account.
SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path


@dataclass(frozen=True, slots=True, init=False)
class Token:
    """A token of your own; it is neither renewed nor revoked.

    Args:
        token: The token, or a callable that returns it. A callable is called for each login:
            before the token expires, and after Vault refused it.
        wrapped: In place of it, a response-wrapping token that holds it. It is unwrapped once, at
            construction of the client, and the token is kept as long as the process lives.

    Raises:
        VaultConfigurationError: Both or none are given, or the text is empty, or has a character
            that no token has.
    """

    token: Masked | Callable[[], str] | None
    wrapped: Masked | None

    def __init__(
        self,
        token: str | Masked | Callable[[], str] | None = None,
        *,
        wrapped: str | Masked | None = None,
    ) -> None:
        produce = MaskedCallable(token) if callable(token) else None
        masked = None if token is None or callable(token) else _masked(token)
        wrapping = None if wrapped is None else _masked(wrapped)
        given = token is not None
        del token, wrapped  # error reporters collect local variables
        if given == (wrapping is not None):
            raise VaultConfigurationError(
                f"Token was given {'both token and' if given else 'neither token nor'} wrapped: "
                "pass one of them",
                reason="contradiction" if given else "missing_setting",
            )
        object.__setattr__(self, "token", produce or (masked and checked_text("token", masked)))
        object.__setattr__(self, "wrapped", wrapping and checked_text("wrapped", wrapping))


@dataclass(frozen=True, slots=True, init=False)
class TokenFile:
    """The token that a file holds, such as the sink of a Vault Agent.

    The file is read again before the token expires, and after Vault refused it, so its
    writer may rotate the token. It is neither renewed nor revoked.

    Args:
        path: The file.

    Raises:
        VaultConfigurationError: *path* is empty or no path.
    """

    path: str

    def __init__(self, path: str | os.PathLike[str]) -> None:
        object.__setattr__(self, "path", checked_path("path", path))


@dataclass(frozen=True, slots=True, init=False)
class AppRole:
    """A role id and a secret id; give the secret id in one of three ways.

    Args:
        role_id: The role's id.
        secret_id: The secret id.
        secret_id_file: A file that holds the secret id.
        wrapped_secret_id: A response-wrapping token that holds the secret id. It is unwrapped
            once, and the secret id is kept as long as the process lives.
        mount: Where the auth method is mounted.

    Raises:
        VaultConfigurationError: None or several of the three are given, or one of them is
            unusable.
    """

    role_id: Masked
    secret_id: Masked | None
    secret_id_file: str | None
    wrapped_secret_id: Masked | None
    mount: str

    def __init__(
        self,
        role_id: str | Masked,
        secret_id: str | Masked | None = None,
        *,
        secret_id_file: str | os.PathLike[str] | None = None,
        wrapped_secret_id: str | Masked | None = None,
        mount: str = "approle",
    ) -> None:
        role = _masked(role_id)
        secret = None if secret_id is None else _masked(secret_id)
        wrapped = None if wrapped_secret_id is None else _masked(wrapped_secret_id)
        del role_id, secret_id, wrapped_secret_id  # error reporters collect local variables
        ways = {
            "secret_id": secret,
            "secret_id_file": secret_id_file,
            "wrapped_secret_id": wrapped,
        }
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise VaultConfigurationError(
                f"AppRole was given {' and '.join(given) or 'no secret id'}: pass exactly one of "
                f"{', '.join(ways)}",
                reason="contradiction" if given else "missing_setting",
            )
        object.__setattr__(self, "role_id", checked_text("role_id", role))
        object.__setattr__(self, "secret_id", secret and checked_text("secret_id", secret))
        object.__setattr__(
            self,
            "secret_id_file",
            secret_id_file
            if secret_id_file is None
            else checked_path("secret_id_file", secret_id_file),
        )
        object.__setattr__(
            self, "wrapped_secret_id", wrapped and checked_text("wrapped_secret_id", wrapped)
        )
        object.__setattr__(self, "mount", check_mount_point(mount))


@dataclass(frozen=True, slots=True, init=False)
class Kubernetes:
    """The service account of the pod.

    Args:
        role: The role of the auth method that the service account is bound to.
        token_path: The file with the service account's token.
        mount: Where the auth method is mounted.

    Raises:
        VaultConfigurationError: A value is empty or unusable.
    """

    role: str
    token_path: str
    mount: str

    def __init__(
        self,
        role: str,
        token_path: str | os.PathLike[str] = SERVICE_ACCOUNT_TOKEN,
        mount: str = "kubernetes",
    ) -> None:
        object.__setattr__(self, "role", _role(role))
        object.__setattr__(self, "token_path", checked_path("token_path", token_path))
        object.__setattr__(self, "mount", check_mount_point(mount))


@dataclass(frozen=True, slots=True, init=False)
class Jwt:
    """A JSON Web Token of an identity provider.

    Args:
        role: The role of the auth method.
        token: The JWT itself, a callable that returns it, or the path of a file that holds it: a
            ``pathlib.Path``, or text with a slash in it, which no JWT has.
        mount: Where the auth method is mounted.

    Raises:
        VaultConfigurationError: A value is empty or unusable, or the text is no JWT.
    """

    role: str
    token: Masked | Callable[[], str] | None
    path: str | None
    mount: str

    def __init__(
        self,
        role: str,
        token: str | Masked | os.PathLike[str] | Callable[[], str],
        mount: str = "jwt",
    ) -> None:
        text: Masked | Callable[[], str] | None = None
        path: str | None = None
        if callable(token):
            text = MaskedCallable(token)
        elif isinstance(token, os.PathLike) or (isinstance(token, str) and os.sep in token):
            path = checked_path("token", token)
        else:
            text = _masked(token)
        del token  # error reporters collect local variables
        if isinstance(text, Masked):
            text = checked_jwt("token", checked_text("token", text))
        object.__setattr__(self, "role", _role(role))
        object.__setattr__(self, "token", text)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "mount", check_mount_point(mount))


@dataclass(frozen=True, slots=True, init=False)
class Certificate:
    """The client certificate that ``VAULT_CLIENT_CERT`` and ``VAULT_CLIENT_KEY`` name.

    Args:
        role: The role of the auth method; when None, Vault tries all that fit the certificate.
        mount: Where the auth method is mounted.

    Raises:
        VaultConfigurationError: A value is empty or unusable.
    """

    role: str | None
    mount: str

    def __init__(self, role: str | None = None, mount: str = "cert") -> None:
        object.__setattr__(self, "role", None if role is None else _role(role))
        object.__setattr__(self, "mount", check_mount_point(mount))


@dataclass(frozen=True, slots=True)
class Agent:
    """No token of ours: the Vault Agent or Proxy that ``VAULT_ADDR`` names adds its own.

    Its configuration needs ``api_proxy { use_auto_auth_token = true }``.
    """


#: What ``VaultClient(auth=...)`` takes.
VaultAuth: TypeAlias = Token | TokenFile | AppRole | Kubernetes | Jwt | Certificate | Agent


def _masked(text: str | Masked) -> Masked:
    return text if isinstance(text, Masked) else Masked(text)


def _role(role: str) -> str:
    return checked_text("role", Masked(role)).reveal()
