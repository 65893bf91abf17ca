"""The one place where an answer or a driver's exception becomes an error of ours.

================================================= ============================ =====
cause                                             error                        retry
================================================= ============================ =====
refused, reset, no such host, connect time-out    VaultConnectionError         yes
no answer in time                                 VaultConnectionError         yes
bad certificate, TLS file, URL or header          VaultConfigurationError      no
TLS ended unanswered, no client certificate       VaultConnectionError         yes
412, 429, 5xx                                     VaultConnectionError         yes
501, 503 of a sealed server                       VaultConnectionError         no
3xx to elsewhere, 200 that is no JSON object      VaultConnectionError         no
an answer that is no HTTP                         VaultConnectionError         no
login, unwrapping: 400, 401, 403                  VaultAuthenticationError     no
else: 401, 403                                    VaultAuthenticationError     no
404                                               VaultSecretNotFoundError     no
new lease: 400 with errors                        VaultSecretNotFoundError     no
other 4xx                                         VaultError                   no
================================================= ============================ =====

No word of the server decides anything: where status and structure do not tell, ``probes`` does.
"""

from __future__ import annotations

import http.client
import re
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

import requests.exceptions
import urllib3.exceptions

from .._shared.secrecy import redact
from ..errors import (
    VaultAuthenticationError,
    VaultConfigurationError,
    VaultConnectionError,
    VaultError,
    VaultSecretNotFoundError,
)
from .http import UnansweredTlsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .paths import SecretPath
    from .probes import State

__all__ = [
    "Answer",
    "Operation",
    "error_from_answer",
    "error_from_exception",
    "forget_context",
    "not_vault",
    "root_of",
]

