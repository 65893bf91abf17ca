"""Several real Valkey servers together: a primary with replicas and sentinels, and a cluster."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import redis

from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = "topology-pa55word"
SERVICE = "main"
#: Milliseconds of silence after which a server counts as down: while a test needs all of them, and
#: they share a busy machine with others, and once it has its primary replaced.
_PATIENT, _QUICK = 60_000, 1000


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for *condition*; fail with *what* when it does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not in {seconds:g} s: {what}")
        time.sleep(0.05)


def admin(port: int, password: str | None = PASSWORD) -> Any:
    """Return a plain driver for one server; close it."""
    return redis.Redis(
        host="127.0.0.1", port=port, password=password, decode_responses=True, socket_timeout=5
    )


class SentinelServer(ValkeyServer):
    """One sentinel that watches a primary.

    Args:
        primary: The primary's port.
        down_after: Milliseconds of silence after which it counts as down.
    """

    name = "sentinel"

    def __init__(self, primary: int, down_after: int = _QUICK) -> None:
        watch = f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2"
        super().__init__(
            password="",
            directives=(
                watch,
                f"sentinel auth-pass {SERVICE} {PASSWORD}",
                f"sentinel down-after-milliseconds {SERVICE} {down_after}",
                f"sentinel failover-timeout {SERVICE} 4000",
            ),
        )

    def command(self) -> list[str]:
        """Run the same program as a sentinel."""
        return [*super().command(), "--sentinel"]


class SentinelTopology:
    """One primary, two replicas, three sentinels; see ``let_fail_over``."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        auth = f"primaryauth {PASSWORD}"
        self.primary = self._start(ValkeyServer(password=PASSWORD, directives=(auth,)))
        follow = f"replicaof 127.0.0.1 {self.primary.port}"
        self.replicas = [
            self._start(ValkeyServer(password=PASSWORD, directives=(auth, follow)))
            for _ in range(2)
        ]
        self.sentinels = [
            self._start(SentinelServer(self.primary.port, _PATIENT)) for _ in range(3)
        ]
        wait_until("the sentinels know each other and the replicas", self._ready)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The client's URL."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}/0"

    def let_fail_over(self) -> None:
        """Have a primary that does not answer replaced soon; until then none is."""
        for one in self.sentinels:
            with admin(one.port, None) as asked:
                asked.sentinel_set(SERVICE, "down-after-milliseconds", _QUICK)

    def _start(self, server: Any) -> Any:
        return self._stack.enter_context(server)

    def _ready(self) -> bool:
        for one in self.sentinels:
            with admin(one.port, None) as asked:
                state = asked.sentinel_master(SERVICE)
            if state["num-other-sentinels"] < 2 or state["num-slaves"] < 2:
                return False
        with admin(self.primary.port) as asked:
            info = asked.info("replication")
        return all(info.get(f"slave{n}", {}).get("state") == "online" for n in range(2))


class ClusterServer(ValkeyServer):
    """One server of a cluster, which other servers reach through a second port, the bus.

    Args:
        password: What clients and the other servers must give; none when "".
    """

    def __init__(self, *, password: str) -> None:
        super().__init__(password=password)
        self.bus_port = self.hold_port()
        self.directives = (
            "cluster-enabled yes",
            f"cluster-node-timeout {_PATIENT}",
            "cluster-replica-validity-factor 0",
            f"cluster-port {self.bus_port}",
            f'primaryauth "{password}"',
        )


class ClusterTopology:
    """Three primaries with one replica each; see ``let_fail_over``."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self.servers = [self._start() for _ in range(6)]
        self.ids: list[str] = []
        for one in self.servers:
            with admin(one.port) as asked:
                self.ids.append(asked.execute_command("CLUSTER MYID"))
        with admin(self.servers[0].port) as asked:
            for one in self.servers[1:]:
                asked.execute_command("CLUSTER MEET", "127.0.0.1", one.port, one.bus_port)
        for number, (start, end) in enumerate(((0, 5460), (5461, 10922), (10923, 16383))):
            with admin(self.servers[number].port) as asked:
                asked.execute_command("CLUSTER ADDSLOTSRANGE", start, end)
        wait_until("all six know each other", lambda: self._all_see("cluster_known_nodes", 6))
        for number in range(3):
            with admin(self.servers[number + 3].port) as asked:
                asked.execute_command("CLUSTER REPLICATE", self.ids[number])
        wait_until("the cluster is whole", lambda: self._all_see("cluster_state", "ok"))
        wait_until("the replicas are in step", self._replicated)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The client's URL, with two of the six."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.servers[:2])
        return f"redis+cluster://:{PASSWORD}@{hosts}"

    def let_fail_over(self) -> None:
        """Have a primary that does not answer replaced soon; until then none is."""
        for one in self.servers:
            with admin(one.port) as asked:
                asked.config_set("cluster-node-timeout", _QUICK)

    def _start(self) -> ClusterServer:
        return self._stack.enter_context(ClusterServer(password=PASSWORD))

    def _all_see(self, field: str, value: Any) -> bool:
        for one in self.servers:
            with admin(one.port) as asked:
                seen = asked.cluster("INFO")[field]
            if str(seen) != str(value):
                return False
        return True

    def _replicated(self) -> bool:
        for one in self.servers[3:]:
            with admin(one.port) as asked:
                if asked.info("replication").get("master_link_status") != "up":
                    return False
        return True
