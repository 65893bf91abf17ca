"""The primary that sentinels name: asked for at each new connection, so a fail-over is followed.

Source: https://valkey.io/topics/sentinel-clients/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import RedisError

from clients._valkey_link import SingleServer
from clients._valkey_pool import ServerPool
from clients._valkey_url import Address

if TYPE_CHECKING:
    from clients._valkey_connections import AnyConnection, ConnectionFactory

__all__ = ["SentinelPrimary"]


class SentinelPrimary(SingleServer):
    """A link to whichever server is the primary now.

    Args:
        factory: Makes the connections.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory
        # When one connection fails, the others may lead to the same dead or demoted server.
        self.pool = ServerPool(
            self._make, factory.limits, factory.source.generation, drop_idle_on_failure=True
        )

    def _make(self) -> AnyConnection:
        return self._factory.make(self._primary(), expect_primary=True)

    def _primary(self) -> Address:
        target = self._factory.resolve()
        failures = []
        for sentinel in target.addresses:
            try:
                answer = self._ask(sentinel, target.service)
            except (RedisError, OSError) as error:
                failures.append(f"{sentinel}: {error}")
                continue
            if answer is not None:
                return answer
            failures.append(f"{sentinel}: knows no service {target.service!r}")
        raise DriverConnectionError(f"no sentinel names a primary ({'; '.join(failures)})")

    def _ask(self, sentinel: Address, service: str) -> Address | None:
        connection = self._factory.make_for_sentinel(sentinel)
        try:
            connection.connect()
            connection.send_packed_command(
                connection.pack_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
                check_health=False,
            )
            reply = connection.read_response()
        finally:
            connection.disconnect()
        return Address(reply[0], int(reply[1])) if reply else None
