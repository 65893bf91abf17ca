"""Valkey for short-lived data: session tokens, rate limits, counters, caches.

Source: https://valkey.io/commands/.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from ._shared.lifecycle import Lifecycle
from ._shared.locks import OwnedLock
from ._shared.validation import checked_count, checked_seconds
from ._valkey.arguments import (
    checked_expiry,
    checked_key,
    checked_prefix,
    checked_producer,
    from_json,
)
from ._valkey.cached import Flights, Lookup, lock_name
from ._valkey.cluster import ClusterNodes
from ._valkey.commands import Command, CommandSet
from ._valkey.connections import ConnectionFactory
from ._valkey.errors import DRIVER_ERRORS, valkey_error
from ._valkey.links import Link, SentinelPrimary, SingleServer
from ._valkey.operations import KeyOperations
from ._valkey.pipeline import Pipeline
from ._valkey.plain_client import close_driver, make_driver
from ._valkey.rate_limit import RateLimit, rate_limit_command
from ._valkey.sessions import Session, SessionStore
from ._valkey.settings import Limits, check_tls_files
from ._valkey.url import url_source
from .errors import ValkeyConfigurationError, ValkeyConnectionError, ValkeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

    from ._shared.credentials import CredentialLife

__all__ = ["Pipeline", "RateLimit", "Session", "SessionStore", "ValkeyClient", "ValkeyError"]

T = TypeVar("T")

_PING: Command[bool] = Command(("PING",), (), bool, writes=False)
_INFO: Command[str] = Command(("INFO", "server"), (), str, writes=False)


class ValkeyClient(KeyOperations, Lifecycle):
    """A fail-fast client for Valkey and Redis; share one between threads.

    Construction connects, and raises at once with the server's reason. Every command is sent at
    most once, and a reply reaches only the call that asked for it: a connection on which
    anything but a complete reply happened is never used again. Each method refuses an unusable
    argument with a ValkeyConfigurationError, before anything is sent.

    Args:
        connection_url: ``redis://[user:password@]host:port/db``, ``rediss://`` with TLS, or
            ``unix:///path?db=0``; with several servers ``redis+sentinel://h1,h2,h3/service/db``
            or ``redis+cluster://h1,h2``; ``valkey`` and ``valkeys`` mean the same. Or a
            callable that returns a URL and is asked for every new connection, so that rotated
            credentials are picked up; it may take ``use_cache``, and is asked once more with
            ``use_cache=False`` after a login was refused. With TLS, ``?ssl_ca_certs=``,
            ``ssl_certfile=``, ``ssl_keyfile=``, ``ssl_password=``, ``ssl_check_hostname=`` and
            ``ssl_cert_reqs=`` name files and checks.
        connect_timeout: Seconds for a new connection, and for a free place in the pool.
        socket_timeout: Seconds that the server may stay silent before a call fails.
        max_connections: Connections to one server.
        key_prefix: Stands before every key; messages show the whole key.

    Raises:
        ValkeyConfigurationError: An argument is unusable.
        ValkeyConnectionError: There is no working connection; the reason is in the message.
    """

    def __init__(
        self,
        connection_url: str | Callable[..., str],
        *,
        connect_timeout: float = 2.0,
        socket_timeout: float = 5.0,
        max_connections: int = 50,
        key_prefix: str = "",
    ) -> None:
        limits = Limits(
            checked_seconds("connect_timeout", connect_timeout, ValkeyConfigurationError),
            checked_seconds("socket_timeout", socket_timeout, ValkeyConfigurationError),
            checked_count("max_connections", max_connections, ValkeyConfigurationError, minimum=1),
        )
        self._factory = ConnectionFactory(url_source(connection_url), limits)
        del connection_url  # error reporters collect local variables
        self._target = self._factory.resolve()
        check_tls_files(self._target)
        self._limits = limits
        self._commands = CommandSet(checked_prefix(key_prefix))
        self._closed = False
        self._flights: Flights = {}
        self._driver: redis.Redis | None = None
        self._renew_lock()
        _clients.add(self)
        self._link = self._open_link()
        try:
            self._probe()
        except BaseException:
            self.close()
            raise
        self._factory.patient = True

    def _probe(self) -> None:
        try:
            self._link.ping()
        except DRIVER_ERRORS as error:
            ours = self._mapped(
                error, f"connecting to Valkey at {self._target.where}", writes=False
            )
            refusal = ValkeyConnectionError(str(ours), code=ours.code)
            raise refusal from ours.__cause__  # see valkey_error

    def __repr__(self) -> str:
        if not hasattr(self, "_target"):  # a failing constructor, looked at by an error reporter
            return "<ValkeyClient without a server>"
        return f"<ValkeyClient for {self._target.where}>"

    @property
    def server(self) -> str:
        """Where the server is, without the password."""
        return self._target.where

    @property
    def key_prefix(self) -> str:
        """What stands before every key."""
        return self._commands.prefix

    @property
    def client(self) -> redis.Redis:
        """A plain redis-py client with the same settings, for everything else.

        It is made at the first use, keeps connections of its own, is closed with this client,
        and raises redis-py's errors. Keys are sent as they are, without the prefix. In a
        cluster it is a ``redis.RedisCluster``.

        Raises:
            ValkeyError: This client is closed, or the cluster cannot be reached.
        """
        self._refuse_when_closed()
        with self._driver_lock:
            if self._driver is None:
                try:
                    self._driver = make_driver(self._factory)
                except DRIVER_ERRORS as error:
                    ours = self._mapped(error, f"connecting to {self._target.where}", writes=False)
                    raise ours from ours.__cause__  # see valkey_error
            return self._driver

    def pipeline(self) -> Pipeline:
        """Return a pipeline: several commands in one round trip.

        Returns:
            The pipeline; queue commands with its methods, then call ``execute()``.
        """
        return Pipeline(self._commands, self._run_many, self._explain)

    def rate_limit(
        self,
        key: str,
        limit: int,
        period_seconds: float,
        burst: int | None = None,
        cost: int = 1,
    ) -> RateLimit:
        """Ask whether one more is allowed, in one atomic step on the server's clock (GCRA).

        Args:
            key: Whom or what to limit.
            limit: How many units per period, on average.
            period_seconds: The period, in seconds.
            burst: How many units at once; *limit* when None. In any window of w seconds at most
                ``burst + w * limit / period_seconds`` units are allowed.
            cost: Units that this one takes.

        Returns:
            The answer; nothing is booked when it is no.

        Raises:
            ValkeyError: The call failed.
        """
        name = checked_key(self._commands.prefix, key)
        return self._run(rate_limit_command(name, limit, period_seconds, burst=burst, cost=cost))

    def cached(
        self,
        key: str,
        expire_seconds: int,
        produce: Callable[[], Any],
        *,
        lock_seconds: int = 30,
    ) -> Any:
        """Get a JSON value from the cache, or have it produced once for all who ask.

        One caller produces, in this process and across processes; the others wait for it. In
        the last tenth of a value's life one caller renews it while the others still get it.

        Args:
            key: The key; ``get_json`` and ``delete`` work on it as usual.
            expire_seconds: Seconds that a value is good.
            produce: Makes the value, anything that JSON can say; it must not ask for the same
                key. What it raises is raised to all who wait in this process, and nothing is
                stored; a failed early renewal is only logged, and the value that is still good
                is returned.
            lock_seconds: Seconds that it may take before another caller may begin too.

        Returns:
            The value, as it comes out of JSON.

        Raises:
            ValkeyError: The call failed, or the value is not JSON.
        """
        name = checked_key(self._commands.prefix, key)
        lock = lock_name(self._commands.prefix, name)
        expiry = checked_expiry(name, expire_seconds)
        patience = checked_expiry(lock, lock_seconds)
        produce = checked_producer(name, produce)
        lookup = Lookup(self._run, self._flights, name, lock, expiry, patience, produce)
        return from_json(name, lookup.text())

    def server_version(self) -> str:
        """Return the server's name and version, such as ``"valkey 9.1.2"``.

        Raises:
            ValkeyError: The call failed.
        """
        lines = dict(line.split(":", 1) for line in self._run(_INFO).splitlines() if ":" in line)
        if "valkey_version" in lines:
            return f"valkey {lines['valkey_version']}"
        return f"redis {lines.get('redis_version', 'unknown')}"

    def health_check(self) -> bool:
        """Ask the server whether it is there.

        Returns:
            True.

        Raises:
            ValkeyError: It is not, or it refuses us.
        """
        self._refuse_when_closed()
        try:
            self._link.ping()
        except DRIVER_ERRORS as error:
            ours = self._explain(error, _PING)
            raise ours from ours.__cause__  # see valkey_error
        return True

    def credential_life(self) -> CredentialLife:
        """Return how old the credential in use is and how long it still works, never itself."""
        return self._factory.source.life()

    def close(self) -> None:
        """Close every connection; more than once does no harm."""
        self._closed = True
        self._link.close()
        if self._driver is not None:
            close_driver(self._driver)

    def _renew_lock(self) -> None:
        self._driver_lock = OwnedLock()

    def _open_link(self) -> Link:
        if self._target.kind == "cluster":
            return ClusterNodes(self._factory)
        if self._target.kind == "sentinel":
            return SentinelPrimary(self._factory)
        return SingleServer(self._factory)

    def _run(self, command: Command[T]) -> T:
        if self._closed:
            self._refuse_when_closed()
        try:
            reply = self._link.call(command)
        except DRIVER_ERRORS as error:
            ours = self._explain(error, command)
            raise ours from ours.__cause__  # see valkey_error
        return command.parse(reply)

    def _run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        self._refuse_when_closed()
        try:
            return self._link.call_many(commands)
        except DRIVER_ERRORS as error:
            what = f"pipeline of {len(commands)} commands from {commands[0].label}"
            writes = any(command.writes for command in commands)
            ours = self._mapped(error, f"{what} on {self._target.where}", writes=writes)
            raise ours from ours.__cause__  # see valkey_error

    def _explain(self, error: Exception, command: Command[Any]) -> ValkeyError:
        what = f"{command.label} on {self._target.where}"
        return self._mapped(error, what, writes=command.writes)

    def _mapped(self, error: Exception, what: str, *, writes: bool) -> ValkeyError:
        return valkey_error(
            error,
            what,
            limits=self._limits,
            writes=writes,
            secrets=self._target.secrets,
        )

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise ValkeyError(
                f"the Valkey client for {self._target.where} is closed: make a new one"
            )


#: Every client, for the fork hook.
_clients: weakref.WeakSet[ValkeyClient] = weakref.WeakSet()


def _renew_locks_in_child() -> None:
    # The thread that makes the plain client is not in the child.
    for client in list(_clients):
        client._renew_lock()  # noqa: SLF001 - this module's own


os.register_at_fork(after_in_child=_renew_locks_in_child)
