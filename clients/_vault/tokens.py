"""Where a call's token comes from; here, from the caller."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

from .._shared.credential_life import CredentialLife
from ..errors import VaultAuthenticationError, VaultError
from .answers import token_life_in
from .api import lookup_self
from .errors import Operation, not_vault
from .grant import Grant

if TYPE_CHECKING:
    from .retry import Deadline
    from .settings import Masked
    from .transport import VaultTransport

__all__ = ["StaticToken", "TokenSource"]

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
        """Return another token after *refused* got a 403; None when that would mend nothing."""

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

    def __init__(self, transport: VaultTransport, token: Masked) -> None:
        self._transport = transport
        self._grant: Grant = Grant(token=token)

    def current(self, deadline: Deadline) -> Grant:
        """Return the token."""
        del deadline
        return self._grant

    def replacement(
        self, refused: Grant, refusal: VaultAuthenticationError, deadline: Deadline
    ) -> None:
        """Return None: there is no other token."""

    def verify(self, deadline: Deadline) -> None:
        """Look the token up; one that may not look itself up passes, for a read is the proof.

        Raises:
            VaultAuthenticationError: It is invalid, expired or revoked.
        """
        operation = Operation(
            kind="token", text="verify the token", addr=self._transport.options.addr
        )
        asked_at = time.monotonic()
        try:
            # The answer is kept out of this frame: it repeats the token.
            known = token_life_in(
                self._transport.call(
                    operation, lookup_self, deadline=deadline, token=self._grant.token
                )
            )
        except VaultAuthenticationError as refusal:
            if refusal.reason != "permission_denied":
                raise
        else:
            if known is None:
                raise not_vault(operation, "HTTP 200 without a token's data")
            self._grant = replace(
                self._grant, issued_at=asked_at - known.age, ends_at=asked_at + known.remaining
            )

    def looked_up(self, grant: Grant, deadline: Deadline) -> Grant:
        """Return the token with its present end, where it may look itself up."""
        del grant
        try:
            self.verify(deadline)
        except VaultError as error:
            _log.debug("the token's end is not known anew: %s", error)
        return self._grant

    def revoke(self) -> None:
        """Do nothing: the token is the caller's."""
