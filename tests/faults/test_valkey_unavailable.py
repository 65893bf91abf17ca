"""While Valkey is away: what limits and caches answer, how long it takes, and how it ends."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

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
    with ValkeyServer(directives=("enable-debug-command local",)) as started:
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
def _paused(server: ValkeyServer, _client: ValkeyClient) -> Iterator[None]:
    with ValkeyClient(server.url) as admin:
        admin.client.client_pause(60_000, all=False)
        try:
            yield
        finally:
            admin.client.client_unpause()


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
def _refusing(server: ValkeyServer, client: ValkeyClient) -> Iterator[None]:
    client.runner.link.pool.drop_idle()  # type: ignore[attr-defined]  # one server
    with ValkeyClient(server.url) as admin:
        before = int(admin.client.config_get("maxclients")["maxclients"] or 0)
        admin.client.config_set("maxclients", "1")
        try:
            yield
        finally:
            admin.client.config_set("maxclients", before)


@contextmanager
def _loading(server: ValkeyServer, _client: ValkeyClient) -> Iterator[None]:
    with ValkeyClient(server.url, socket_timeout=60.0) as admin:
        admin.set_many({f"k{number}": "x" * 100 for number in range(10_000)})
        admin.client.save()
        admin.client.config_set("loading-process-events-interval-bytes", "1024")
        admin.client.config_set("key-load-delay", "1000")
        loader = threading.Thread(target=lambda: raw(admin, "DEBUG", "RELOAD", "NOSAVE"))
        loader.start()
        try:
            wait_until("it loads", lambda: _code_of(lambda: admin.get("k1")) == "LOADING")
            yield
        finally:
            wait_until("it has time", lambda: admin.client.config_set("key-load-delay", "0"))
            loader.join()


def _code_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except ValkeyError as error:
        return error.code
    return None


@contextmanager
def _blocked_by_a_script(server: ValkeyServer, _client: ValkeyClient) -> Iterator[None]:
    with ValkeyClient(server.url, socket_timeout=60.0) as admin:
        admin.client.config_set("busy-reply-threshold", "50")
        script = threading.Thread(target=_run_for_ever, args=(admin,))
        script.start()
        try:
            wait_until("it is busy", lambda: _code_of(lambda: admin.get("a")) == "BUSY")
            yield
        finally:
            raw(admin, "SCRIPT", "KILL")
            script.join()


def _run_for_ever(admin: ValkeyClient) -> None:
    with suppress(ResponseError):
        raw(admin, "EVAL", "while true do end", "0")


@contextmanager
def _short_of_replicas(server: ValkeyServer, _client: ValkeyClient) -> Iterator[None]:
    with ValkeyClient(server.url) as admin:
        admin.client.config_set("min-replicas-to-write", "1")
        try:
            yield
        finally:
            admin.client.config_set("min-replicas-to-write", "0")


@contextmanager
def _exhausted(_server: ValkeyServer, client: ValkeyClient) -> Iterator[None]:
    pool: Any = client.runner.link.pool  # type: ignore[attr-defined]  # one server
    held = [pool.take(), pool.take()]
    try:
        yield
    finally:
        for one in held:
            pool.give_back(one)


TOPOLOGY_FAULTS: dict[str, tuple[Any, signal.Signals]] = {
    "behind Sentinel, and the primary is stopped": (SentinelTopology, signal.SIGKILL),
    "behind Sentinel, and the primary is frozen": (SentinelTopology, signal.SIGSTOP),
    "a Cluster, and the key's primary is stopped": (ClusterTopology, signal.SIGKILL),
    "a Cluster, and the key's primary is frozen": (ClusterTopology, signal.SIGSTOP),
}
#: As the table of the reference names them.
FAULTS = {
    "stopped": _stopped,
    "frozen": _frozen,
    "frozen, and no connection is open": _frozen_without_connections,
    "out of connections (`maxclients`)": _refusing,
    "loading its data": _loading,
    "paused (`CLIENT PAUSE`, and so a planned fail-over)": _paused,
    "blocked by a script": _blocked_by_a_script,
    "out of memory": _out_of_memory,
    "a read-only replica": _read_only,
    "short of replicas (`min-replicas-to-write`)": _short_of_replicas,
    "well, and all connections of the pool stay in use": _exhausted,
}
_PAGE = (Path(__file__).parents[2] / "clients/README.md").read_text()
_TABLE = {
    row[0]: row[1:]
    for row in re.findall(
        r"^\| (.+?) \| (.+?) \| (.+?) \|$",
        _PAGE.partition("## While Valkey is away")[2].partition("\n## ")[0],
        re.MULTILINE,
    )[1:]
}


def test_the_reference_has_every_fault() -> None:
    """And no row that nobody tries."""
    assert _TABLE.keys() == FAULTS.keys() | TOPOLOGY_FAULTS.keys()


def _told(error: ValkeyError) -> set[str]:
    """Return what the table says of an error: its reason and its code."""
    kind = error.code if error.code not in {None, "ERR"} else None
    return {f"`{word}`" for word in (error.reason, kind) if word}


def _seconds(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


@pytest.mark.parametrize("name", FAULTS)
def test_each_policy_answers_and_ends_by_itself(
    server: ValkeyServer, client: ValkeyClient, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As the table says: the error, who waits for it, one line in the log, and the end of it."""
    words, wait = _TABLE[name]
    assert not _deny(client).without_server
    client.delete("entry")
    with FAULTS[name](server, client), caplog.at_level(logging.INFO, "clients.valkey"):
        first = _seconds(lambda: _deny(client))
        later = min(_seconds(lambda: _deny(client)) for _ in range(3))
        for _ in range(2):
            assert _allow(client) == RateLimit(*(True, 0, 0.0, 0.0), without_server=True)
            denied = _deny(client)
            assert (denied.allowed, denied.without_server) == (False, True)
            assert denied.retry_after > 0
            assert _produce(client) == "produced"
        told = [one for one in caplog.records if one.name == "clients.valkey"]
        assert [one.levelname for one in told] == ["WARNING"]
        assert "without Valkey" in told[0].getMessage()
        for call in (
            lambda: client.rate_limit("limit", 10**6, 1.0),
            lambda: client.cached("entry", 60, lambda: "produced"),
        ):
            with pytest.raises(ValkeyError) as caught:
                call()
            assert _told(caught.value) == set(re.findall(r"`\w+`", words))

    assert (first > 0.9 * SILENCE) is (wait != "no time")
    assert later < 0.5 * SILENCE
    wait_until("Valkey answers", lambda: not _deny(client).without_server, 10)
    assert not _allow(client).without_server
    assert _produce(client) == "produced"
    assert client.get_json("entry") == "produced"


