"""How each way to log in of ``clients.vault_auth`` gets a token, each time that one is needed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

from .._shared.secrecy import Masked
from ..errors import VaultAuthenticationError, VaultError
from ..vault_auth import AppRole, Certificate, Jwt, Kubernetes, Token, TokenFile
from .api import login, read_login
from .errors import Operation
from .sources import call_for_text, checked_jwt, claims_of, read_text
from .token_grant import USABLE_UNTIL, Grant, owners_grant, refresh_part, request_token
from .transport import VaultTransport
from .wrapping import unwrapped_secret_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from .retry import Deadline

__all__ = ["Login", "LoginRequest", "RepeatableAuth", "login_for"]

#: What can log in again.
RepeatableAuth: TypeAlias = Token | TokenFile | AppRole | Kubernetes | Jwt | Certificate

#: Seconds in which the owner of an invalid token may replace it.
_LATE = 1.0
_POLL = 0.05
_SECRET_FIELDS = frozenset({"jwt", "secret_id"})
_LONGEST_CLAIM = 100
_LAST_MOMENT = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """One login that is due.

    Args:
        transport: Where to log in.
        clock: Seconds that only go forward.
        deadline: When it must be over.
        generation: The number of a new token.
        retries: Further tries; the client's number when None.
        known: The present token, if any.
        refused: Whether Vault refused the present token.
        denied: Whether that was a policy's denial, for which the token itself is good.
    """

    transport: VaultTransport
    clock: Callable[[], float]
    deadline: Deadline
    generation: int
    retries: int | None = None
    known: Grant | None = None
    refused: bool = False
    denied: bool = False


class Login(ABC):
    """A way to log in, again and again.

    Attributes:
        text: What it does, for messages.
        owned: Whether its tokens are made for this client, which renews and revokes them.
    """

    text: str
    owned: bool

    @abstractmethod
    def obtain(self, request: LoginRequest) -> Grant | None:
        """Return a token; None where there is still only the one that Vault refused.

        Raises:
            VaultError: There is none to be had.
        """

    def has_another(self, known: Grant) -> bool:
        """Return whether a denied token was replaced, where finding that out costs no request."""
        del known
        return False


def login_for(auth: RepeatableAuth) -> Login:
    """Return how *auth* logs in."""
    match auth:
        case Token() | TokenFile():
            return _OwnersToken(auth)
        case AppRole():
            return _AppRoleLogin(auth)
        case Kubernetes() | Jwt():
            return _JwtLogin(auth)
        case Certificate():
            return _CertificateLogin(auth)


class _OwnersToken(Login):
    """A token that somebody else obtains, and may rotate."""

    owned = False

    def __init__(self, auth: Token | TokenFile) -> None:
        self._auth = auth
        #: An invalid token that was not replaced in time.
        self._given_up: Masked | None = None
        if isinstance(auth, TokenFile):
            self.text = f"use the token in the file {auth.path!r}"
        else:
            self.text = "use the token that the callable returned"

    def obtain(self, request: LoginRequest) -> Grant | None:
        known = request.known.token if request.known is not None else None
        token = self._token()
        if request.refused and _same(token, known):
            # After a denial by policy there is no other token to wait for.
            token = token if request.denied else self._successor(token, request)
            if _same(token, known):
                return None
        while True:
            try:
                return self._looked_up(token, request)
            except VaultAuthenticationError:
                # Its owner replaces it at the end of its life, and may be a moment late; or the
                # file was read before it was whole, which may be so more than once.
                newer = self._successor(token, request)
                if _same(newer, token):
                    raise
                token = newer

    def has_another(self, known: Grant) -> bool:
        """Return whether the file holds another token by now."""
        if not isinstance(self._auth, TokenFile):
            return False
        try:
            return not _same(self._token(), known.token)
        except VaultError:
            return False

    def _successor(self, token: Masked, request: LoginRequest) -> Masked:
        """Return the token that replaces an invalid one; the same one when none does."""
        if not isinstance(self._auth, TokenFile) or _same(token, self._given_up):
            return token
        patience = _LATE if request.known is not None else _POLL
        deadline = request.deadline.sooner(min(patience, request.deadline.remaining() / 2))
        while deadline.remaining():
            time.sleep(_POLL)
            newer = self._token()
            if not _same(newer, token):
                return newer
        self._given_up = token
        return token

    def _looked_up(self, token: Masked, request: LoginRequest) -> Grant:
        known = request.known
        kept = known is not None and _same(token, known.token)
        grant = owners_grant(
            request.transport,
            Operation(kind="token", text=self.text, addr=request.transport.options.addr),
            token,
            generation=known.generation if kept and known is not None else request.generation,
            clock=request.clock,
            deadline=request.deadline,
            retries=request.retries,
        )
        # It is read again while it lives, but not ever more often towards its end.
        now = request.clock()
        life = grant.ends_at - now
        usable_until = now + life * USABLE_UNTIL
        refresh_at = max(now + life * refresh_part(), min(now + _LATE, usable_until))
        return replace(grant, refresh_at=refresh_at, usable_until=usable_until)

    def _token(self) -> Masked:
        if isinstance(self._auth, TokenFile):
            return read_text("the token", self._auth.path)
        produce = self._auth.token
        if produce is None or isinstance(produce, Masked):
            raise AssertionError("only a callable gives another token")
        return call_for_text("the token", produce)


def _same(one: Masked, other: Masked | None) -> bool:
    return other is not None and one.reveal() == other.reveal()


class _PostedLogin(Login):
    """A login that sends credentials to an auth method, which makes a token for us.

    Args:
        text: What it does, for messages.
        check: What to check when it is refused.
        mount: Where the auth method is mounted.
    """

    owned = True

    def __init__(self, text: str, check: str, mount: str) -> None:
        self.text = text
        self._check = f"check {check}, the mount {mount!r} and the namespace"
        self._mount = mount

    @abstractmethod
    def _credentials(self, request: LoginRequest) -> dict[str, Masked]:
        """Return what to send, read again."""

    #: Whether a second reading, after a refusal, may give something else.
    _from_file = False

    def obtain(self, request: LoginRequest) -> Grant:
        credentials = self._credentials(request)
        try:
            return self._send(request, credentials)
        except VaultAuthenticationError as error:
            refusal = error
        if self._from_file and request.deadline.remaining():
            newer = self._credentials(request)
            if any(not _same(newer[name], credentials[name]) for name in newer):
                try:
                    return self._send(request, newer)
                except VaultAuthenticationError as error:
                    refusal, credentials = error, newer
        raise self._explained(refusal, credentials, request)

    def _send(self, request: LoginRequest, credentials: dict[str, Masked]) -> Grant:
        return request_token(
            request.transport,
            self._operation(request),
            partial(login, mount=self._mount, credentials=credentials),
            generation=request.generation,
            clock=request.clock,
            deadline=request.deadline,
            retries=request.retries,
            # No names: a role's would be masked in every word that it is a part of.
            secrets=tuple(
                part
                for name, one in credentials.items()
                if name in _SECRET_FIELDS
                for part in _parts_of(one)
            ),
        )

    def _explained(
        self,
        refusal: VaultAuthenticationError,
        credentials: dict[str, Masked],
        request: LoginRequest,
    ) -> VaultAuthenticationError:
        """Return the refusal with what can be found out about it."""
        del credentials
        if not self._mount_is_missing(refusal, request):
            return refusal
        return VaultAuthenticationError(
            f"{self._operation(request)}: there is no auth method at 'auth/{self._mount}' (HTTP "
            f"{refusal.status}); enable it, or {self._check}",
            reason="mount",
            status=refusal.status,
        )

    def _mount_is_missing(self, refusal: VaultAuthenticationError, request: LoginRequest) -> bool:
        # Where there is no auth method the server answers as to a login that it refuses. To a
        # read, which no auth method has, one that is there gives another status.
        if refusal.status != HTTPStatus.FORBIDDEN or not request.deadline.remaining():
            return False
        try:
            request.transport.call(
                self._operation(request),
                partial(read_login, mount=self._mount),
                deadline=request.deadline,
                retries=0,
            )
        except VaultError as error:
            return error.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}
        return False

    def _operation(self, request: LoginRequest) -> Operation:
        return Operation(
            kind="login", text=self.text, addr=request.transport.options.addr, check=self._check
        )


class _AppRoleLogin(_PostedLogin):
    def __init__(self, auth: AppRole) -> None:
        super().__init__("log in by AppRole", "role id, secret id", auth.mount)
        self._auth = auth
        self._from_file = auth.secret_id_file is not None

    def _credentials(self, request: LoginRequest) -> dict[str, Masked]:
        return {"role_id": self._auth.role_id, "secret_id": self._secret_id(request)}

    def _secret_id(self, request: LoginRequest) -> Masked:
        auth = self._auth
        if auth.wrapped_secret_id is not None:
            return unwrapped_secret_id(
                request.transport, auth.wrapped_secret_id, auth.mount, request.deadline
            )
        if auth.secret_id_file is not None:
            return read_text("the secret id", auth.secret_id_file)
        if auth.secret_id is None:
            raise AssertionError("an AppRole has its secret id in one of three ways")
        return auth.secret_id


class _JwtLogin(_PostedLogin):
    def __init__(self, auth: Jwt | Kubernetes) -> None:
        if isinstance(auth, Kubernetes):
            super().__init__(
                f"log in by Kubernetes as role {auth.role!r}",
                "the role, the service accounts and namespaces bound to it",
                auth.mount,
            )
        else:
            super().__init__(
                f"log in by JWT as role {auth.role!r}",
                "the role, its bound audiences and claims, its keys",
                auth.mount,
            )
        self._auth = auth
        self._from_file = isinstance(auth, Kubernetes) or auth.path is not None

    def _credentials(self, request: LoginRequest) -> dict[str, Masked]:
        del request
        return {"role": Masked(self._auth.role), "jwt": self._jwt()}

    def _jwt(self) -> Masked:
        auth = self._auth
        if isinstance(auth, Kubernetes):
            name = "the service account's token"
            return checked_jwt(
                f"{name} in the file {auth.token_path!r}",
                read_text(
                    name,
                    auth.token_path,
                    missing="not in a pod? Choose another login, or pass token_path",
                ),
            )
        if auth.path is not None:
            return checked_jwt(
                f"the JWT in the file {auth.path!r}", read_text("the JWT", auth.path)
            )
        if isinstance(auth.token, Masked):
            return auth.token
        if auth.token is None:
            raise AssertionError("a Jwt has its token in one of three ways")
        return checked_jwt(
            "the JWT that the callable returned", call_for_text("the JWT", auth.token)
        )

    def _explained(
        self,
        refusal: VaultAuthenticationError,
        credentials: dict[str, Masked],
        request: LoginRequest,
    ) -> VaultAuthenticationError:
        explained = super()._explained(refusal, credentials, request)
        if explained is not refusal:
            return explained
        reviewed = isinstance(self._auth, Kubernetes) and refusal.status == HTTPStatus.FORBIDDEN
        if reviewed:
            refusal = VaultAuthenticationError(
                f"{refusal}; or Vault could not have the JWT reviewed (TokenReview: "
                "system:auth-delegator)",
                reason=refusal.reason,
                status=refusal.status,
            )
        reason, words = _state_of(credentials["jwt"])
        if not words:
            return refusal
        return VaultAuthenticationError(
            f"{refusal}; {words}", reason=reason or refusal.reason, status=refusal.status
        )


def _parts_of(secret: Masked) -> list[Masked]:
    """Return the secret, and the parts of a JWT that an answer may repeat by themselves."""
    return [secret, *(Masked(part) for part in secret.reveal().split(".")[1:])]


def _state_of(jwt: Masked) -> tuple[str | None, str]:
    """Return what a refused JWT says of itself: a reason, where it is one, and words."""
    # The server's own text says which claim it disliked, but only in words.
    claims, now = claims_of(jwt), time.time()
    ends, begins = _moment(claims.get("exp")), _moment(claims.get("nbf"))
    if ends is not None and ends <= now:
        return "jwt_expired", f"the JWT expired {_whole(now - ends)} s ago: have a new one issued"
    if begins is not None and begins > now:
        return "jwt_not_yet_valid", (
            f"the JWT is valid only in {_whole(begins - now)} s: compare the clocks"
        )
    audience = claims.get("aud")
    if audience is None:
        return None, "the JWT names no audience"
    shown = repr(audience)
    if len(shown) > _LONGEST_CLAIM or not shown.isprintable():
        return None, ""
    return None, f"the JWT is for the audience {shown}"


def _moment(claim: object) -> float | None:
    # JSON has numbers that no float holds.
    if isinstance(claim, bool) or not isinstance(claim, int | float):
        return None
    return float(claim) if abs(claim) < _LAST_MOMENT else None


def _whole(seconds: float) -> str:
    return f"{seconds:.0f}"


class _CertificateLogin(_PostedLogin):
    def __init__(self, auth: Certificate) -> None:
        super().__init__(
            "log in by certificate", "the certificate, its issuer and the role", auth.mount
        )
        self._auth = auth

    def _credentials(self, request: LoginRequest) -> dict[str, Masked]:
        del request
        return {} if self._auth.role is None else {"name": Masked(self._auth.role)}

    def _send(self, request: LoginRequest, credentials: dict[str, Masked]) -> Grant:
        # A connection that is open shows the certificate that it was opened with.
        with closing(VaultTransport(request.transport.options)) as own:
            return super()._send(replace(request, transport=own), credentials)
