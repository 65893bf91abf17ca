"""The settings of a VaultClient: arguments over environment, checked before anything is sent."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._shared.authority import server_in, stray_character
from .._shared.environment import VaultSettings
from .._shared.secrecy import Masked
from .._shared.validation import checked_choice, checked_count, checked_file, checked_seconds
from ..errors import ConfigurationError, VaultConfigurationError
from ..vault_auth import (
    Agent,
    AppRole,
    Certificate,
    Jwt,
    Kubernetes,
    Token,
    TokenFile,
    VaultAuth,
)
from .paths import check_mount_point
from .sources import checked_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "GivenLogin",
    "VaultOptions",
    "checked_address",
    "checked_namespace",
    "checked_numbers",
    "resolve_options",
]

_refusal = partial(VaultConfigurationError, reason="setting")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultOptions:
    """All settings of a VaultClient, complete and checked.

    Args:
        addr: The server's URL, without a slash at its end.
        auth: How to log in.
        namespace: The namespace of every request but health.
        mount_point: The KV mount.
        timeout: Seconds that one call may take, retries and all.
        retries: Further tries after the first one.
        cache_ttl: Seconds that a read stays cached.
        verify: A CA file, True for the certificates of certifi, False to accept any.
        cert: The client's certificate and key files.
    """

    addr: str
    auth: VaultAuth
    namespace: str | None
    mount_point: str
    timeout: float
    retries: int
    cache_ttl: float
    verify: bool | str
    cert: tuple[str, str] | str | None

    @property
    def auth_method(self) -> str:
        """The name of the way to log in, as ``VAULT_AUTH_METHOD`` has it."""
        return next(name for name, kind in _METHODS.items() if isinstance(self.auth, kind))

    def secrets(self) -> tuple[str, ...]:
        """Return every value that no message may show."""
        auth = self.auth
        match auth:
            case Token():
                own: list[object] = [auth.token, auth.wrapped]
            case Jwt():
                own = [auth.token]
            case AppRole():
                own = [auth.secret_id, auth.wrapped_secret_id]
            case _:
                own = []
        return tuple(one.reveal() for one in own if isinstance(one, Masked))


#: The values of ``VAULT_AUTH_METHOD``.
_METHODS: dict[str, type] = {
    "token": Token,
    "token_file": TokenFile,
    "approle": AppRole,
    "kubernetes": Kubernetes,
    "jwt": Jwt,
    "cert": Certificate,
    "agent": Agent,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenLogin:
    """The arguments of VaultClient that are about the login.

    Args:
        auth: ``auth=``.
        auth_method: ``auth_method=``.
        token: ``token=``.
        role_id: ``role_id=``.
        secret_id: ``secret_id=``.
    """

    auth: VaultAuth | None = None
    auth_method: str | None = None
    token: Masked | None = None
    role_id: Masked | None = None
    secret_id: Masked | None = None


def resolve_options(
    *,
    addr: Masked | None,
    login: GivenLogin,
    namespace: str | None,
    mount_point: str,
    timeout: float,
    retries: int,
    cache_ttl: float,
    environ: Mapping[str, str] | None,
) -> VaultOptions:
    """Complete the arguments from the environment, and check all settings.

    Raises:
        VaultConfigurationError: Something is missing (all names in one message), unusable, or
            contradicts another setting.
    """
    try:
        env = VaultSettings.from_env(environ)
    except ConfigurationError as error:
        raise VaultConfigurationError(str(error), reason="setting") from error
    missing = [] if addr or env.addr else ["VAULT_ADDR"]
    auth = _auth(login, env, missing)
    if missing or auth is None:
        raise VaultConfigurationError(
            f"{'; '.join(f'{name} not set' for name in missing)}: set the variable, or pass the "
            f"argument of VaultClient (authentication method {_method(login, env)!r})",
            reason="missing_setting",
        )
    options = VaultOptions(
        addr=checked_address("VAULT_ADDR", addr or env.addr or Masked("")),
        auth=auth,
        namespace=checked_namespace("VAULT_NAMESPACE", namespace or env.namespace),
        mount_point=check_mount_point(mount_point),
        **checked_numbers(timeout, retries, cache_ttl),
        verify=False if env.skip_verify else _ca_file(env) or True,
        cert=_client_certificate(env),
    )
    if isinstance(auth, Certificate) and not options.addr.startswith("https://"):
        raise VaultConfigurationError(
            "VAULT_ADDR has no https:// in front: a login by certificate needs TLS",
            reason="contradiction",
        )
    return options


def checked_numbers(timeout: object, retries: object, cache_ttl: object) -> dict[str, Any]:
    """Return the three numbers of a client by name.

    Raises:
        VaultConfigurationError: One is no such number, or out of bounds.
    """
    return {
        "timeout": checked_seconds("timeout", timeout, _refusal),
        "retries": checked_count("retries", retries, _refusal, minimum=0),
        # No wait is bounded by this one, so that it may be longer.
        "cache_ttl": checked_seconds(
            "cache_ttl", cache_ttl, _refusal, allow_zero=True, maximum=sys.float_info.max
        ),
    }


def _auth(login: GivenLogin, env: VaultSettings, missing: list[str]) -> VaultAuth | None:
    """Return how to log in; None, and the names in *missing*, where something is not set."""
    if login.auth is not None:
        if not isinstance(login.auth, tuple(_METHODS.values())):
            raise VaultConfigurationError(
                f"auth is {type(login.auth).__name__}: it must be an object of clients.vault_auth, "
                "such as Kubernetes('my-role')",
                reason="setting",
            )
        _refuse_beside("auth", login, *_CREDENTIALS, "auth_method")
        auth = login.auth
    else:
        found = _auth_of_parts(_method(login, env), login, env, missing)
        if found is None:
            return None
        auth = found
    if isinstance(auth, Certificate) and env.client_cert is None:
        missing.append("VAULT_CLIENT_CERT")
    return auth


_CREDENTIALS = ("token", "role_id", "secret_id")


def _method(login: GivenLogin, env: VaultSettings) -> str:
    """Return the name of the way to log in.

    The argument ``auth_method``, or what the credentials among the arguments are for: an ambient
    VAULT_TOKEN must not override a role id that the caller spelled out. Then VAULT_AUTH_METHOD,
    VAULT_TOKEN, VAULT_TOKEN_FILE and VAULT_ROLE_ID, in that order.
    """
    if login.auth is not None:
        return next(name for name, kind in _METHODS.items() if isinstance(login.auth, kind))
    method: object = login.auth_method
    if method is None and login.token is not None:
        _refuse_beside("token", login, "role_id", "secret_id")
        return "token"
    if method is None and (login.role_id is not None or login.secret_id is not None):
        return "approle"
    name = "auth_method" if method is not None else "VAULT_AUTH_METHOD"
    if method is None:
        method = env.auth_method
    if method is None:
        if env.token is None and env.token_file is not None:
            return "token_file"
        # A secret id without a role id is an AppRole whose role id is missing.
        app_role = (env.role_id, env.secret_id, env.secret_id_file, env.wrapped_secret_id)
        is_app_role = any(one is not None for one in app_role)
        return "approle" if env.token is None and is_app_role else "token"
    method = checked_choice(name, method, _METHODS, _refusal)
    if method != "token":
        _refuse_beside(f"auth_method={method!r}", login, "token")
    if method != "approle":
        _refuse_beside(f"auth_method={method!r}", login, "role_id", "secret_id")
    return method


def _refuse_beside(what: str, login: GivenLogin, *others: str) -> None:
    if given := [name for name in others if getattr(login, name) is not None]:
        raise VaultConfigurationError(
            f"{what} and {' and '.join(given)} contradict each other: pass one of them",
            reason="contradiction",
        )


def _auth_of_parts(
    method: str, login: GivenLogin, env: VaultSettings, missing: list[str]
) -> VaultAuth | None:
    # A role and a mount of the environment are meant for the method that it names.
    same = env.auth_method in {None, method}
    role, mount = (env.auth_role, env.auth_mount) if same else (None, None)
    mounted: dict[str, str] = {} if mount is None else {"mount": _named_mount(mount)}
    needed = {
        "token_file": {"VAULT_TOKEN_FILE": env.token_file},
        "kubernetes": {"VAULT_AUTH_ROLE": role},
        "jwt": {"VAULT_AUTH_ROLE": role, "VAULT_TOKEN_FILE": env.token_file},
    }
    if not _all_set(missing, needed.get(method, {})):
        return None
    auth: VaultAuth | None
    match method:
        case "token":
            auth = _token(login, env, missing)
        case "token_file":
            auth = TokenFile(env.token_file or "")
        case "approle":
            auth = _app_role(login, env, missing, mounted)
        case "kubernetes":
            auth = Kubernetes(role or "", **mounted)
        case "jwt":
            auth = Jwt(role or "", Path(env.token_file or ""), **mounted)
        case "cert":
            auth = Certificate(role, **mounted)
        case _:
            auth = Agent()
    return auth


def _token(login: GivenLogin, env: VaultSettings, missing: list[str]) -> Token | TokenFile | None:
    token = _credential("VAULT_TOKEN", login.token, env.token)
    if token is None and login.token is None and env.token_file is not None:
        return TokenFile(env.token_file)
    if token is None:
        missing.append("VAULT_TOKEN")
        return None
    return Token(token)


def _app_role(
    login: GivenLogin, env: VaultSettings, missing: list[str], mounted: dict[str, str]
) -> AppRole | None:
    role_id = _credential("VAULT_ROLE_ID", login.role_id, env.role_id)
    secret_id = _credential("VAULT_SECRET_ID", login.secret_id, env.secret_id)
    ways: dict[str, Any] = {
        "VAULT_SECRET_ID": secret_id,
        "VAULT_SECRET_ID_FILE": env.secret_id_file,
        "VAULT_WRAPPED_SECRET_ID": env.wrapped_secret_id,
    }
    if login.secret_id is not None and secret_id is not None:
        ways = {"VAULT_SECRET_ID": secret_id}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise VaultConfigurationError(
            f"{' and '.join(given)} contradict each other: set one of them", reason="contradiction"
        )
    if not _all_set(missing, {"VAULT_ROLE_ID": role_id, "VAULT_SECRET_ID": given or None}):
        return None
    return AppRole(
        role_id or "",
        secret_id,
        secret_id_file=ways.get("VAULT_SECRET_ID_FILE"),
        wrapped_secret_id=ways.get("VAULT_WRAPPED_SECRET_ID"),
        **mounted,
    )


def _all_set(missing: list[str], settings: Mapping[str, object]) -> bool:
    names = [name for name, value in settings.items() if value is None]
    missing += names
    return not names


def _named_mount(mount: str) -> str:
    try:
        return check_mount_point(mount)
    except VaultConfigurationError as error:
        raise VaultConfigurationError(f"VAULT_AUTH_MOUNT: {error}", reason="setting") from None


def _credential(name: str, given: Masked | None, ambient: Masked | None) -> Masked | None:
    value = ambient if given is None else given
    if value is None or (isinstance(value.reveal(), str) and not value.reveal().strip()):
        return None
    return checked_text(name, value)


def checked_address(name: str, addr: Masked) -> str:
    """Return Vault's URL without a slash at its end.

    Args:
        name: What it was given as, for the message.
        addr: The URL.

    Raises:
        VaultConfigurationError: It is no URL of a server, or has more in it, such as a password.
    """
    if problem := _problem_of_address(addr.reveal()):
        raise VaultConfigurationError(
            f"{name} {problem}: set it to a URL such as 'https://vault.example.com:8200'",
            reason="setting",
        )
    scheme, _, rest = addr.reveal().partition("://")
    return f"{scheme.lower()}://{rest.rstrip('/')}"


def _problem_of_address(addr: object) -> str | None:
    # Returned and not raised: no frame of the failure holds a piece of a password.
    if not isinstance(addr, str) or stray_character(addr):
        return "is no URL"
    scheme, _, rest = addr.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    problem: str | None = None
    if "@" in addr:
        problem = "holds a user name or password, which Vault has no use for"
    elif scheme.lower() not in {"http", "https"}:
        problem = "has no http:// or https:// in front"
    elif not authority:
        problem = "has no host"
    elif isinstance(found := server_in(authority), str):
        problem = f"is no URL, for it {found}"
    elif "?" in rest or "#" in rest:
        problem = "has a query or fragment"
    elif rest[len(authority) :].strip("/"):
        problem = "has a path, and the client itself adds the one of Vault's API"
    return problem


def checked_namespace(name: str, namespace: object) -> str | None:
    """Return the namespace without slashes around it; None for none.

    Args:
        name: What it was given as, for the message.
        namespace: The namespace.

    Raises:
        VaultConfigurationError: No HTTP header could carry it, or it climbs.
    """
    if namespace is None:
        return None
    if not isinstance(namespace, str) or not all("!" <= char <= "~" for char in namespace):
        raise VaultConfigurationError(
            f"{name} has a blank, control or non-ASCII character: pass a name such as 'team-a'",
            reason="setting",
        )
    if not {".", ".."}.isdisjoint(namespace.split("/")):
        raise VaultConfigurationError(
            f"{name} has a '.' or '..' segment: pass a name such as 'team-a'",
            reason="setting",
        )
    return namespace.strip("/") or None


def _ca_file(env: VaultSettings) -> str | None:
    if env.cacert is None:
        return None
    return checked_file("VAULT_CACERT", env.cacert, _refusal, may_need_password=True)


def _client_certificate(env: VaultSettings) -> tuple[str, str] | str | None:
    certificate, key = (
        None if path is None else checked_file(name, path, _refusal)
        for name, path in (
            ("VAULT_CLIENT_CERT", env.client_cert),
            ("VAULT_CLIENT_KEY", env.client_key),
        )
    )
    if certificate is None and key is not None:
        raise VaultConfigurationError(
            "VAULT_CLIENT_CERT not set, although VAULT_CLIENT_KEY is: set both", reason="setting"
        )
    return certificate if certificate is None or key is None else (certificate, key)