_LONGEST_WORDS = 300
_TIME = re.compile(r"[-+:.0-9TZ]{1,40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is requested of which server, for messages.

    Args:
        kind: What the answer's status is to be read as.
        text: What the caller wanted, such as "read the secret 'crm/database'".
        addr: The server's URL.
        check: What to check when a login is refused.
        path: Where, for reads and lists.
        version: Which version, where one was named.
        kv: The version of the KV engine that is read.
    """

    kind: Literal[
        "read", "list", "mount", "login", "unwrap", "token", "lease", "renew", "revoke", "health"
    ]
    text: str
    addr: str
    check: str = "check role id, secret id and namespace"
    path: SecretPath | None = None
    version: int | None = None
    kv: int | None = None

    def __str__(self) -> str:
        return f"cannot {self.text} at {self.addr}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server said, without any secret.

    Args:
        status: The HTTP status.
        errors: Its ``errors``, scrubbed.
        metadata: The metadata of a deleted or destroyed version.
        retry_after: Seconds to wait that it named.
        state: What a second request found; None where there was none, or it did not tell.
    """

    status: int
    errors: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    retry_after: float | None = None
    state: State | None = None

    @property
    def words(self) -> str:
        """The server's own words, for a message; empty when it gave none."""
        text = " ".join(" ".join(self.errors).split())
        return f": {text[:_LONGEST_WORDS]}" if text else ""


def error_from_answer(operation: Operation, answer: Answer) -> VaultError:
    """Return the error for an answer that is no success."""
    status = answer.status
    said = f"HTTP {status}{answer.words}"
    if status == HTTPStatus.NOT_FOUND:
        return _not_found(operation, answer)
    if status == HTTPStatus.BAD_REQUEST and operation.kind == "lease" and answer.errors:
        # The database secrets engine answers so to nothing else; its own faults are a 500.
        return VaultSecretNotFoundError(
            f"{operation}: there is no such role ({said}); make it, or name a static role by its "
            "path, as in 'database/static-creds/crm-app'",
            reason="missing",
            status=status,
        )
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or (
        operation.kind in {"login", "unwrap"} and status == HTTPStatus.BAD_REQUEST
    ):
        return _refused(operation, answer, said)
    if trouble := _trouble(answer):
        reason, text = trouble
        return VaultConnectionError(
            f"{operation}: {text} ({said})",
            reason=reason,
            status=status,
            retry_after=answer.retry_after,
        )
    if status < HTTPStatus.BAD_REQUEST:
        return not_vault(operation, f"HTTP {status}", status)
    return VaultError(f"{operation}: {said}", reason="invalid_request", status=status)


def not_vault(operation: Operation, what: str, status: int | None = None) -> VaultConnectionError:
    """Return the error for an answer that Vault would not give."""
    return VaultConnectionError(
        f"{operation}: not a Vault response ({what}); check that VAULT_ADDR leads to Vault itself "
        "and not to a login page or proxy",
        reason="not_vault",
        status=status,
    )


def error_from_exception(
    operation: Operation, error: Exception, *, timeout: float, secrets: tuple[str, ...] = ()
) -> VaultError:
    """Return the error for an exception that came out of the HTTP library or hvac.

    Args:
        operation: What was requested.
        error: The exception.
        timeout: The seconds that the whole call may take, for the message.
        secrets: Values that the message must not show.
    """
    chain = list(_causes(error))
    root = chain[-1]
    # Other text than the system's may be a piece of an answer, that is of a secret.
    words = redact(root, *secrets) if isinstance(root, OSError) else type(root).__name__
    words = " ".join(words.split())[:_LONGEST_WORDS]
    # A connection that ends during the TLS handshake is an outage and no bad certificate.
    cut = any(isinstance(one, ssl.SSLEOFError | ssl.SSLZeroReturnError) for one in chain)
    if isinstance(error, _TLS_ERRORS) and not cut:
        return VaultConfigurationError(
            f"{operation}: TLS failed: {words}; check VAULT_CACERT, VAULT_CLIENT_CERT, "
            "VAULT_CLIENT_KEY and the scheme of VAULT_ADDR",
            reason="tls",
        )
    if isinstance(error, _TIMEOUTS):
        return VaultConnectionError(
            f"{operation}: no answer within {timeout:g} s; see whether Vault is overloaded, or "
            "raise timeout",
            reason="timeout",
        )
    if isinstance(error, _BODY_ERRORS) or _speaks_no_http(root):
        return not_vault(operation, f"an answer that cannot be read: {type(root).__name__}")
    if isinstance(error, _CONNECTION_ERRORS):
        reason, text = "unreachable", f"unreachable: {words}; see whether Vault runs"
        if any(isinstance(one, UnansweredTlsError) for one in chain):
            reason = "tls"
            text = (
                f"the server ended the TLS connection without an answer: {words}; see whether it "
                "requires a client certificate (VAULT_CLIENT_CERT and VAULT_CLIENT_KEY)"
            )
        return VaultConnectionError(f"{operation}: {text} and VAULT_ADDR is right", reason=reason)
    if isinstance(error, OSError | ValueError):
        # Its text may hold a header, that is the token: the kind of error has to do.
        return VaultConfigurationError(
            f"{operation}: the request could not be made ({type(error).__name__}); check "
            "VAULT_ADDR, VAULT_CACERT, VAULT_CLIENT_CERT and VAULT_CLIENT_KEY",
            reason="setting",
        )
    return VaultError(f"{operation}: {type(error).__name__}", reason="unexpected")


# An answer's body is read from urllib3 itself, under requests.
_TLS_ERRORS = (requests.exceptions.SSLError, urllib3.exceptions.SSLError)
_TIMEOUTS = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
_CONNECTION_ERRORS = (
    urllib3.exceptions.ProtocolError,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    ConnectionError,
)
_BODY_ERRORS = (
    requests.exceptions.ContentDecodingError,
    requests.exceptions.InvalidJSONError,
    urllib3.exceptions.DecodeError,
)


def root_of(error: BaseException) -> BaseException:
    """Return the first cause of *error*, however the libraries wrapped it."""
    return list(_causes(error))[-1]


def forget_context(error: BaseException, ambient: BaseException | None) -> None:
    """Cut off what the caller was handling when the request failed: it is no cause of the failure.

    Args:
        error: The failure.
        ambient: What was being handled before the request was sent; None: nothing.
    """
    if ambient is None:
        return
    for one in list(_causes(error)):
        if one.__context__ is ambient:
            one.__context__ = None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__ or _wrapped(one)


def _wrapped(error: BaseException) -> BaseException | None:
    # requests and urllib3 also carry the true cause as an argument or as `reason`.
    candidates = [getattr(error, "reason", None), *error.args]
    return next((one for one in candidates if isinstance(one, BaseException)), None)


def _speaks_no_http(root: BaseException) -> bool:
    # An answer that ends too early is of this class as well, but it is an outage.
    return isinstance(root, http.client.HTTPException) and not isinstance(
        root, ConnectionError | http.client.IncompleteRead
    )


_UNINITIALISED = ("uninitialised", "Vault is not initialised; run `vault operator init`")
_TROUBLE: dict[int | str, tuple[str, str]] = {
    HTTPStatus.PRECONDITION_FAILED: (
        "standby_behind",
        "this standby does not have the latest state yet; try again",
    ),
    HTTPStatus.TOO_MANY_REQUESTS: (
        "rate_limited",
        "too many requests; send fewer, or raise the quota",
    ),
    HTTPStatus.NOT_IMPLEMENTED: _UNINITIALISED,
    "uninitialised": _UNINITIALISED,
    "sealed": ("sealed", "Vault is sealed; unseal it"),
}


def _trouble(answer: Answer) -> tuple[str, str] | None:
    told = answer.state if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    if known := _TROUBLE.get(told or answer.status):
        return known
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error", "Vault or a proxy before it fails; see its log"
    return None


def _refused(operation: Operation, answer: Answer, said: str) -> VaultAuthenticationError:
    if operation.kind == "unwrap":
        return VaultAuthenticationError(
            f"{operation}: the wrapping token was used already, or has expired ({said}); if it "
            "was not used here, somebody else has what it held: revoke that, and wrap a new one",
            reason="wrapping_token_used",
            status=answer.status,
        )
    if operation.kind == "login":
        return VaultAuthenticationError(
            f"{operation}: the login was refused ({said}); {operation.check}",
            reason="login_refused",
            status=answer.status,
        )
    unauthorized = answer.status == HTTPStatus.UNAUTHORIZED and answer.state is None
    if unauthorized or answer.state == "token_unknown":
        return VaultAuthenticationError(
            f"{operation}: the token is invalid, expired or revoked ({said}); get a new one",
            reason="token_invalid",
            status=answer.status,
        )
    known = answer.state == "token_known"
    return VaultAuthenticationError(
        f"{operation}: permission denied by policy ({said}); grant the token the path"
        f"{'' if known else ', or get a new one if it has ended'}{_shape_hint(operation)}",
        reason="permission_denied",
        status=answer.status,
    )


def _not_found(operation: Operation, answer: Answer) -> VaultError:
    place = operation.path
    metadata = answer.metadata or {}
    # Only what looks like a number and a time: the rest of an answer may be anything.
    version = metadata.get("version")
    version = version if isinstance(version, int) else operation.version
    if answer.state == "namespace_missing":
        reason, state = "namespace", "there is no such namespace; check VAULT_NAMESPACE"
    elif answer.errors:
        mount = f"KV mount {place.mount!r}" if place else "such mount"
        setting = "the role's path" if operation.kind == "lease" else "mount_point"
        reason, state = "mount", f"there is no {mount}; check {setting}"
    elif metadata.get("destroyed"):
        reason, state = "destroyed", f"version {version} is destroyed for ever; write a new one"
    elif deleted_at := metadata.get("deletion_time"):
        when = f" at {deleted_at}" if _TIME.fullmatch(str(deleted_at)) else ""
        reason = "deleted"
        state = f"version {version} was deleted{when}; undelete it or write a new one"
    elif operation.version is not None:
        reason, state = "version_missing", f"version {operation.version} not found"
    elif operation.kind == "list":
        reason, state = "missing", "folder not found: there is no such folder"
    elif place is not None:
        reason, state = "missing", "secret not found: there is no such secret"
    else:
        reason, state = "missing", "not found"
    looked = "" if operation.kv is None else f" (KV version {operation.kv} was asked)"
    # What was deleted was there: its path is right.
    hint = _shape_hint(operation) if reason in {"missing", "mount"} else ""
    return VaultSecretNotFoundError(
        f"{operation}: {state}{looked}{hint}",
        reason=reason,
        status=answer.status,
    )


def _shape_hint(operation: Operation) -> str:
    place = operation.path
    if place is None:
        return ""
    added = f"{place.mount}/" if operation.kv == 1 else f"{place.mount}/data/"
    starts = (added,) if operation.kv == 1 else (added, f"{place.mount}/", "data/", "metadata/")
    for start in starts:
        if place.path.startswith(start):
            return (
                f" (the client itself puts {added!r} in front: "
                f"did you mean {place.path.removeprefix(start)!r}?)"
            )
    return _mount_hint(place.path)


def _mount_hint(path: str) -> str:
    """Name the mount that the path may begin with, which no path here can name."""
    first, slash, _ = path.partition("/")
    mount, colon, inside = first.partition(":")
    if colon:
        inside = f"{inside}{path.removeprefix(first)}"
        return (
            f" (another mount: pass mount_point={mount!r} and the path {inside!r})"
            if mount and inside
            else ""
        )
    if not slash:
        return ""
    inside = path.removeprefix(f"{first}/")
    return (
        f" (if {first!r} is another mount: pass mount_point={first!r}, or "
        f"'{first}:{inside}' where a setting takes mount:path)"
    )
