"""The plain redis-py client for whatever ``ValkeyClient`` has no method for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from redis.credentials import CredentialProvider

from clients._valkey_connections import connection_class

if TYPE_CHECKING:
    from clients._valkey_connections import ConnectionFactory

__all__ = ["close_driver", "make_driver"]


class _Credentials(CredentialProvider):
    """Asks for the login at each new connection, as our own handshake does."""

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        target = self._factory.resolve()
        password = target.password or ""
        return (target.username, password) if target.username else (password,)


def make_driver(factory: ConnectionFactory) -> redis.Redis:
    """Return a redis-py client with the factory's settings; it connects at its first command."""
    target = factory.resolve()
    settings = factory.settings(target)
    if target.password is not None:
        settings["credential_provider"] = _Credentials(factory)
    pool_class: Any = redis.BlockingConnectionPool  # untyped in redis-py
    pool = pool_class(
        connection_class=connection_class(target),
        max_connections=factory.limits.max_connections,
        timeout=factory.limits.connect_timeout,
        db=target.db,
        **settings,
    )
    return redis.Redis.from_pool(pool)


def close_driver(driver: redis.Redis) -> None:
    """Close what ``make_driver`` made."""
    driver.close()