def test_a_pool_that_waits_for_a_frozen_server_costs_one_wait(
    server: ValkeyServer, client: ValkeyClient
) -> None:
    """Others hold all connections, and wait without a policy: a limiter waits for them once."""
    _deny(client)
    stop = threading.Event()

    def hold() -> None:
        while not stop.is_set():
            with suppress(ValkeyError):
                client.get("a")

    holders = [threading.Thread(target=hold) for _ in range(4)]
    with _frozen(server, client):
        for one in holders:
            one.start()
        taken = []
        for _ in range(40):
            taken.append(_seconds(lambda: _deny(client)))
            time.sleep(0.04 * SILENCE)
        stop.set()
    for one in holders:
        one.join()

    assert sum(seconds > 0.5 * SILENCE for seconds in taken) <= 1


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


def test_nobody_waits_for_ever_for_one_production(
    server: ValkeyServer, client: ValkeyClient
) -> None:
    """Who has waited for two lock times produces too, as while Valkey is there."""
    ends = threading.Event()
    made = Counter[bool]()

    def stuck() -> str:
        is_first = not made[True]
        made[is_first] += 1
        if is_first:
            ends.wait(30)
        else:
            ends.set()
        return "made"

    with _stopped(server, client):
        results = at_once(
            3, lambda: client.cached("stuck", 60, stuck, lock_seconds=1, on_unavailable="produce")
        )

    assert results == ["made"] * 3


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


