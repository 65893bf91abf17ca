"""While Valkey is away: what limits and caches answer, how long it takes, and how it ends."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from clients.errors import ValkeyConfigurationError, ValkeyConnectionError, ValkeyError
from clients.valkey_client import RateLimit, SessionStore, ValkeyClient
from tests.valkey_helpers import at_once, client_behind_proxy, raw
from tests.valkey_topologies import ClusterTopology, SentinelTopology, wait_until
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Long beside what a call takes, and short beside a test.
SILENCE = 0.5


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server that these tests hurt, and leave well."""
    with ValkeyServer() as started:
        yield started


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[ValkeyClient]:
    """A client with short time-outs and two connections."""
    with ValkeyClient(
        server.url,
        connect_timeout=SILENCE,
        socket_timeout=SILENCE,
        pool_timeout=SILENCE,
        max_connections=2,
    ) as opened:
        yield opened


def _allow(client: ValkeyClient) -> RateLimit:
    return client.rate_limit("limit", 10**6, 1.0, on_unavailable="allow")


def _deny(client: ValkeyClient) -> RateLimit:
    return client.rate_limit("limit", 10**6, 1.0, on_unavailable="deny")


def _produce(client: ValkeyClient) -> Any:
    return client.cached("entry", 60, lambda: "produced", on_unavailable="produce")


@contextmanager
def _stopped(server: ValkeyServer, _client: ValkeyClient) -> Iterator[None]:
    server.stop(signal.SIGKILL)
    try:
        yield
    finally:
        server.start()


@contextmanager
def _frozen(server: ValkeyServer, _client: ValkeyClient) -> Iterator[None]:
    server.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.send_signal(signal.SIGCONT)


@contextmanager
def _frozen_without_connections(server: ValkeyServer, client: ValkeyClient) -> Iterator[None]:
    client.runner.link.pool.drop_idle()  # type: ignore[attr-defined]  # one server
    with _frozen(server, client):
        yield


@contextmanager
def _out_of_memory(server: ValkeyServer, _client: ValkeyClient) -> Iterator[None]:
    with ValkeyClient(server.url) as admin:
        admin.client.config_set("maxmemory", "1mb")
        try:
            yield
        finally:
            admin.client.config_set("maxmemory", "0")


@contextmanager
def _read_only(server: ValkeyServer, _client: ValkeyClient) -> Iterator[None]:
    with ValkeyClient(server.url) as admin:
        raw(admin, "REPLICAOF", "127.0.0.1", "1")
        try:
            yield
        finally:
            raw(admin, "REPLICAOF", "NO", "ONE")


@contextmanager
def _exhausted(_server: ValkeyServer, client: ValkeyClient) -> Iterator[None]:
    pool: Any = client.runner.link.pool  # type: ignore[attr-defined]  # one server
    held = [pool.take(), pool.take()]
    try:
        yield
    finally:
        for one in held:
            pool.give_back(one)


