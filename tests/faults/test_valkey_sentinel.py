"""Behind sentinels the client finds the primary, and finds the next one after a fail-over."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import ReadOnlyError

from clients._valkey.connections import ConnectionFactory
from clients._valkey.settings import Limits
from clients._valkey.url import Address, url_source
from clients.errors import ValkeyConnectionError
from clients.valkey_client import ValkeyClient, ValkeyError
from tests.fault_proxy import FaultProxy
from tests.valkey_helpers import at_once
from tests.valkey_topologies import (
    PASSWORD,
    SERVICE,
    SentinelServer,
    SentinelTopology,
    admin,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def topology() -> Iterator[SentinelTopology]:
    """One set-up for the tests here; the one that kills the primary is the last."""
    with SentinelTopology() as started:
        yield started


def test_the_primary_is_found(topology: SentinelTopology) -> None:
    """Commands go to the primary, also through the plain driver."""
    with ValkeyClient(topology.url) as client:
        assert client.set("a", "x") is True
        assert client.client.get("a") == "x"
        assert client.health_check() is True
        assert SERVICE in repr(client)
    with admin(topology.primary.port) as asked:
        assert asked.get("a") == "x"


def test_one_living_sentinel_is_enough(topology: SentinelTopology, closed_port: int) -> None:
    """Sentinels that are down are passed over."""
    living = topology.sentinels[0].port
    hosts = f"127.0.0.1:{closed_port},127.0.0.1:{living}"
    with ValkeyClient(f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}") as client:
        assert client.health_check() is True


def test_a_sentinel_that_is_behind_is_passed_over(
    topology: SentinelTopology, closed_port: int
) -> None:
    """One that still names a dead primary stands first: the others know the living one."""
    with SentinelServer(closed_port) as behind, admin(behind.port, None) as asked:
        wait_until("it sees its primary down", lambda: asked.sentinel_master(SERVICE)["is_sdown"])
        with ValkeyClient(topology.url.replace("@", f"@127.0.0.1:{behind.port},")) as client:
            assert client.health_check() is True
        # Nobody knows better: then the refusal of the one that it names is the reason.
        alone = f"redis+sentinel://:{PASSWORD}@127.0.0.1:{behind.port}/{SERVICE}"
        with pytest.raises(ValkeyConnectionError, match="refused"):
            ValkeyClient(alone)


@contextmanager
def _first_sentinel(topology: SentinelTopology) -> Iterator[tuple[str, FaultProxy]]:
    """Put a proxy in front of a sentinel; it counts who begins to talk, and no probe's PING."""
    with FaultProxy(topology.sentinels[0].port) as proxy:
        proxy.watch = b"SETINFO"
        yield topology.url.replace("@", f"@127.0.0.1:{proxy.port},"), proxy


def _drop_all(topology: SentinelTopology) -> None:
    with admin(topology.primary.port) as asked:
        asked.client_kill_filter(_type="normal", skipme=True)


def test_a_frozen_sentinel_is_waited_for_once(topology: SentinelTopology) -> None:
    """It costs its time-out once, and then the others are asked before it."""
    with _first_sentinel(topology) as (url, frozen):
        frozen.stall.set()
        with ValkeyClient(url, connect_timeout=0.5) as client:
            for _ in range(3):
                _drop_all(topology)
                assert client.set("a", "x") is True

        assert frozen.seen == 1


def test_one_thread_alone_waits_for_a_sentinel_that_freezes(topology: SentinelTopology) -> None:
    """Many need a connection at once: one waits for it, and the others ask other sentinels."""
    with (
        _first_sentinel(topology) as (url, proxy),
        ValkeyClient(url, connect_timeout=0.5) as client,
    ):
        proxy.reset_counts()
        proxy.stall.set()
        _drop_all(topology)

        assert at_once(16, lambda: client.set("a", "x")) == [True] * 16
        assert proxy.seen == 1


def test_no_sentinel_is_a_clear_error(closed_port: int) -> None:
    """Each sentinel and its failure are named, at once."""
    start = time.monotonic()
    with pytest.raises(ValkeyConnectionError, match=rf"no sentinel.*:{closed_port}.*refused"):
        ValkeyClient(f"redis+sentinel://127.0.0.1:{closed_port}/{SERVICE}")

    assert time.monotonic() - start < 1


def test_an_unknown_service_is_a_clear_error(topology: SentinelTopology) -> None:
    """The name that no sentinel knows is in the message."""
    port = topology.sentinels[0].port
    with pytest.raises(ValkeyConnectionError, match=r"knows no service 'other'"):
        ValkeyClient(f"redis+sentinel://:{PASSWORD}@127.0.0.1:{port}/other")


def test_a_wrong_password_is_the_primary_s_refusal(topology: SentinelTopology) -> None:
    """The sentinels ask for none, the primary does."""
    with pytest.raises(ValkeyConnectionError, match="WRONGPASS"):
        ValkeyClient(topology.url.replace(PASSWORD, "wrong"))


def test_a_replica_is_not_taken_for_the_primary(topology: SentinelTopology) -> None:
    """Sentinels may be behind: a server that says it is a replica is refused before any command."""
    factory = ConnectionFactory(url_source(topology.url), Limits(1.0, 1.0, 1))
    replica = Address("127.0.0.1", topology.replicas[0].port)
    connection = factory.make(replica, expect_primary=True)

    with pytest.raises(ReadOnlyError, match="not the primary yet"):
        connection.connect()
    assert not connection.is_connected


def _driver_reads(client: ValkeyClient, name: str) -> object:
    try:
        return client.client.get(name)
    except DriverConnectionError:
        return None


def test_a_killed_primary_is_replaced(topology: SentinelTopology) -> None:
    """Calls fail clearly until the new primary is there, then work; no value is another's."""
    acknowledged = {}
    failures = []
    with ValkeyClient(topology.url, connect_timeout=1, socket_timeout=1) as client:
        for number in range(200):
            client.set(f"before:{number}", str(number))
            acknowledged[f"before:{number}"] = str(number)
        with admin(topology.primary.port) as asked:
            # WAIT is for the writes of its own connection, and those before them.
            asked.set("marker", "x")
            wait_until("both replicas have all of them", lambda: asked.wait(2, 1000) == 2)
        topology.let_fail_over()
        topology.primary.stop(signal.SIGKILL)
        end, working = time.monotonic() + 120, 0
        while working < 200:
            assert time.monotonic() < end
            name = f"after:{len(acknowledged)}"
            try:
                client.set(name, name)
            except ValkeyError as error:
                failures.append(error)
                time.sleep(0.05)
            else:
                acknowledged[name] = name
                working += 1

        assert failures
        assert {type(error) for error in failures} <= {ValkeyConnectionError, ValkeyError}
        assert {name: client.get(name) for name in acknowledged} == acknowledged
        # The driver believes a sentinel only when that one sees the new primary up, too.
        wait_until("the plain driver follows", lambda: _driver_reads(client, "before:1") == "1")
