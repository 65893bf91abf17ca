"""Make connections: redis-py opens sockets and speaks the protocol, with our own handshake."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.retry import Retry

from .._shared.interrupts import forget_locals
from .._shared.telemetry import Telemetry
from .errors import ServerMoved, UnexpectedReply, server_code
from .protocol import Arguments, pack, send_whole, start_parser
from .silence import AnyConnection, SilentServers
from .url import Address, ValkeyTarget, parse_valkey_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._shared.rotating_url import Candidate, UrlSource
    from .settings import Limits

__all__ = [
    "ConnectionFactory",
    "connection_class",
]

_REFUSED = "WRONGPASS"


class ConnectionFactory:
    """Makes unconnected redis-py connections that authenticate themselves when they connect.

    Args:
        source: Gives the URL, and is called for every new connection, so that credentials may
            change.
        limits: The time-outs.
    """

    def __init__(self, source: UrlSource, limits: Limits) -> None:
        self.source = source
        self.limits = limits
        #: Whether to wait for the other half of a rotation; the constructor does not.
        self.patient = False
        #: The servers that did not answer in time.
        self.silent = SilentServers()
        #: Records how long connections are made, waited for and used.
        self.telemetry = Telemetry({}, "")

    def resolve(self) -> ValkeyTarget:
        """Return what the URL says now."""
        return parse_valkey_url(self.source.current())

    def make(
        self, address: Address | None = None, *, expect_primary: bool = False
    ) -> AnyConnection:
        """Make a connection to *address*, not connected yet; it can connect once.

        Args:
            address: The server; the target's first, or its Unix socket, when None.
            expect_primary: Refuse a server that is a replica.

        Returns:
            The connection; its ``connect`` opens, authenticates and selects the database.

        Raises:
            AuthenticationError: No credential is worth a login.
        """
        candidates = self.source.candidates(patient=self.patient)
        first = next(candidates, None)
        if first is None:
            raise AuthenticationError(self.source.refusal(), status_code=_REFUSED)
        target = parse_valkey_url(first.url)
        place = target.place if address is None else None
        login = _Login(self.source, lambda: chain([first], candidates), place, expect_primary)
        return self._make(target, address, login)

    def make_for_sentinel(self, address: Address) -> AnyConnection:
        """Make a connection to a sentinel, which has credentials of its own and no databases."""
        target = self.resolve()
        own = ValkeyTarget(username=target.sentinel_username, password=target.sentinel_password)
        handshake = partial(_handshake, target=own)
        return self._make(target, address, handshake, self.limits.connect_timeout)

    def login(self) -> Callable[[AnyConnection], None]:
        """Return what authenticates the plain redis-py client's connections, read each time."""
        target = self.resolve()
        place = target.place if target.kind == "standalone" else None
        return _Login(self.source, lambda: self.source.candidates(patient=True), place)

    def _make(
        self,
        target: ValkeyTarget,
        address: Address | None,
        handshake: Callable[[AnyConnection], None],
        socket_timeout: float | None = None,
    ) -> AnyConnection:
        settings = self.settings(target, address) | {"redis_connect_func": handshake}
        if socket_timeout is not None:
            settings["socket_timeout"] = socket_timeout
        return connection_class(target)(**settings)

    def settings(self, target: ValkeyTarget, address: Address | None = None) -> dict[str, Any]:
        """Return redis-py's keyword arguments for a connection, without login and database."""
        settings: dict[str, Any] = {
            # RESP3 brings nothing that this SDK needs, and proxies refuse its HELLO.
            "protocol": 2,
            "driver_info": None,
            "decode_responses": True,
            "retry": Retry(NoBackoff(), 0),
            "socket_connect_timeout": self.limits.connect_timeout,
            "socket_timeout": self.limits.socket_timeout,
        }
        if target.path is not None:
            return settings | {"path": target.path}
        host, port = address or target.addresses[0]
        settings |= {"host": host, "port": port}
        if target.tls:
            # Without one, OpenSSL would ask for a key's password at the terminal, and wait.
            settings["ssl_password"] = ""
        return settings | dict(target.tls_options)


def connection_class(target: ValkeyTarget) -> Callable[..., AnyConnection]:
    """Return the redis-py class that reaches *target*."""
    if target.path is not None:
        return UnixDomainSocketConnection
    return SSLConnection if target.tls else Connection


