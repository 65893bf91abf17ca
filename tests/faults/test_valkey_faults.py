"""Servers that die, freeze, fill up, turn read-only or load: each gives its own clear error."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from clients.errors import ValkeyConnectionError
from clients.valkey_client import ValkeyClient, ValkeyError
from tests.valkey_helpers import at_once, client_behind_proxy, raw
from tests.valkey_topologies import wait_until
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "canary-pa55word"


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server that these tests may hurt, as long as they leave it running."""
    with ValkeyServer(password=PASSWORD, directives=("enable-debug-command local",)) as started:
        yield started


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[ValkeyClient]:
    """A client with short time-outs."""
    with ValkeyClient(server.url, connect_timeout=0.5, socket_timeout=0.5) as opened:
        yield opened


def test_a_restart_costs_no_failed_call(server: ValkeyServer, client: ValkeyClient) -> None:
    """Idle connections that the old server left behind are replaced before a command is sent."""
    assert set(at_once(8, client.health_check)) == {True}
    server.restart(signal.SIGKILL)

    results = at_once(8, lambda: client.incr("after-restart"))

    assert sorted(map(int, results)) == list(range(1, 9))  # type: ignore[arg-type]


def test_a_killed_server_fails_fast_and_comes_back(
    server: ValkeyServer, client: ValkeyClient
) -> None:
    """While it is down each call fails at once; when it is up again the next call works."""
    server.stop(signal.SIGKILL)
    start = time.monotonic()
    for _ in range(5):
        with pytest.raises(ValkeyConnectionError, match=r"GET 'k'.*refused"):
            client.get("k")
    assert time.monotonic() - start < 1
    server.start()

    assert client.set("k", "x") is True