FAULTS = [_stopped, _frozen, _frozen_without_connections, _out_of_memory, _read_only, _exhausted]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_each_policy_answers_and_ends_by_itself(
    server: ValkeyServer, client: ValkeyClient, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer says that it was given without Valkey, and the first call after it is Valkey's."""
    assert not _deny(client).without_server
    client.delete("entry")
    with fault(server, client), caplog.at_level(logging.INFO, "clients.valkey"):
        for _ in range(2):
            assert _allow(client) == RateLimit(*(True, 0, 0.0, 0.0), without_server=True)
            denied = _deny(client)
            assert (denied.allowed, denied.without_server) == (False, True)
            assert denied.retry_after > 0
            assert _produce(client) == "produced"
        with pytest.raises(ValkeyError):
            client.rate_limit("limit", 10**6, 1.0)
        with pytest.raises(ValkeyError):
            client.cached("entry", 60, lambda: "produced")
        told = [one for one in caplog.records if one.name == "clients.valkey"]
        assert [one.levelname for one in told] == ["WARNING"]
        assert "without Valkey" in told[0].getMessage()

    wait_until("Valkey answers", lambda: not _deny(client).without_server, 10)
    assert not _allow(client).without_server
    assert _produce(client) == "produced"
    assert client.get_json("entry") == "produced"


@pytest.mark.parametrize("fault", [_frozen, _frozen_without_connections], ids=lambda f: f.__name__)
def test_the_first_call_pays_one_time_out_and_the_others_none(
    server: ValkeyServer, client: ValkeyClient, fault: Any
) -> None:
    """A thousand calls to a frozen server cost less than a second time-out; so do threads."""
    _deny(client)
    with fault(server, client):
        start = time.monotonic()
        assert _deny(client).without_server
        first = time.monotonic() - start
        for _ in range(300):
            assert _allow(client).without_server
            assert _deny(client).without_server
        for _ in range(100):
            assert _produce(client) == "produced"
        assert all(one.without_server for one in at_once(20, lambda: _deny(client)))  # type: ignore[union-attr]
        others = time.monotonic() - start - first
        pool = client.stats()

    assert 0.9 * SILENCE < first < 3 * SILENCE
    # 720 calls at 0.5 s each would be six minutes.
    assert others < 720 * SILENCE / 20
    assert pool["connects"] - pool["connect_failures"] <= 3


def test_a_server_that_wakes_is_used_at_once(server: ValkeyServer, client: ValkeyClient) -> None:
    """No pause has to pass: the answer to the probe is there as soon as the server runs."""
    _deny(client)
    for _ in range(3):
        with _frozen(server, client):
            assert _deny(client).without_server
        wait_until("the server has answered", lambda: not _deny(client).without_server, 2)


def test_a_silence_that_another_method_met_is_known(
    server: ValkeyServer, client: ValkeyClient
) -> None:
    """A get() that timed out has paid for the limiter."""
    client.get("a")
    with _frozen(server, client):
        with pytest.raises(ValkeyConnectionError):
            client.get("a")
        start = time.monotonic()
        assert _deny(client).without_server
        took = time.monotonic() - start

    assert took < 0.9 * SILENCE


def test_waiting_threads_have_one_production(server: ValkeyServer, client: ValkeyClient) -> None:
    """While Valkey is away, the load behind the cache is one call at a time in each process."""
    made: list[float] = []

    def slow() -> str:
        made.append(time.monotonic())
        time.sleep(0.3)
        return "slow"

    with _stopped(server, client):
        results = at_once(16, lambda: client.cached("slow", 60, slow, on_unavailable="produce"))

    assert results == ["slow"] * 16
    assert len(made) == 1


def test_a_value_that_cannot_be_stored_is_returned(
    server: ValkeyServer, client: ValkeyClient
) -> None:
    """The server goes away while the value is made: it is there all the same."""
    client.delete("late")

    def late() -> str:
        server.stop(signal.SIGKILL)
        return "late"

    try:
        assert client.cached("late", 60, late, on_unavailable="produce") == "late"
    finally:
        server.start()


def test_a_mistake_is_no_outage(client: ValkeyClient) -> None:
    """A key of another type, a producer's error and a closed client raise under every policy."""
    client.client.rpush("list", "x")
    with pytest.raises(ValkeyError, match="WRONGTYPE"):
        client.rate_limit("list", 1, 1.0, on_unavailable="allow")
    with pytest.raises(ValkeyError, match="WRONGTYPE"):
        client.cached("list", 60, lambda: 1, on_unavailable="produce")

    def unreachable() -> None:
        raise ValkeyConnectionError("of another client", reason="refused")

    client.delete("entry")
    with pytest.raises(ValkeyConnectionError, match="of another client"):
        client.cached("entry", 60, unreachable, on_unavailable="produce")
    client.close()
    with pytest.raises(ValkeyError, match="closed"):
        client.rate_limit("limit", 1, 1.0, on_unavailable="allow")


@pytest.mark.parametrize("policy", ["", "Allow", None, True, "produce"])
def test_an_unknown_policy_is_refused(client: ValkeyClient, policy: Any) -> None:
    """A limiter's typing error does not become "raise"."""
    with pytest.raises(ValkeyConfigurationError, match="on_unavailable"):
        client.rate_limit("limit", 1, 1.0, on_unavailable=policy)
    if policy != "produce":
        with pytest.raises(ValkeyConfigurationError, match="on_unavailable"):
            client.cached("entry", 1, lambda: 1, on_unavailable=policy)


def test_sessions_are_never_absent_for_an_outage(
    server: ValkeyServer, client: ValkeyClient
) -> None:
    """Each call raises, so that nobody is logged out by it, and the session is there after it."""
    store = SessionStore(client)
    token = store.create("u", {"a": 1})
    calls: list[Callable[[], object]] = [
        lambda: store.read(token),
        lambda: store.update(token, {}),
        lambda: store.revoke(token),
        lambda: store.list("u"),
    ]
    with _frozen(server, client):
        for call in calls:
            with pytest.raises(ValkeyConnectionError):
                call()
    wait_until("it answers", lambda: not _deny(client).without_server, 5)

    assert store.read(token) is not None


def test_a_forked_child_probes_for_itself(server: ValkeyServer, client: ValkeyClient) -> None:
    """The parent's probe is not read by its child, and both find the server again."""
    _deny(client)
    with _frozen(server, client):
        assert _deny(client).without_server
        child = os.fork()
        if child == 0:
            silent = _deny(client).without_server
            os._exit(0 if silent else 1)
        _, code = os.waitpid(child, 0)
    assert code == 0
    wait_until("the parent's probe has its answer", lambda: not _deny(client).without_server, 5)


def test_probes_leave_no_socket(server: ValkeyServer) -> None:
    """A closed client closes its probe, too."""
    with client_behind_proxy(server, socket_timeout=0.2) as (client, proxy):
        proxy.stall.set()
        assert _deny(client).without_server
        assert _deny(client).without_server
        client.close()
        wait_until("nobody is connected", lambda: not proxy._sockets, 5)


def _slow_calls(client: ValkeyClient, name: str, seconds: float) -> tuple[int, Counter[bool]]:
    """Ask for *seconds*; return how many answers took half a time-out, and who gave them."""
    slow, given = 0, Counter[bool]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        answer = client.rate_limit(name, 10**6, 1.0, on_unavailable="allow")
        slow += time.monotonic() - start > 0.5 * SILENCE
        given[answer.without_server] += 1
        time.sleep(0.005)
    return slow, given


@pytest.mark.slow
def test_behind_sentinels_a_frozen_primary_costs_few_time_outs() -> None:
    """One for the primary; after the fail-over the next one answers without anybody's doing."""
    with SentinelTopology() as topology:
        settings = {"connect_timeout": SILENCE, "socket_timeout": SILENCE}
        with ValkeyClient(topology.url, **settings) as client:  # type: ignore[arg-type]  # floats
            assert not _deny(client).without_server
            topology.primary.send_signal(signal.SIGSTOP)
            try:
                slow, given = _slow_calls(client, "limit", 1.0)
                assert given[True] > 10
                wait_until("a new primary", lambda: not _allow(client).without_server, 40)
                again, later = _slow_calls(client, "limit", 0.5)
            finally:
                topology.primary.send_signal(signal.SIGCONT)

    assert slow <= 2
    assert (again, later[True]) == (0, 0)


@pytest.mark.slow
def test_in_a_cluster_a_frozen_server_costs_its_own_keys_alone() -> None:
    """One time-out; keys of the other servers are limited as ever, and the replica takes over."""
    with ClusterTopology() as topology:
        names = [f"limit-{number}" for number in range(100)]
        first = next(name for name in names if key_slot(name.encode()) <= 5460)
        other = next(name for name in names if key_slot(name.encode()) > 10922)
        settings = {"connect_timeout": SILENCE, "socket_timeout": SILENCE}
        with ValkeyClient(topology.url, **settings) as client:  # type: ignore[arg-type]  # floats
            for name in (first, other):
                assert not client.rate_limit(name, 10, 1.0, on_unavailable="deny").without_server
            topology.servers[0].send_signal(signal.SIGSTOP)
            try:
                slow, given = _slow_calls(client, first, 0.8)
                assert given[True] > 5
                elsewhere, answers = _slow_calls(client, other, 0.2)
                wait_until(
                    "the replica has taken over",
                    lambda: (
                        not client.rate_limit(
                            first, 10**6, 1.0, on_unavailable="deny"
                        ).without_server
                    ),
                    40,
                )
            finally:
                topology.servers[0].send_signal(signal.SIGCONT)

    assert slow <= 2
    assert (elsewhere, answers[True]) == (0, 0)