class _Login:
    """Log in with what the source has, and with the next value after a refusal.

    It never holds the connection: a reference cycle would keep dropped connections open until
    the garbage collector runs.
    """

    def __init__(
        self,
        source: UrlSource,
        candidates: Callable[[], Iterable[Candidate]],
        place: str | None,
        expect_primary: bool = False,  # noqa: FBT001, FBT002 - this module's own
    ) -> None:
        self._source = source
        self._candidates = candidates
        self._place = place
        self._expect_primary = expect_primary

    def __call__(self, connection: AnyConnection) -> None:
        try:
            self._log_in(connection)
        except BaseException as error:
            # The driver closes after errors of its own alone, and would go on without a login.
            connection.disconnect()
            forget_locals(error)
            raise

    def _log_in(self, connection: AnyConnection) -> None:
        refusal: AuthenticationError | None = None
        for candidate in self._candidates():
            target = parse_valkey_url(candidate.url)
            if self._place not in {None, target.place}:
                # Nobody but the new server may see the new password.
                raise ServerMoved(f"the URL leads to {target.place} now, and not to {self._place}")
            try:
                _handshake(connection, target, expect_primary=self._expect_primary)
            except AuthenticationError as error:
                refusal, candidate.refusal = error, str(error).rstrip(".")
            else:
                self._source.accepted(candidate)
                return
        if refusal is None:
            refusal = AuthenticationError(self._source.refusal(), status_code=_REFUSED)
        elif (trouble := self._source.trouble) is not None:
            text = f"{refusal}; no other credential can be had: {trouble}"
            refusal = AuthenticationError(text, status_code=refusal.status_code)
        raise refusal


def _handshake(
    connection: AnyConnection, target: ValkeyTarget, *, expect_primary: bool = False
) -> None:
    """Authenticate, select the database and give the library's name in one write.

    Raises:
        AuthenticationError: The login was refused; the connection can be used for another one.
        RedisError: Anything else; the connection is to be closed.
    """
    names = [words[0] for words in _requests(target, expect_primary=expect_primary)]
    start_parser(connection)
    # The words are kept out of this frame: error reporters collect local variables.
    send_whole(connection, b"".join(map(pack, _requests(target, expect_primary=expect_primary))))
    replies: dict[str, Any] = {}
    try:
        for name in names:
            replies[name] = _reply(connection)
        if server_code(replies["CLIENT"]) not in {None, "NOPERM"}:
            # An old server, or one that says why it takes no connection, and closes it.
            send_whole(connection, pack(("PING",)))
            _reply(connection)
    except (DriverConnectionError, ConnectionError) as error:
        said = next((one for one in replies.values() if isinstance(one, Exception)), None)
        if said is None or isinstance(error, BusyLoadingError):
            raise
        raise DriverConnectionError(str(said), status_code=server_code(said)) from error
    # Old servers do not know SETINFO, and ACL rules may deny it: no harm.
    del replies["CLIENT"]
    for name, reply in replies.items():
        if name == "AUTH" and isinstance(reply, ResponseError):
            # Whatever its words are.
            raise AuthenticationError(str(reply), status_code=server_code(reply))
        if isinstance(reply, ResponseError | AuthenticationError):
            raise reply
    if expect_primary and not _is_primary(replies["ROLE"]):
        raise ReadOnlyError(
            "the sentinels name a server that is not the primary yet", status_code="READONLY"
        )


def _is_primary(role: Any) -> bool:
    if type(role) is not list or not role:
        raise UnexpectedReply("a role", role)
    return bool(role[0] == "master")


def _requests(target: ValkeyTarget, *, expect_primary: bool) -> list[tuple[str, ...]]:
    commands: list[Arguments] = []
    if target.password is not None:
        login = (target.username, target.password) if target.username else (target.password,)
        commands.append(("AUTH", *login))
    if target.db:
        commands.append(("SELECT", str(target.db)))
    commands.append(("CLIENT", "SETINFO", "LIB-NAME", "failfast-clients"))
    if expect_primary:
        commands.append(("ROLE",))
    return commands


def _reply(connection: AnyConnection) -> Any:
    """Return one reply; a refusal is a reply like another, and others follow it."""
    try:
        return connection.read_response(disconnect_on_error=False)
    except (ResponseError, AuthenticationError) as refusal:
        return refusal
