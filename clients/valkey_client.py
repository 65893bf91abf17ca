"""Valkey for short-lived data: session tokens, rate limits, counters, caches.

Source: https://valkey.io/commands/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ._shared.fork import on_fork
from ._shared.interrupts import forget_locals
from ._shared.lifecycle import Lifecycle
from ._shared.locks import OwnedLock
from ._shared.pool_stats import with_metric_names
from ._shared.rotating_url import hidden
from ._shared.single_flight import SingleFlight
from ._shared.validation import checked_choice
from ._valkey.arguments import (
    checked_expiry,
    checked_key,
    checked_prefix,
    checked_producer,
)
from ._valkey.cached import Lookup, Productions, entry_key, lock_name
from ._valkey.commands import Command, CommandSet
from ._valkey.json_codec import JsonCodec
from ._valkey.operations import KeyOperations
from ._valkey.pipeline import Pipeline
from ._valkey.plain_client import close_driver, make_driver
from ._valkey.rate_limit import RateLimit, rate_limit_command
from ._valkey.reply_shapes import text
from ._valkey.runner import Runner
from ._valkey.sessions import Session, SessionStore
from ._valkey.settings import Limits
from ._valkey.unavailable import is_unavailable
from ._valkey.url import url_source
from .errors import ClientError, ValkeyConfigurationError, ValkeyError
from .identity import current_identity

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from ._shared.credential_life import CredentialLife

__all__ = ["Pipeline", "RateLimit", "Session", "SessionStore", "ValkeyClient", "ValkeyError"]

#: ``retry_after`` of a caller who was denied without Valkey, in seconds.
_RETRY_WITHOUT_SERVER = 1.0
_INFO: Command[str] = Command(("INFO", "server"), (), text, writes=False)


class ValkeyClient(KeyOperations, Lifecycle):
    """A fail-fast client for Valkey and Redis; share one between threads.

    Construction connects, or raises with the server's reason. Every command is sent at most once,
    and a reply reaches only the call that it belongs to: a connection on which anything but a
    complete reply happened is never used again. Each method refuses an unusable
    argument with a ValkeyConfigurationError, before anything is sent.

    Args:
        connection_url: ``redis://[user:password@]host:port/db``, ``rediss://`` with TLS, or
            ``unix:///path?db=0``; with several servers ``redis+sentinel://h1,h2,h3/service/db``
            or ``redis+cluster://h1,h2``; ``valkey`` and ``valkeys`` mean the same. Or a
            callable that returns a URL. It is called for every new connection, so that rotated
            credentials are used; it may take ``use_cache``, and is called once more with
            ``use_cache=False`` after a login was refused. With TLS, ``?ssl_ca_certs=``,
            ``ssl_certfile=``, ``ssl_keyfile=``, ``ssl_password=``, ``ssl_check_hostname=`` and
            ``ssl_cert_reqs=`` name files and checks.
        connect_timeout: Seconds for a new connection.
        socket_timeout: Seconds that the server may stay silent before a call fails.
        max_connections: The largest number of connections to one server.
        pool_timeout: Seconds that a call waits for a free connection when all are in use.
        key_prefix: Stands before every key of this client's methods; messages show the whole key.
            It does not apply to ``client``, the plain driver. With a cluster a prefix that has an
            opening brace must hold a whole hash tag: ``"{app}:"`` puts all keys into one slot.
        json_default: Returns something that JSON can express for a value that it cannot, as
            ``json.dumps(default=)``; for ``set_json``, ``cached`` and sessions. What comes back
            is what it returned.

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
        pool_timeout: float = 5.0,
        key_prefix: str = "",
        json_default: Callable[[Any], Any] | None = None,
    ) -> None:
        # Error reporters collect local variables.
        connection_url = hidden(connection_url)
        limits = Limits(connect_timeout, socket_timeout, max_connections, pool_timeout)
        commands = CommandSet(checked_prefix(key_prefix), JsonCodec(json_default))
        self._productions: Productions = SingleFlight(Exception)
        self._driver: redis.Redis | None = None
        self._renew_lock()
        # The thread that makes the plain client is not in a forked child.
        on_fork(self._renew_lock)
        try:
            super().__init__(Runner(url_source(connection_url), limits, commands))
            self.runner.probe()
        except BaseException as error:
            # Error reporters collect local variables.
            del connection_url
            forget_locals(error)
            if hasattr(self, "runner"):
                self.close()
            raise

    def __repr__(self) -> str:
        if not hasattr(self, "runner"):  # a failing constructor, shown by an error reporter
            return "<ValkeyClient without a server>"
        return f"<ValkeyClient for {self.server}>"

    @property
    def server(self) -> str:
        """Where the server is, without the password."""
        return self.runner.target.where

    @property
    def key_prefix(self) -> str:
        """What stands before every key."""
        return self._commands.prefix

    @property
    def client(self) -> redis.Redis:
        """A plain redis-py client with the same settings, for everything else.

        It is made at the first use, keeps connections of its own, is closed with this client,
        and raises redis-py's errors. **Keys are sent as they are: ``key_prefix`` does not apply.**
        In a cluster it is a ``redis.RedisCluster``. It returns text; a value that is not UTF-8 is
        an error that is both a ``ValkeyError`` and a ``redis.exceptions.DataError``, and
        ``execute_command("GET", key, NEVER_DECODE=True)`` returns its bytes.

        Raises:
            ValkeyError: This client is closed, or the cluster cannot be reached.
        """
        self.runner.refuse_when_closed()
        with self._driver_lock:
            if self._driver is None:
                try:
                    self._driver = make_driver(self.runner.factory)
                except BaseException as error:
                    ours = self.runner.ours(error, f"connecting to {self.server}")
                    if ours is None:
                        raise
                    raise ours from ours.__cause__
            return self._driver

    def pipeline(self) -> Pipeline:
        """Return a pipeline: several commands in one round trip.

        Returns:
            The pipeline; queue commands with its methods, then call ``execute()``.
        """
        return Pipeline(self.runner)

    def rate_limit(
        self,
        key: str,
        limit: int,
        period_seconds: float,
        burst: int | None = None,
        cost: int = 1,
        *,
        on_unavailable: Literal["raise", "allow", "deny"] = "raise",
    ) -> RateLimit:
        """Return whether one more is allowed, in one atomic step on the server's clock (GCRA).

        Args:
            key: Whom or what to limit.
            limit: How many units per period, on average.
            period_seconds: The period, in seconds.
            burst: How many units may come in one moment; *limit* when None. In any window of w
                seconds at most ``burst + w * limit / period_seconds`` units are allowed.
            cost: Units that this one takes.
            on_unavailable: What to answer while Valkey cannot be used: it is down, silent, full,
                read-only, failing over, or all connections are in use. ``"raise"`` raises;
                ``"allow"`` and ``"deny"`` are the answer, with ``without_server`` set. The call
                that meets a silent server waits for it once, at most ``pool_timeout +
                connect_timeout + 2 * socket_timeout`` seconds; those after it do not wait. The
                first one is logged. As soon as the server answers, it is used again.

        Returns:
            The answer; nothing is booked when it is no.

        Raises:
            ValkeyConfigurationError: An argument is unusable.
            ValkeyError: The call failed.
        """
        checked_choice(
            "on_unavailable", on_unavailable, ("raise", "allow", "deny"), ValkeyConfigurationError
        )
        name = checked_key(self._commands.prefix, key)
        command = rate_limit_command(name, limit, period_seconds, burst=burst, cost=cost)
        if on_unavailable == "raise":
            return self._run(command)
        try:
            answer = self.runner.run(command, impatient=True)
        except ClientError as error:
            if not is_unavailable(error):
                raise
            self.runner.outage.failed(error)
            allowed = on_unavailable == "allow"
            wait = 0.0 if allowed else _RETRY_WITHOUT_SERVER
            return RateLimit(allowed, 0, wait, wait, without_server=True)
        self.runner.outage.answered()
        return answer

    def cached(
        self,
        key: str,
        expire_seconds: int,
        produce: Callable[[], Any],
        *,
        lock_seconds: int = 30,
        per_user: bool | None = None,
        on_unavailable: Literal["raise", "produce"] = "raise",
    ) -> Any:
        """Get a JSON value from the cache, or have it produced once for all who want it.

        One caller produces, in this process and across processes; the others wait for it. In
        the last tenth of a value's life one caller renews it while the others still get it.

        Args:
            key: The key; ``get_json`` and ``delete`` work on that of a shared entry as usual.
            expire_seconds: Seconds that a value is good.
            produce: Makes the value, anything that JSON can express; it must not read the
                same key. What it raises is raised to all who wait in this process, to each as an
                exception of its own, and nothing is stored; a failed early renewal is only
                logged, and the value that is still good is returned.
            lock_seconds: Seconds that it may take before another caller may begin too.
            per_user: Whose the entry is: True for one of each user's own (the hash of the
                identity is a part of the key), False for one that everybody may see. None is
                refused inside a ``user_context``, and outside of any it is a shared entry.
            on_unavailable: What to do while Valkey cannot be used, as in ``rate_limit``.
                ``"raise"`` raises; ``"produce"`` has the value produced, once for all who wait
                in this process, and returns it without storing it. The time that is lost to
                Valkey is bounded as there.

        Returns:
            The value, as it comes out of JSON.

        Raises:
            ValkeyConfigurationError: An argument is unusable, or *per_user* is missing.
            ValkeyError: The call failed, or the value is not JSON.
        """
        checked_choice(
            "on_unavailable", on_unavailable, ("raise", "produce"), ValkeyConfigurationError
        )
        checked_key("", key)
        key = entry_key(key, current_identity(), per_user)
        name = checked_key(self.key_prefix, key)
        lock = lock_name(self.key_prefix, name)
        expiry = checked_expiry(name, expire_seconds)
        patience = checked_expiry(lock, lock_seconds)
        produce = checked_producer(name, produce)
        lookup = Lookup(
            self.runner,
            self._productions,
            name,
            lock,
            expiry,
            patience,
            produce,
            on_unavailable == "produce",
        )
        return self._commands.codec.load(name, lookup.text())

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
        """Check that the server answers, over a connection of its own where all are in use.

        Returns:
            True.

        Raises:
            ValkeyError: It does not, or it refuses the login.
        """
        self.runner.ping()
        return True

    def credential_life(self) -> CredentialLife:
        """Return how old the credential in use is and how long it still works, never itself."""
        return self.runner.factory.source.life()

    def stats(self) -> dict[str, int]:
        """Return the pool's numbers; in a cluster those of all servers together.

        Returns:
            In the words of the metrics: now ``max``, ``idle``, ``used``, ``pending_requests``, and
            in all ``timeouts``. Beside these ``size``, ``checkouts``, ``connects``,
            ``connect_failures``, ``stale`` and ``retired``, and under older names ``max_size``,
            ``in_use``, ``waiting`` and ``exhausted``.
        """
        return with_metric_names(self.runner.link.stats())

    def close(self) -> None:
        """Close every connection; more than once does no harm."""
        self.runner.close()
        if self._driver is not None:
            close_driver(self._driver)

    def _renew_lock(self) -> None:
        self._driver_lock = OwnedLock()
