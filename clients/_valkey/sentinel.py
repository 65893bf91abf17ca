"""The primary that sentinels name: asked for at each new connection, so a fail-over is followed.

Source: https://valkey.io/topics/sentinel-clients/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import RedisError, ResponseError

from .links import SingleServer
from .pool import ServerPool
from .url import Address

if TYPE_CHECKING:
    from .connections import AnyConnection, ConnectionFactory

__all__ = ["SentinelPrimary"]


class SentinelPrimary(SingleServer):
    """A link to whichever server is the primary now.

    Args:
        factory: Makes the connections.
    """

    def __init__(self, factory: ConnectionFactory) -> None:
        self._factory = factory
        # Whoever answered last is asked first: a frozen sentinel costs a whole time-out.
        self._preferred: Address | None = None
        # When one connection fails, the others may lead to the same dead or demoted server.
        self.pool = ServerPool(
            self._make, factory.limits, factory.source.generation, drop_idle_on_failure=True
        )

    def _make(self) -> AnyConnection:
        return self._factory.make(self._primary(), expect_primary=True)

    def _primary(self) -> Address:
        target = self._factory.resolve()
        failures = []
        last_resort: Address | None = None
        for sentinel in sorted(target.addresses, key=lambda one: one != self._preferred):
            try:
                answer, is_down = self._ask(sentinel, target.service)
            except (RedisError, OSError) as error:
                failures.append(f"{sentinel}: {error}")
                continue
            if answer is None:
                failures.append(f"{sentinel}: knows no service {target.service!r}")
            elif is_down:
                # This one may be behind: the others may have agreed on the next primary.
                last_resort = last_resort or answer
            else:
                self._preferred = sentinel
                return answer
        if last_resort is not None:
            return last_resort
        raise DriverConnectionError(f"no sentinel names a primary ({'; '.join(failures)})")

    def _ask(self, sentinel: Address, service: str) -> tuple[Address | None, bool]:
        """Return the primary that *sentinel* names, and whether it sees that one down."""
        connection = self._factory.make_for_sentinel(sentinel)
        try:
            connection.connect()
            connection.send_packed_command(
                connection.pack_commands(
                    [
                        ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service),
                        ("SENTINEL", "MASTER", service),
                    ]
                ),
                check_health=False,
            )
            reply = connection.read_response()
            try:
                words = connection.read_response()
            except ResponseError:
                # An unknown service, or a sentinel whose ACL rules deny it.
                words = []
        finally:
            connection.disconnect()
        if not reply:
            return None, False
        state = dict(zip(words[::2], words[1::2], strict=True))
        # While a fail-over goes on, the state is still the old primary's.
        is_same = [state.get("ip"), state.get("port")] == reply
        is_down = not {"s_down", "o_down"}.isdisjoint(state.get("flags", "").split(","))
        return Address(reply[0], int(reply[1])), is_same and is_down
