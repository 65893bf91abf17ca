"""What a VaultClient was told: arguments over environment, checked before anything is sent."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from .._shared.environment import VaultSettings
from .._shared.secrecy import Masked
from .._shared.validation import checked_count, checked_seconds, is_readable, needs_password
from ..errors import ConfigurationError, VaultConfigurationError
from .paths import check_mount_point

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AuthMethod", "VaultOptions", "resolve_options"]

AuthMethod = Literal["token", "approle"]

_refusal = partial(VaultConfigurationError, reason="setting")


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultOptions:
    """Everything that a VaultClient needs to know, complete and checked.

    Args:
        addr: The server's URL, without a slash at its end.
        auth_method: How to log in.
        token: The caller's token, for ``"token"``.
        role_id: The AppRole's role id, for ``"approle"``.
        secret_id: The AppRole's secret id, for ``"approle"``.
        namespace: The namespace of every request but health.
        mount_point: The KV version 2 mount.
        timeout: Seconds that one call may take, retries and all.
        retries: Further tries after the first one.
        cache_ttl: Seconds that a read stays cached.
        verify: A CA file, True for the certificates of certifi, False to accept any.
        cert: The client's certificate and key files.
    """

    addr: str
    auth_method: AuthMethod
    token: Masked | None
    role_id: Masked | None
    secret_id: Masked | None
    namespace: str | None
    mount_point: str
    timeout: float
    retries: int
    cache_ttl: float
    verify: bool | str
    cert: tuple[str, str] | str | None

    def secrets(self) -> tuple[str, ...]:
        """Return every value that no message may show."""
        return tuple(one.reveal() for one in (self.token, self.secret_id) if one is not None)


def resolve_options(
    *,
    addr: str | None,
    token: Masked | None,
    auth_method: str | None,
    role_id: Masked | None,
    secret_id: Masked | None,
    namespace: str | None,
    mount_point: str,
    timeout: float,
    retries: int,
    cache_ttl: float,
    environ: Mapping[str, str] | None,
) -> VaultOptions:
    """Lay the arguments over the environment and check the whole.

    Raises:
        VaultConfigurationError: Something is missing (all names in one message) or unusable.
    """
    try:
        env = VaultSettings.from_env(environ)
    except ConfigurationError as error:
        raise VaultConfigurationError(str(error), reason="setting") from error
    # Credentials given by argument decide the method alone: an ambient VAULT_TOKEN must not
    # override a role id that the caller spelled out.
    own = token is not None or role_id is not None
    method = _auth_method(
        auth_method,
        has_token=token is not None or (not own and env.token is not None),
        has_role=role_id is not None or (not own and env.role_id is not None),
    )
    found = VaultSettings(
        addr=addr or env.addr,
        token=_credential("VAULT_TOKEN", token, env.token),
        role_id=_credential("VAULT_ROLE_ID", role_id, env.role_id),
        secret_id=_credential("VAULT_SECRET_ID", secret_id, env.secret_id),
    )
    if missing := found.missing_names(method):
        raise VaultConfigurationError(
            f"{'; '.join(f'{name} not set' for name in missing)}: set the variable, or pass the "
            f"argument of VaultClient (authentication method {method!r})",
            reason="missing_setting",
        )
    by_token = method == "token"
    return VaultOptions(
        addr=_address(found.addr or ""),
        auth_method=method,
        token=_masked(found.token) if by_token else None,
        role_id=None if by_token else _masked(found.role_id),
        secret_id=None if by_token else _masked(found.secret_id),
        namespace=_namespace(namespace or env.namespace),
        mount_point=check_mount_point(mount_point),
        timeout=checked_seconds("timeout", timeout, _refusal),
        retries=checked_count("retries", retries, _refusal, least=0),
        # Nobody waits for this one.
        cache_ttl=checked_seconds(
            "cache_ttl", cache_ttl, _refusal, zero=True, most=sys.float_info.max
        ),
        verify=False if env.skip_verify else _file("VAULT_CACERT", env.cacert) or True,
        cert=_client_certificate(env),
    )


def _auth_method(given: str | None, *, has_token: bool, has_role: bool) -> AuthMethod:
    if given == "token" or (given is None and (has_token or not has_role)):
        return "token"
    if given is None or given == "approle":
        return "approle"
    raise VaultConfigurationError(
        f"auth_method is {given!r}: it must be 'token', 'approle' or None", reason="setting"
    )


def _masked(value: str | None) -> Masked | None:
    return None if value is None else Masked(value)


def _credential(name: str, given: Masked | None, ambient: str | None) -> str | None:
    value: object = ambient if given is None else given.reveal()
    if value is None:
        return None
    # The HTTP library would print an unfit header value, that is the token, in its error.
    if not isinstance(value, str):
        raise VaultConfigurationError(f"{name} is no text: pass it as str", reason="setting")
    stripped = value.strip()
    if not all("!" <= char <= "~" for char in stripped):
        raise VaultConfigurationError(
            f"{name} has a blank, control or non-ASCII character inside: copy it again",
            reason="setting",
        )
    return stripped or None


def _address(addr: object) -> str:
    mend = "set it to a URL such as 'https://vault.example.com:8200'"
    if not isinstance(addr, str) or not addr.isascii() or not addr.isprintable() or " " in addr:
        raise VaultConfigurationError(f"VAULT_ADDR is no URL: {mend}", reason="setting")
    try:
        parts = urlsplit(addr)
        host, _ = parts.hostname, parts.port
    except ValueError:
        # The library's text repeats a part of the URL, and a password may be in it.
        raise VaultConfigurationError(f"VAULT_ADDR is no URL: {mend}", reason="setting") from None
    if "@" in addr:
        problem = "holds a user name or password, which Vault has no use for"
    elif parts.scheme not in {"http", "https"}:
        problem = "has no http:// or https:// in front"
    elif not host:
        problem = "has no host"
    elif parts.query or parts.fragment:
        problem = "has a query or fragment"
    elif parts.path.rstrip("/").endswith("/v1"):
        problem = "ends in /v1, which the client adds itself"
    else:
        return addr.rstrip("/")
    raise VaultConfigurationError(f"VAULT_ADDR {problem}: {mend}", reason="setting")


def _namespace(namespace: object) -> str | None:
    if namespace is None:
        return None
    if not isinstance(namespace, str) or not all("!" <= char <= "~" for char in namespace):
        raise VaultConfigurationError(
            "VAULT_NAMESPACE has a blank, control or non-ASCII character: pass a name such as "
            "'team-a'",
            reason="setting",
        )
    if not {".", ".."}.isdisjoint(namespace.split("/")):
        raise VaultConfigurationError(
            "VAULT_NAMESPACE has a '.' or '..' segment: pass a name such as 'team-a'",
            reason="setting",
        )
    return namespace.strip("/") or None


def _file(name: str, path: str | None) -> str | None:
    if path is not None and not is_readable(path):
        raise VaultConfigurationError(
            f"{name} names {path!r}, which is no file that can be read", reason="setting"
        )
    return path


def _client_certificate(env: VaultSettings) -> tuple[str, str] | str | None:
    certificate = _file("VAULT_CLIENT_CERT", env.client_cert)
    key = _file("VAULT_CLIENT_KEY", env.client_key)
    if certificate is None and key is not None:
        raise VaultConfigurationError(
            "VAULT_CLIENT_CERT not set, although VAULT_CLIENT_KEY is: set both", reason="setting"
        )
    for name, path in (("VAULT_CLIENT_CERT", certificate), ("VAULT_CLIENT_KEY", key)):
        if path is not None and needs_password(path):
            raise VaultConfigurationError(
                f"{name} names {path!r}, whose key needs a password: store it without one",
                reason="setting",
            )
    return certificate if certificate is None or key is None else (certificate, key)
