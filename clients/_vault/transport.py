"""Requests to Vault: all of them are sent from here.

Each call gets an adapter of its own with its token, deadline and operation, so that threads share
nothing but the session's connections.
"""

from __future__ import annotations

import json
import sys
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urljoin, urlsplit

import hvac.exceptions
import requests
import urllib3.exceptions
from hvac.adapters import Adapter
from urllib3 import Timeout

from .._shared.secrecy import redact
from .._shared.telemetry import Telemetry, is_enabled, suppressed
from ..errors import VaultError
from .errors import (
    Answer,
    Operation,
    error_from_answer,
    error_from_exception,
    forget_context,
    not_vault,
    root_of,
)
from .http import make_session
from .probes import State, probe_for
from .retry import Deadline, retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._shared.secrecy import Masked
    from .._shared.telemetry import Call
    from .settings import VaultOptions

__all__ = ["Body", "VaultAdapter", "VaultTransport", "without_frames"]

#: A JSON object as the server sent it; empty for an answer without a body.
Body: TypeAlias = dict[str, Any]

_CHUNK = 65536
_PORTS = {"http": 80, "https": 443}
#: Vault refuses requests over 32 MiB by default, so no honest secret is larger.
_LARGEST_BODY = 32 * 1024 * 1024
#: The HTTP library refuses a time-out of zero.
_SHORTEST = 0.001

_SENT_ONCE = frozenset({"login", "unwrap", "lease", "renew", "revoke"})
#: Requests that show a credential instead of a token.
_LOGINS = frozenset({"login", "unwrap"})

_DRIVER_ERRORS = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    ValueError,
)

_T = TypeVar("_T")

if TYPE_CHECKING:
    _AdapterOfBodies = Adapter[Body]
else:  # hvac's class is generic in its stubs alone
    _AdapterOfBodies = Adapter


class VaultTransport:
    """A session with its connections; safe to share between threads, not between processes.

    Args:
        options: Address, TLS files, namespace, retries.
    """

    def __init__(self, options: VaultOptions) -> None:
        self.options = options
        self._closed = False
        server = urlsplit(options.addr)
        self.telemetry = Telemetry(
            {
                "server.address": server.hostname or options.addr,
                "server.port": server.port or _PORTS.get(server.scheme, 8200),
            },
            "vault",
            system="vault",
        )
        self.session = make_session()
        # hvac lets the session's own values win over the adapter's, but not all: set both.
        self.session.verify = options.verify
        self.session.cert = options.cert

    def call(
        self,
        operation: Operation,
        send: Callable[[VaultAdapter], _T],
        *,
        deadline: Deadline,
        token: Masked | None = None,
        retries: int | None = None,
        secrets: tuple[Masked, ...] = (),
        recorded: Call | None = None,
    ) -> _T:
        """Return what *send* gets from the server, with the tries that the deadline allows.

        Args:
            operation: What is requested, for messages.
            send: Makes one request through the adapter it is given.
            deadline: When all of it must be over.
            token: The token to show, if any.
            retries: Further tries; the client's number when None.
            secrets: What it sends besides that no message may show.
            recorded: What telemetry records of the operation that this is another request of.

        Raises:
            VaultError: Whatever went wrong.
        """

        def attempt(patience: Deadline) -> _T:
            if self._closed:
                raise VaultError(f"{operation}: the client was closed meanwhile", reason="closed")
            adapter = VaultAdapter(self, operation, deadline, patience, token, secrets=secrets)
            try:
                return send(adapter)
            except hvac.exceptions.VaultError as error:
                raise error_from_exception(
                    operation, error, timeout=deadline.timeout, secrets=self.options.secrets()
                ) from None  # it has hvac's frames too
            except BaseException as error:  # noqa: BLE001 - it goes on, without frames
                # Also of an interrupt: the libraries' frames hold what is sent as local variables.
                raise without_frames(error)  # noqa: B904 - the same error, not another one
            finally:
                if recorded is not None and adapter.method is not None:
                    recorded.note("http.request.method", adapter.method.upper())
                if recorded is not None and adapter.status is not None:
                    recorded.note("http.response.status_code", adapter.status)

        tries = self.options.retries if retries is None else retries
        if not is_enabled():
            return retry(attempt, deadline=deadline, retries=tries)
        if recorded is not None:
            with suppressed():
                return retry(attempt, deadline=deadline, retries=tries)
        with self.telemetry.call(operation.kind) as call, suppressed():
            recorded = call
            return retry(attempt, deadline=deadline, retries=tries)

    def close(self) -> None:
        """Close all connections; a call of another thread makes no new ones."""
        self._closed = True
        self.session.close()


