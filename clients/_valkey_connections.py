"""Make connections: redis-py opens sockets and speaks the protocol, with our own handshake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ReadOnlyError, ResponseError
from redis.retry import Retry

from clients._valkey_url import Address, ValkeyTarget
from clients.errors import ValkeyConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AnyConnection", "ConnectionFactory", "Limits", "check_tls_files", "connection_class"]

#: A redis-py connection. Its send, read and pack methods are semi-public, and untyped.
AnyConnection = Any

_FILE_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much.

    Args:
        connect_timeout: Seconds for a TCP connection, and for a free place in the pool.
        socket_timeout: Seconds that the server may stay silent.
        max_connections: Connections to one server.
    """

    connect_timeout: float
    socket_timeout: float
    max_connections: int


class ConnectionFactory:
    """Makes unconnected redis-py connections that authenticate themselves when they connect.

    Args:
        resolve: Returns the target, and is asked for every new connection, so that it may hand
            out fresh credentials.
        limits: The time-outs.
    """

    def __init__(self, resolve: Callable[[], ValkeyTarget], limits: Limits) -> None:
        self.resolve = resolve
        self.limits = limits

    def make(
        self, address: Address | None = None, *, expect_primary: bool = False
    ) -> AnyConnection:
        """Make a connection to *address*, not connected yet.

        Args:
            address: The server; the target's first, or its Unix socket, when None.
            expect_primary: Refuse a server that is a replica.

        Returns:
            The connection; its ``connect`` opens, authenticates and selects the database.
        """
        target = self.resolve()
        return self._make(target, address, _Handshake(target, expect_primary=expect_primary))

    def make_for_sentinel(self, address: Address) -> AnyConnection:
        """Make a connection to a sentinel, which has credentials of its own and no databases."""
        target = self.resolve()
        handshake = _Handshake(
            ValkeyTarget(username=target.sentinel_username, password=target.sentinel_password)
        )
        return self._make(target, address, handshake, self.limits.connect_timeout)

    def _make(
        self,
        target: ValkeyTarget,
        address: Address | None,
        handshake: _Handshake,
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
        return settings | dict(target.tls_options)


def connection_class(target: ValkeyTarget) -> Callable[..., AnyConnection]:
    """Return the redis-py class that reaches *target*."""
    if target.path is not None:
        return UnixDomainSocketConnection
    return SSLConnection if target.tls else Connection


def check_tls_files(target: ValkeyTarget) -> None:
    """Refuse a target whose certificate files are not there.

    Raises:
        ValkeyConfigurationError: A file is missing; OpenSSL's own error would not name it.
    """
    for name, value in target.tls_options:
        if name in _FILE_OPTIONS and not Path(str(value)).is_file():
            raise ValkeyConfigurationError(
                f"the file that the Valkey URL's option {name!r} names, {value!r}, is not there"
            )


class _Handshake:
    """Authenticate, select the database and introduce ourselves in one write.

    It holds the target and never the connection: a reference cycle would keep dropped
    connections open until the garbage collector runs.
    """

    def __init__(self, target: ValkeyTarget, *, expect_primary: bool = False) -> None:
        self.expect_primary = expect_primary
        self.commands: list[tuple[str, ...]] = []  # see pack
        if target.password is not None:
            login = (target.username, target.password) if target.username else (target.password,)
            self.commands.append(("AUTH", *login))
        if target.db:
            self.commands.append(("SELECT", str(target.db)))
        self.essential = len(self.commands)
        self.commands.append(("CLIENT", "SETINFO", "LIB-NAME", "failfast-clients"))
        if expect_primary:
            self.commands.append(("ROLE",))

    def __call__(self, connection: AnyConnection) -> None:
        connection._parser.on_connect(connection)  # noqa: SLF001 - what redis-py's on_connect does
        connection.send_packed_command(connection.pack_commands(self.commands), check_health=False)
        reply: Any = None
        for number in range(len(self.commands)):
            try:
                reply = connection.read_response()
            except ResponseError:
                # Old servers do not know SETINFO, and ACL rules may deny it: no harm.
                if number != self.essential:
                    raise
        if self.expect_primary and reply[0] != "master":
            raise ReadOnlyError(
                "the sentinels name a server that is not the primary yet", status_code="READONLY"
            )