def test_a_paused_server_is_tried_less_and_less(server: ValkeyServer) -> None:
    """It refuses a PING at once, and answers nothing that it is asked to do."""
    settings: dict[str, Any] = {"connect_timeout": 0.1, "socket_timeout": 0.1}
    with ValkeyClient(server.url, **settings) as opened:
        client: ValkeyClient = opened
        assert not _deny(client).without_server
        with _paused(server, client):
            taken = []
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                taken.append(_seconds(lambda: _deny(client)))
                time.sleep(0.01)
        wait_until("it is used again", lambda: not _deny(client).without_server, 10)

    assert sum(seconds > 0.09 for seconds in taken) <= len(taken) / 10


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
@pytest.mark.parametrize("kind", [ClusterTopology, SentinelTopology], ids=lambda k: k.__name__)
def test_a_partition_costs_one_time_out_however_many_servers_there_are(kind: Any) -> None:
    """All of them are silent at once: a call does not wait for one after the other."""
    settings: dict[str, Any] = {"connect_timeout": SILENCE, "socket_timeout": SILENCE}
    with kind() as topology, ValkeyClient(topology.url, **settings) as client:
        assert not _deny(client).without_server
        servers = topology.servers if kind is ClusterTopology else topology.sentinels
        silent = [*servers, *([topology.primary] if kind is SentinelTopology else [])]
        for one in silent:
            one.send_signal(signal.SIGSTOP)
        try:
            slow, given = _slow_calls(client, "limit", 3 * SILENCE)
            plain = []
            for _ in range(2):
                start = time.monotonic()
                with pytest.raises(ValkeyConnectionError) as caught:
                    client.get("a")
                plain.append(time.monotonic() - start)
                assert caught.value.reason == "timeout"
        finally:
            for one in silent:
                one.send_signal(signal.SIGCONT)
        wait_until("it is used again", lambda: not _deny(client).without_server, 20)

    assert slow == 1
    assert given[False] == 0
    assert min(plain) < 2 * SILENCE


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPOLOGY_FAULTS)
def test_a_primary_that_goes_away_costs_one_time_out_at_most(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own keys' calls are answered without it until the next primary is there, by itself."""
    kind, how = TOPOLOGY_FAULTS[name]
    words, _ = _TABLE[name]
    key, elsewhere = "limit", ""
    if kind is ClusterTopology:
        names = [f"limit-{number}" for number in range(100)]
        key = next(name for name in names if key_slot(name.encode()) <= 5460)
        elsewhere = next(name for name in names if key_slot(name.encode()) > 10922)
    settings: dict[str, Any] = {"connect_timeout": SILENCE, "socket_timeout": SILENCE}
    seen: set[str] = set()

    with kind() as topology, ValkeyClient(topology.url, **settings) as opened:
        client: ValkeyClient = opened

        def without(policy: Any = "deny") -> bool:
            return client.rate_limit(key, 10**6, 1.0, on_unavailable=policy).without_server

        assert not without()
        primary = topology.servers[0] if kind is ClusterTopology else topology.primary
        topology.let_fail_over()
        if how is signal.SIGKILL:
            primary.stop(how)
        else:
            primary.send_signal(how)
        try:
            with caplog.at_level(logging.WARNING, "clients.valkey"):
                slow, given = _slow_calls(client, key, 0.7)
                entry = f"{{{key}}}:entry"
                assert client.cached(entry, 9, lambda: 5, on_unavailable="produce") == 5
                if elsewhere:
                    assert _slow_calls(client, elsewhere, 0.1)[1][True] == 0
                try:
                    client.get(key)
                except ValkeyError as exc:
                    seen |= _told(exc)
                else:
                    assert not without("allow"), "it was answered: the next primary is there"
                wait_until("another primary", lambda: not without(), 40)
                again, later = _slow_calls(client, key, 0.3)
        finally:
            if how is signal.SIGSTOP:
                primary.send_signal(signal.SIGCONT)

    assert given[True] > 1
    assert slow == (1 if how is signal.SIGSTOP else 0)
    assert (again, later[True]) == (0, 0)
    assert [one.levelname for one in caplog.records if one.name == "clients.valkey"] == ["WARNING"]
    assert seen <= set(re.findall(r"`\w+`", words))