class VaultAdapter(_AdapterOfBodies):
    """What hvac's API classes talk to for the length of one request.

    Returns JSON objects alone, and raises our errors alone.
    """

    def __init__(
        self,
        transport: VaultTransport,
        operation: Operation,
        deadline: Deadline,
        patience: Deadline,
        token: Masked | None,
        *,
        secrets: tuple[Masked, ...] = (),
    ) -> None:
        options = transport.options
        super().__init__(
            base_uri=options.addr,
            session=transport.session,
            # The server refuses to tell its health inside a namespace.
            namespace=None if operation.kind == "health" else options.namespace,
            allow_redirects=False,
        )
        self._options = options
        self._operation = operation
        self._deadline = deadline
        self._connect_by = patience
        # What got no answer may have used up a secret id, or made a user: it is not sent again.
        self._answer_by = deadline if operation.kind in _SENT_ONCE else patience
        self._masked_token = token
        self._own_secrets = secrets
        #: The last request's method and the status of its answer, for telemetry.
        self.method: str | None = None
        self.status: int | None = None

    def get_login_token(self, response: Body) -> str:
        """Return the token of a login's answer."""
        return str(response["auth"]["client_token"])

    def request(
        self,
        method: str,
        url: str,
        headers: Any = None,
        raise_exception: bool = True,  # noqa: FBT001, FBT002 - hvac's signature
        **kwargs: Any,
    ) -> Body:
        """Send one request, with at most one redirect inside the same origin.

        Raises:
            VaultError: No success, or no JSON object in it.
        """
        del headers, raise_exception
        kwargs.pop("wrap_ttl", None)  # hvac passes it on everywhere, for an option we do not use
        if method.lower() == "list":
            # Proxies know GET; both servers take it for LIST with this parameter.
            method, kwargs["params"] = "get", {"list": "true"}
        target = self.base_uri + url
        self.method = method
        reply = self._send(method, target, kwargs)
        if not isinstance(reply, Exception) and reply.is_redirect:
            target = self._redirect_target(method, reply)
            reply = self._send(method, target, kwargs | {"params": None})
        if isinstance(reply, Exception):
            error = error_from_exception(
                self._operation,
                reply,
                timeout=self._deadline.timeout,
                secrets=self._secrets(),
            )
            raise error from _scrubbed(reply, self._secrets())
        self.status = reply.status_code
        return self._body(reply)

    def _send(
        self, method: str, url: str, kwargs: dict[str, Any], *, bare: bool = False
    ) -> requests.Response | Exception:
        # Returns a failure instead of raising it: this frame and those below hold the token in
        # local variables, which error reporters collect from a traceback.
        left = self._answer_by.remaining()
        if not left:
            return requests.exceptions.Timeout("the deadline has passed")
        timeout: Any = Timeout(connect=max(self._connect_by.remaining(), _SHORTEST), total=left)
        headers = {"X-Vault-Request": "true"}
        if self._masked_token is not None and not bare:
            headers["X-Vault-Token"] = self._masked_token.reveal()
        if self.namespace and not bare:
            headers["X-Vault-Namespace"] = self.namespace
        ambient = sys.exception()
        try:
            with self.session.request(
                method,
                url,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                verify=self._options.verify,
                cert=self._options.cert,
                stream=True,
                **kwargs,
            ) as reply:
                return self._with_content(reply)
        except _DRIVER_ERRORS as error:
            forget_context(error, ambient)
            return error

    def _with_content(
        self, reply: requests.Response
    ) -> requests.Response | requests.exceptions.RequestException:
        content = bytearray()
        for chunk in reply.raw.stream(_CHUNK, decode_content=True):
            content += chunk
            if len(content) > _LARGEST_BODY:
                return requests.exceptions.ContentDecodingError("the answer is too large")
        reply.raw.release_conn()
        reply._content = bytes(content)  # noqa: SLF001 - what reading .content would set
        return reply

    def _redirect_target(self, method: str, reply: requests.Response) -> str:
        here = urlsplit(reply.url)
        try:
            target = urljoin(reply.url, reply.headers.get("Location", ""))
            there = urlsplit(target)
            port = there.port
        except ValueError:
            raise not_vault(
                self._operation, f"HTTP {reply.status_code} to no URL", reply.status_code
            ) from None
        keeps_method = reply.status_code in {
            HTTPStatus.TEMPORARY_REDIRECT,
            HTTPStatus.PERMANENT_REDIRECT,
        }
        same_origin = (here.scheme, here.netloc) == (there.scheme, there.netloc)
        if same_origin and (keeps_method or method.lower() == "get"):
            return target
        raise not_vault(
            self._operation,
            f"HTTP {reply.status_code} leads to {there.scheme}://{there.hostname}:{port}, "
            "and the token is sent to no other server: set VAULT_ADDR to that one if it is Vault",
            reply.status_code,
        )

    def _body(self, reply: requests.Response) -> Body:
        if reply.status_code == HTTPStatus.NO_CONTENT:
            return {}
        body = _json_of(reply)
        if reply.status_code == HTTPStatus.OK:
            if isinstance(body, dict):
                return body
            kind = reply.headers.get("Content-Type", "without a content type")
            raise not_vault(self._operation, f"HTTP 200, {kind[:60]}", reply.status_code)
        raise self._error_for(reply, body if isinstance(body, dict) else {})

    def _error_for(self, reply: requests.Response, body: Body) -> VaultError:
        errors = body.get("errors")
        told = errors if isinstance(errors, list) else []
        data = body.get("data")
        metadata = data.get("metadata") if isinstance(data, dict) else None
        return error_from_answer(
            self._operation,
            Answer(
                status=reply.status_code,
                errors=tuple(redact(one, *self._secrets()) for one in told),
                metadata=metadata if isinstance(metadata, dict) else None,
                retry_after=_seconds(reply.headers.get("Retry-After")),
                state=self._state(reply.status_code, told=bool(told)),
            ),
        )

    def _state(self, status: int, *, told: bool) -> State | None:
        """Find out what the answer to the request tells in words alone."""
        probe = probe_for(
            status,
            told=told,
            namespace=bool(self.namespace),
            login=self._operation.kind in _LOGINS,
        )
        if probe is None or self._operation.kind == "health":
            return None
        reply = self._send(
            "get", self.base_uri + probe.path, {"params": probe.params}, bare=not probe.as_caller
        )
        if isinstance(reply, Exception):
            return None
        body = _json_of(reply)
        return probe.read(reply.status_code, body if isinstance(body, dict) else {})

    def _secrets(self) -> tuple[str, ...]:
        own = (*self._own_secrets, *filter(None, [self._masked_token]))
        return (*self._options.secrets(), *(one.reveal() for one in own))


def without_frames(error: BaseException) -> BaseException:
    """Return *error* without the frames that it and what came before it have passed through."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


def _json_of(reply: requests.Response) -> object:
    try:
        return json.loads(reply.content)
    except (ValueError, RecursionError):
        return None


def _seconds(retry_after: str | None) -> float | None:
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:  # the other form is a date: Vault sends none, but proxies do
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _scrubbed(error: Exception, secrets: tuple[str, ...]) -> OSError | None:
    """Return the system's own error as a cause that can be shown; None where there is none.

    A library's may hold a header with the token, or a piece of an answer.
    """
    root = root_of(error)
    if not isinstance(root, OSError) or isinstance(root, requests.exceptions.RequestException):
        return None
    if redact(repr(root), *secrets) != repr(root):
        return None
    root.__traceback__ = None  # its frames hold the token's header
    return root