def test_a_paused_server_costs_one_timeout(server: ValkeyServer, client: ValkeyClient) -> None:
    """A frozen server: the call ends with socket_timeout, and the next one after it is right."""
    client.set("a", "A")
    client.set("b", "B")
    server.send_signal(signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(ValkeyConnectionError, match=r"GET 'a'.*socket_timeout") as caught:
            client.get("a")
        took = time.monotonic() - start
    finally:
        server.send_signal(signal.SIGCONT)

    assert 0.4 < took < 2
    assert not caught.value.maybe_applied
    assert client.get("b") == "B"


def test_a_lost_reply_has_counted_once(server: ValkeyServer) -> None:
    """An increment whose reply never comes raises, says so, and is not sent again."""
    with client_behind_proxy(server, socket_timeout=0.4) as (client, proxy):
        client.delete("n")
        proxy.stall.set()
        with pytest.raises(ValkeyConnectionError, match=r"may have been applied") as caught:
            client.incr("n")
        proxy.stall.clear()

        assert caught.value.maybe_applied
        assert client.get("n") == "1"


def test_a_cached_value_that_cannot_be_stored_costs_one_time_out(server: ValkeyServer) -> None:
    """A server that is silent is not asked for the lock's release as well: it ends by itself."""
    with client_behind_proxy(server, socket_timeout=0.4) as (client, proxy):
        client.delete("slow")
        proxy.watch = b"SETINFO"
        with pytest.raises(ValkeyConnectionError, match=r"store into cache"):
            client.cached("slow", 60, proxy.stall.set, lock_seconds=1)
        proxy.stall.clear()

        # The release would begin a new connection with its greeting; nobody waits for a probe.
        assert proxy.seen == 0


def test_a_lost_pipeline_has_counted_once(server: ValkeyServer) -> None:
    """The same holds for a pipeline."""
    with client_behind_proxy(server, socket_timeout=0.4) as (client, proxy):
        client.delete_many(["n", "m"])
        proxy.stall.set()
        with pytest.raises(ValkeyConnectionError, match=r"pipeline of 2 commands") as caught:
            client.pipeline().incr("n").incr("m").execute()
        proxy.stall.clear()

        assert caught.value.maybe_applied
        assert client.get_many(["n", "m"]) == {"n": "1", "m": "1"}


def test_a_reply_cut_off_has_counted_once(server: ValkeyServer) -> None:
    """The connection breaks after the request arrived: an error, and one increment."""
    with client_behind_proxy(server) as (client, proxy):
        client.delete("n")
        proxy.stall.set()
        cutter = threading.Timer(0.2, proxy.cut)
        cutter.start()
        with pytest.raises(ValkeyConnectionError, match=r"'n'") as caught:
            client.incr("n")
        cutter.join()
        proxy.stall.clear()

        assert caught.value.maybe_applied
        assert client.get("n") == "1"


def test_an_unsent_change_is_not_called_applied(server: ValkeyServer) -> None:
    """When no connection could be had, the error says that nothing was changed."""
    with client_behind_proxy(server) as (client, proxy):
        proxy.refuse.set()
        proxy.cut()
        time.sleep(0.1)
        with pytest.raises(ValkeyConnectionError) as caught:
            client.incr("n")

        assert not caught.value.maybe_applied


def test_idle_connections_that_the_server_closed_cost_nothing(
    server: ValkeyServer, client: ValkeyClient
) -> None:
    """A server with an idle time-out closes connections; no call notices."""
    client.delete("n")
    for expected in range(1, 6):
        client.client.client_kill_filter(_type="normal", skipme=True)
        assert client.incr("n") == expected


def test_an_exhausted_pool_says_so_within_its_bound(server: ValkeyServer) -> None:
    """A caller waits for a free connection, and then learns which limit to raise."""
    with client_behind_proxy(server, max_connections=2, pool_timeout=0.5, socket_timeout=3) as (
        client,
        proxy,
    ):
        proxy.delay = 1.0
        busy = [threading.Thread(target=client.get, args=("a",)) for _ in range(2)]
        for one in busy:
            one.start()
        time.sleep(0.1)
        start = time.monotonic()
        with pytest.raises(ValkeyConnectionError, match=r"all 2 connections.*max_connections"):
            client.get("a")
        took = time.monotonic() - start
        for one in busy:
            one.join()

    assert 0.4 < took < 1.5


@pytest.mark.parametrize("state", ["there", "gone"])
def test_the_health_of_a_busy_pool_is_the_servers(server: ValkeyServer, state: str) -> None:
    """Calls that hold every connection do not make a service look dead, and a dead one is."""
    with client_behind_proxy(server, max_connections=2, pool_timeout=0.5, socket_timeout=30) as (
        client,
        proxy,
    ):
        client.get("a")
        proxy.stall.set()
        busy = [threading.Thread(target=get_in_vain, args=(client,)) for _ in range(2)]
        for one in busy:
            one.start()
        wait_until("both are sent", lambda: client.stats()["in_use"] == 2)
        time.sleep(0.1)  # both requests are on their way
        if state == "there":
            proxy.stall.clear()
            assert client.health_check() is True
        else:
            proxy.refuse.set()
            with pytest.raises(ValkeyConnectionError) as caught:
                client.health_check()
            assert caught.value.reason != "exhausted"
        assert client.stats()["in_use"] == 2
        proxy.cut()
        for one in busy:
            one.join()


def get_in_vain(client: ValkeyClient) -> None:
    with suppress(ValkeyError):
        client.get("a")


def test_a_call_under_way_when_the_client_is_closed_leaves_no_connection(
    server: ValkeyServer,
) -> None:
    """It ends as it would have, and its connection with it."""
    answers: list[str | None] = []
    with ValkeyClient(server.url) as admin:
        admin.set("a", "A")
        before = len(admin.client.client_list())
        with client_behind_proxy(server) as (client, proxy):
            proxy.delay = 0.2
            call = threading.Thread(target=lambda: answers.append(client.get("a")))
            call.start()
            time.sleep(0.1)
            client.close()
            call.join()

            assert answers == ["A"]
            wait_until(
                "its connection is gone", lambda: len(admin.client.client_list()) == before, 5
            )


def test_more_threads_than_connections_wait_their_turn(server: ValkeyServer) -> None:
    """Many threads share few connections without an error."""
    with ValkeyClient(server.url, max_connections=3) as client:
        client.delete("n")
        results = at_once(60, lambda: [client.incr("n") for _ in range(20)])

        assert not [result for result in results if isinstance(result, BaseException)]
        assert client.get("n") == "1200"
        assert int(client.client.info("clients")["connected_clients"]) <= 3 + 1


def test_a_forked_child_gets_its_own_connection(client: ValkeyClient) -> None:
    """Parent and child talk over different sockets, and neither reads the other's replies."""
    client.set("who", "parent")
    client.set("child", "")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if all(client.get("who") == "parent" for _ in range(200)):
                client.set("child", "done")
                status = 0
        finally:
            os._exit(status)
    answers = {client.get("who") for _ in range(200)}
    _, code = os.waitpid(child, 0)

    assert answers == {"parent"}
    assert code == 0
    assert client.get("child") == "done"


def test_no_thread_of_a_forked_child_gets_a_parent_s_connection(client: ValkeyClient) -> None:
    """Threads that the child starts at once have connections of its own alone."""
    pool = client.runner.link.pool  # type: ignore[attr-defined]  # one server
    at_once(4, client.health_check)
    parents = {int(one["id"]) for one in client.client.client_list()}
    child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            ids = at_once(4, lambda: pool.call(("CLIENT", "ID")))
            status = 0 if len(ids) == 4 and parents.isdisjoint(ids) else 1
        os._exit(status)
    _, code = os.waitpid(child, 0)

    assert code == 0


def test_out_of_memory_is_named(server: ValkeyServer, client: ValkeyClient) -> None:
    """With noeviction a full server refuses writes, and reads still work."""
    client.set("a", "x")
    client.client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(ValkeyError, match=r"'b'.*OOM.*out of memory") as caught:
            client.set("b", "x")
        with pytest.raises(ValkeyError, match=r"'n'.*OOM"):
            client.incr("n", expire_seconds=5)
        assert caught.value.code == "OOM"
        assert not caught.value.maybe_applied
        assert client.get("a") == "x"
    finally:
        client.client.config_set("maxmemory", "0")


def test_read_only_is_named_and_its_connection_dropped(
    client: ValkeyClient, closed_port: int
) -> None:
    """A demoted primary refuses writes; the next call connects anew, so that a moved name works."""
    admin = client.client
    client.health_check()
    raw(client, "REPLICAOF", "127.0.0.1", str(closed_port))
    try:
        before = int(admin.info("stats")["total_connections_received"])
        for _ in range(3):
            with pytest.raises(ValkeyError, match=r"'a'.*READONLY.*primary") as caught:
                client.set("a", "x")
            with pytest.raises(ValkeyError, match=r"'a'.*READONLY.*1 of 2"):
                client.pipeline().get("a").set("a", "x").execute()
        after = int(admin.info("stats")["total_connections_received"])
    finally:
        raw(client, "REPLICAOF", "NO", "ONE")

    assert caught.value.code == "READONLY"
    assert after - before == 2 + 3
    assert client.set("a", "y") is True


def test_loading_is_named() -> None:
    """A server that still loads its data says so, and works when it is done."""
    directives = ("enable-debug-command local", "key-load-delay 2000", "save 3600 1")
    with (
        ValkeyServer(password="", directives=directives) as server,
        ValkeyClient(server.url) as client,
    ):
        for number in range(600):
            client.set(f"k{number}", "x" * 100)
        client.client.config_set("loading-process-events-interval-bytes", "1024")
        client.client.save()
        loader = threading.Thread(target=lambda: raw(client, "DEBUG", "RELOAD", "NOSAVE"))
        loader.start()
        time.sleep(0.5)
        with pytest.raises(ValkeyConnectionError, match=r"LOADING.*still loading") as caught:
            client.set("a", "x")
        with pytest.raises(ValkeyConnectionError, match=r"SET 'a'.*LOADING.*all 2") as together:
            client.pipeline().set("a", "x").incr("n").execute()
        loader.join()

        for one in (caught.value, together.value):
            assert one.code == "LOADING"
            assert not one.maybe_applied
        assert client.get("k1") == "x" * 100


def test_a_busy_script_is_named(server: ValkeyServer, client: ValkeyClient) -> None:
    """A script that blocks the server gives its own error, with the mend."""
    admin = client.client
    admin.config_set("busy-reply-threshold", "50")
    blocker = threading.Thread(target=_run_endless_script, args=(server.url,))
    blocker.start()
    time.sleep(0.3)
    try:
        with pytest.raises(ValkeyError, match=r"'a'.*BUSY.*SCRIPT KILL") as caught:
            client.get("a")
    finally:
        admin.script_kill()
        blocker.join()

    assert caught.value.code == "BUSY"


def _run_endless_script(url: str) -> None:
    with ValkeyClient(url) as client, pytest.raises(Exception, match=r"kill"):
        client.client.eval("while true do end", 0)


def test_a_full_server_says_so(server: ValkeyServer, client: ValkeyClient) -> None:
    """Maxclients reached: the reason is the server's."""
    client.client.config_set("maxclients", "2")
    try:
        with pytest.raises(ValkeyConnectionError, match=r"max number of clients"):
            ValkeyClient(server.url)
    finally:
        client.client.config_set("maxclients", "10000")


def test_a_change_of_scripts_is_survived(server: ValkeyServer, client: ValkeyClient) -> None:
    """Scripts that a server has forgotten are sent again, without an error."""
    client.delete("n")
    assert client.incr("n", expire_seconds=60) == 1
    client.client.script_flush()
    assert client.incr("n", expire_seconds=60) == 2
    assert client.rate_limit("r", 5, 60).allowed
    client.client.script_flush()

    assert client.rate_limit("r", 5, 60).remaining == 3
