"""The plain redis-py client for whatever ``ValkeyClient`` has no method for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import redis
from redis.cluster import ClusterNode
from redis.connection import DefaultParser
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError, DataError
from redis.sentinel import Sentinel

from ..errors import ValkeyError
from .connections import connection_class
from .protocol import start_parser
from .url import parse_valkey_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from .connections import ConnectionFactory
    from .silence import AnyConnection

__all__ = ["BinaryValueError", "close_driver", "make_driver"]

_Parser: Any = DefaultParser  # untyped in redis-py


class BinaryValueError(ValkeyError, DataError):
    """A value is not UTF-8 text: an error of ours that is redis-py's, too."""


class _TextParser(_Parser):  # type: ignore[misc]  # see _Parser
    """The driver's parser, with an error of the driver's tree for what is no text."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        # The codec's error carries the whole value: nothing is raised while it is handled.
        try:
            return super().read_response(*args, **options)
        except UnicodeDecodeError:
            pass
        raise BinaryValueError(
            "the value is not UTF-8 text: execute_command(..., NEVER_DECODE=True) returns its bytes"
        )


def _with_text_parser(
    log_in: Callable[[AnyConnection], None],
) -> Callable[[AnyConnection], None]:
    def connect(connection: AnyConnection) -> None:
        connection.set_parser(_TextParser)
        log_in(connection)

    return connect


class _Credentials(CredentialProvider):
    """Asks for the login at each new connection, as our own does.

    For a cluster alone: its client has a handshake of its own.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        candidate = next(self._factory.source.candidates(patient=False), None)
        if candidate is None:
            raise AuthenticationError(self._factory.source.refusal())
        target = parse_valkey_url(candidate.url)
        password = target.password or ""
        return (target.username, password) if target.username else (password,)


def make_driver(factory: ConnectionFactory) -> redis.Redis:
    """Return a redis-py client with the factory's settings.

    It connects at its first command; a cluster's is a ``RedisCluster``, and connects here.

    Raises:
        redis.exceptions.RedisError: The cluster cannot be reached.
    """
    target = factory.resolve()
    settings = factory.settings(target)
    limits = factory.limits
    if target.kind == "cluster":
        if target.password is not None:
            settings["credential_provider"] = _Credentials(factory)
        del settings["host"], settings["port"]
        node_class: Any = ClusterNode  # untyped in redis-py
        nodes = [node_class(*address) for address in target.addresses]
        cluster: Any = redis.RedisCluster(
            startup_nodes=nodes,
            ssl=target.tls,
            # After its own handshake, which a cluster's client insists on.
            redis_connect_func=_with_text_parser(start_parser),
            **settings,
        )
        return cast("redis.Redis", cluster)
    if target.kind == "sentinel":
        del settings["host"], settings["port"]
        login = {"username": target.sentinel_username, "password": target.sentinel_password}
        sentinel_class: Any = Sentinel  # untyped in redis-py
        sentinel = sentinel_class(
            target.addresses, sentinel_kwargs=settings | login | {"ssl": target.tls}
        )
        primary = sentinel.master_for(
            target.service,
            ssl=target.tls,
            max_connections=limits.max_connections,
            redis_connect_func=_with_text_parser(factory.login()),
            **settings,
        )
        return cast("redis.Redis", primary)
    pool_class: Any = redis.BlockingConnectionPool  # untyped in redis-py
    pool = pool_class(
        connection_class=connection_class(target),
        max_connections=limits.max_connections,
        timeout=limits.connect_timeout,
        redis_connect_func=_with_text_parser(factory.login()),
        **settings,
    )
    return redis.Redis.from_pool(pool)


def close_driver(driver: redis.Redis) -> None:
    """Close what ``make_driver`` made."""
    driver.close()
    manager = getattr(getattr(driver, "connection_pool", None), "sentinel_manager", None)
    for sentinel in getattr(manager, "sentinels", ()):
        sentinel.close()
