"""Where the token of a call comes from; here, from the caller or from an agent."""

from __future__ import annotations

import copy
import logging
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

from .._shared.credential_life import CredentialLife
from ..errors import VaultAuthenticationError, VaultError
from .errors import Operation
from .token_grant import Grant, owners_grant
from .wrapping import unwrapped_token

if TYPE_CHECKING:
    from .._shared.secrecy import Masked
    from .retry import Deadline
    from .transport import VaultTransport

__all__ = ["AgentTokens", "StaticToken", "TokenSource", "WrappedToken"]

_log = logging.getLogger("clients.vault")


class TokenSource(ABC):
    """Gives the token for a call."""

    _grant: Grant | None = None

    @abstractmethod
    def current(self, deadline: Deadline) -> Grant:
        """Return a token that should work, getting or renewing it where needed."""

    @abstractmethod
    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> Grant | None:
        """Return another token after *refused* got a 403; None when that would not help."""

    def accepted(self, grant: Grant) -> None:  # noqa: B027 - only a source of many tokens cares
        """Note that the server took the token of *grant*."""

    def denied(self, grant: Grant) -> None:  # noqa: B027 - likewise
        """Note that a policy denies what the token of *grant* was shown for."""

    @abstractmethod
    def verify(self, deadline: Deadline) -> None:
        """Raise when there is clearly no working token."""

    def looked_up(self, grant: Grant, deadline: Deadline) -> Grant:
        """Return *grant* as it stands now; its owner may have renewed it."""
        del deadline
        return grant

    def counts(self) -> tuple[int, int]:
        """Return the numbers of logins and of renewals that this source has made."""
        return 0, 0

    def explained(self, error: VaultError) -> VaultError:
        """Return the error of a request with what the way to log in adds to it."""
        return error

    def life(self) -> CredentialLife:
        """Return the age of the present token, and how long it still lives unless renewed."""
        grant = self._grant
        if grant is None:
            return CredentialLife(0.0, 0.0)
        return CredentialLife.between(grant.issued_at, grant.ends_at)

    @abstractmethod
    def revoke(self) -> None:
        """Give back what was obtained here."""


class StaticToken(TokenSource):
    """The caller's own token: neither renewed nor revoked by us.

    Args:
        transport: Where to ask about it.
        token: The token.
    """

    def __init__(self, transport: VaultTransport, token: Masked | None) -> None:
        self._transport = transport
        self._grant: Grant = Grant(token=token)

    def current(self, deadline: Deadline) -> Grant:
        """Return the token."""
        del deadline
        return self._grant

    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> Grant | None:
        """Return None: there is no other token."""

    def verify(self, deadline: Deadline) -> None:
        """Look the token up; one that may not look itself up is accepted, until a read fails.

        Raises:
            VaultAuthenticationError: It is invalid, expired or revoked.
        """
        self._grant = owners_grant(
            self._transport, self._operation(), self._grant.token, deadline=deadline
        )

    def looked_up(self, grant: Grant, deadline: Deadline) -> Grant:
        """Return the token with its present end, where it may look itself up."""
        del grant
        try:
            self.verify(deadline)
        except VaultError as error:
            _log.debug("the token's new end is not known: %s", error)
        return self._grant

    def revoke(self) -> None:
        """Do nothing: the token is the caller's."""

    def _operation(self) -> Operation:
        return Operation(kind="token", text="verify the token", addr=self._transport.options.addr)


class WrappedToken(StaticToken):
    """The caller's own token, which comes response-wrapped.

    Args:
        transport: Where to unwrap it.
        wrapping: The wrapping token.
    """

    def __init__(self, transport: VaultTransport, wrapping: Masked) -> None:
        super().__init__(transport, None)
        self._wrapping = wrapping

    def current(self, deadline: Deadline) -> Grant:
        """Return the token; the first call of the process unwraps it.

        Raises:
            VaultError: As for ``unwrapped_token``.
        """
        if self._grant.token is None:
            self._grant = Grant(token=unwrapped_token(self._transport, self._wrapping, deadline))
        return self._grant

    def verify(self, deadline: Deadline) -> None:
        """Unwrap the token, and look it up.

        Raises:
            VaultError: It cannot be unwrapped, or is invalid, expired or revoked.
        """
        self.current(deadline)
        super().verify(deadline)


#: Seconds that an agent, whose token was refused, has to log in again.
_AGENT_PAUSE = 0.25


class AgentTokens(StaticToken):
    """The token that an agent adds to each request; this client never sees it.

    Args:
        transport: The way to the agent.
    """

    def __init__(self, transport: VaultTransport) -> None:
        super().__init__(transport, None)

    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> Grant | None:
        """Return the same grant once: the agent may have another token in a moment."""
        if refusal.reason == "permission_denied" or deadline.remaining() <= _AGENT_PAUSE:
            return None
        time.sleep(_AGENT_PAUSE)
        return refused

    def life(self) -> CredentialLife:
        """Return the life of the token that the agent added at construction, while it lasts.

        After that the agent adds another one, whose end it does not tell.
        """
        life = super().life()
        return life if life.remaining else replace(life, remaining=None)

    def explained(self, error: VaultError) -> VaultError:
        """Return the error, with whether the agent failed or the server behind it."""
        if error.reason == "unreachable":
            told = "that is the agent itself: see whether it runs"
        elif error.reason in {"timeout", "server_error"}:
            told = "the agent answers, or at least listens: check the server behind it"
        elif error.reason == "token_invalid":
            told = (
                "the agent adds no token that Vault knows: see that it has logged in, and that "
                "its use_auto_auth_token is true"
            )
        else:
            return error
        named = copy.copy(error)
        named.args = (f"{error}; {told}", *error.args[1:])
        named.__cause__ = error.__cause__
        return named

    def _operation(self) -> Operation:
        return Operation(
            kind="token",
            text="verify the token that the agent adds",
            addr=self._transport.options.addr,
        )
