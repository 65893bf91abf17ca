"""The pool's words and numbers, and what its errors are called by."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from clients.errors import ValkeyConfigurationError, ValkeyConnectionError, ValkeyError
from clients.valkey_client import ValkeyClient
from tests.valkey_helpers import at_once, client_behind_proxy
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server for the tests here."""
    with ValkeyServer() as started:
        yield started


def test_the_wait_for_a_place_is_pool_timeout_and_not_connect_timeout(server: ValkeyServer) -> None:
    """A short connect_timeout does not cut the wait, and pool_timeout does."""
    with client_behind_proxy(server, max_connections=1, connect_timeout=0.2, pool_timeout=5.0) as (
        client,
        proxy,
    ):
        proxy.delay = 0.5
        results = at_once(2, lambda: client.get("a"))
        assert results == [None, None]

    with client_behind_proxy(server, max_connections=1, pool_timeout=0.2) as (client, proxy):
        proxy.delay = 0.5
        busy = threading.Thread(target=client.get, args=("a",))
        busy.start()
        time.sleep(0.1)
        with pytest.raises(ValkeyConnectionError, match=r"0.2 s \(pool_timeout\)") as caught:
            client.get("a")
        busy.join()

    assert caught.value.reason == "exhausted"


def test_the_numbers_of_the_pool(server: ValkeyServer) -> None:
    """They say what is in use, and count what happened."""
    with client_behind_proxy(server, max_connections=3, pool_timeout=0.2) as (client, proxy):
        proxy.delay = 0.1
        assert at_once(2, lambda: client.get("a")) == [None, None]
        proxy.delay = 0
        now = client.stats()
        assert (now["max_size"], now["size"], now["idle"], now["in_use"]) == (3, 2, 2, 0)
        assert (now["checkouts"], now["connects"], now["connect_failures"]) == (3, 2, 0)
        proxy.cut()
        proxy.refuse.set()
        with pytest.raises(ValkeyConnectionError):
            client.get("a")
        proxy.refuse.clear()
        client.get("a")
        now = client.stats()
        assert (now["stale"], now["connect_failures"]) == (2, 1)
        proxy.delay = 0.5
        busy = [threading.Thread(target=client.get, args=("a",)) for _ in range(3)]
        for one in busy:
            one.start()
        wait = time.monotonic() + 5
        while client.stats()["in_use"] < 3 and time.monotonic() < wait:
            time.sleep(0.01)
        with pytest.raises(ValkeyConnectionError):
            client.get("a")
        for one in busy:
            one.join()

        assert client.stats()["exhausted"] == 1


def test_the_numbers_are_those_of_the_other_pools(server: ValkeyServer) -> None:
    """One dashboard reads them all."""
    with ValkeyClient(server.url) as client:
        assert list(client.stats()) == [
            *("max_size", "size", "idle", "in_use", "waiting"),
            *("checkouts", "connects", "connect_failures", "stale", "retired", "exhausted"),
            *("used", "max", "pending_requests", "timeouts"),
        ]


def test_a_wait_ends_on_a_clock_that_stands_still(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waits are counted as well: a test that freezes time does not hang."""
    with ValkeyClient(server.url, max_connections=1, pool_timeout=0.3) as client:
        held = client.runner.link.pool.take()  # type: ignore[attr-defined]  # one server
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
        with pytest.raises(ValkeyConnectionError, match="pool_timeout"):
            client.get("a")
        monkeypatch.undo()
        held.disconnect()


@pytest.mark.timeout(60, method="thread")  # the alarm is the test's own
def test_who_is_interrupted_no_longer_waits(server: ValkeyServer) -> None:
    """A soft time limit ends the wait for a place: nobody is woken in vain, and none is counted."""

    class Expired(Exception):  # noqa: N818 - named as in task queues
        """A soft time limit."""

    def ring(_number: int, _frame: object) -> None:
        raise Expired

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with client_behind_proxy(server, max_connections=1) as (client, proxy):
            proxy.stall.set()
            busy = threading.Thread(target=lambda: at_once(1, lambda: client.get("a")))
            busy.start()
            while not client.stats()["in_use"]:
                time.sleep(0.001)
            for _ in range(20):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises(Expired):
                    client.get("b")
            waiting = client.stats()["waiting"]
            proxy.cut()
            busy.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert waiting <= 1


def test_each_failure_has_its_reason(server: ValkeyServer, closed_port: int) -> None:
    """A program tells failures apart without their words."""
    wrong = server.url.replace(server.password, "wrong")
    for url, reason in (
        (f"redis://127.0.0.1:{closed_port}", "refused"),
        ("redis://no-such-host.invalid", "refused"),
        (wrong, "login"),
        (f"redis://127.0.0.1:{server.port}", "login"),
    ):
        with pytest.raises(ValkeyConnectionError) as caught:
            ValkeyClient(url)
        assert caught.value.reason == reason
    with client_behind_proxy(server, socket_timeout=0.2) as (client, proxy):
        proxy.stall.set()
        with pytest.raises(ValkeyConnectionError) as caught:
            client.get("a")
        assert caught.value.reason == "timeout"
        proxy.stall.clear()
        proxy.cut_after = b"GET"
        with pytest.raises(ValkeyConnectionError) as caught:
            client.get("a")
        assert caught.value.reason == "lost"
        client.client.rpush("list", "x")
        with pytest.raises(ValkeyError) as other:
            client.get("list")
        assert other.value.reason is None


@pytest.mark.parametrize("value", [0, -1, None, float("inf"), True, "5"])
def test_a_bad_pool_timeout_is_refused(server: ValkeyServer, value: float) -> None:
    """As every other time-out."""
    with pytest.raises(ValkeyConfigurationError, match="pool_timeout"):
        ValkeyClient(server.url, pool_timeout=value)
