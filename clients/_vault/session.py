"""One process's connection to Vault: a transport and a token, which a call may replace once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .._shared.secrecy import Masked
from .._shared.telemetry import is_enabled
from ..errors import VaultAuthenticationError, VaultConnectionError, VaultError
from ..vault_auth import Agent, Token
from .api import read_health
from .errors import Operation, not_vault
from .login_methods import login_for
from .relogin import LoginTokens
from .token_sources import AgentTokens, StaticToken, TokenSource, WrappedToken
from .transport import Body, VaultTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._shared.telemetry import Call
    from .retry import Deadline
    from .settings import VaultOptions
    from .token_grant import Grant
    from .transport import VaultAdapter

__all__ = ["VaultSession"]


class VaultSession:
    """The transport and the token of one process, which no other process may share.

    Args:
        options: The client's settings.
    """

    def __init__(self, options: VaultOptions) -> None:
        self.options = options
        self.transport = VaultTransport(options)
        self.tokens = _token_source(self.transport)

    def verify(self, deadline: Deadline) -> None:
        """Log in, or verify the token.

        Raises:
            VaultError: There is no working token.
        """
        try:
            self.tokens.verify(deadline)
        except (VaultAuthenticationError, VaultConnectionError) as error:
            raise self._explained(error) from error.__cause__

    def request(
        self,
        operation: Operation,
        send: Callable[[VaultAdapter], Body],
        deadline: Deadline,
        *,
        relogin: bool = True,
    ) -> Body:
        """Return the answer to an authenticated request.

        After a 403 it is sent once more, where a new login may help.

        Args:
            operation: What is requested, for messages.
            send: Makes the request.
            deadline: When all of it must be over.
            relogin: Whether to log in again after a 403, where that may help.

        Raises:
            VaultError: Whatever went wrong.
        """
        return self.request_as(operation, send, deadline, relogin=relogin)[0]

    def request_as(
        self,
        operation: Operation,
        send: Callable[[VaultAdapter], Body],
        deadline: Deadline,
        *,
        retries: int | None = None,
        relogin: bool = True,
    ) -> tuple[Body, Grant]:
        """Send a request, and return the answer with the token that it was given to.

        Args:
            operation: What is requested, for messages.
            send: Makes the request.
            deadline: When all of it must be over.
            retries: Further tries; the client's number when None.
            relogin: Whether to log in again after a 403, where that may help.

        Raises:
            VaultError: Whatever went wrong.
        """
        if not is_enabled():
            return self._request_as(operation, send, deadline, retries, relogin=relogin)
        # One span for both tries; a login between them has its own.
        with self.transport.telemetry.call(operation.kind) as recorded:
            return self._request_as(
                operation, send, deadline, retries, relogin=relogin, recorded=recorded
            )

    def _request_as(
        self,
        operation: Operation,
        send: Callable[[VaultAdapter], Body],
        deadline: Deadline,
        retries: int | None,
        *,
        relogin: bool,
        recorded: Call | None = None,
    ) -> tuple[Body, Grant]:
        transport = partial(
            self.transport.call,
            operation,
            send,
            deadline=deadline,
            retries=retries,
            recorded=recorded,
        )
        grant = self.tokens.current(deadline)
        try:
            try:
                body = transport(token=grant.token)
            except VaultAuthenticationError as refusal:
                other = self.tokens.replacement(grant, refusal, deadline) if relogin else None
                if other is None:
                    raise
                grant = other
                body = transport(token=grant.token)
        except VaultAuthenticationError as refusal:
            if refusal.reason == "permission_denied":  # by policy, so the token itself is good
                self.tokens.denied(grant)
            raise self._explained(refusal) from refusal.__cause__
        except VaultConnectionError as error:
            raise self._explained(error) from error.__cause__
        self.tokens.accepted(grant)
        return body, grant

    def health(self, deadline: Deadline) -> Body:
        """Return what ``sys/health`` says of a server that is initialised and unsealed.

        Raises:
            VaultConnectionError: It is unreachable, uninitialised or sealed.
        """
        operation = Operation(
            kind="health", text="check the health of Vault", addr=self.options.addr
        )
        body = self._state(operation, deadline)
        if not body.get("initialized"):
            raise VaultConnectionError(
                f"{operation}: Vault is not initialised; run `vault operator init`",
                reason="uninitialised",
            )
        if body.get("sealed"):
            raise VaultConnectionError(f"{operation}: Vault is sealed; unseal it", reason="sealed")
        return body

    def close(self) -> None:
        """Give back the token that was obtained here, and close the connections."""
        try:
            self.tokens.revoke()
        finally:
            self.transport.close()

    def _state(self, operation: Operation, deadline: Deadline) -> Body:
        try:
            body = self.transport.call(operation, read_health, deadline=deadline)
        except VaultConnectionError as error:
            raise self._explained(error) from error.__cause__
        if not isinstance(body.get("initialized"), bool):
            raise not_vault(operation, "HTTP 200 without a health report")
        return body

    def _explained(self, error: VaultError) -> VaultError:
        return self.tokens.explained(error)


def _token_source(transport: VaultTransport) -> TokenSource:
    """Return the source that the options describe."""
    auth = transport.options.auth
    if isinstance(auth, Agent):
        return AgentTokens(transport)
    if isinstance(auth, Token) and auth.wrapped is not None:
        return WrappedToken(transport, auth.wrapped)
    if isinstance(auth, Token) and isinstance(auth.token, Masked):
        return StaticToken(transport, auth.token)
    return LoginTokens(transport, login_for(auth))
