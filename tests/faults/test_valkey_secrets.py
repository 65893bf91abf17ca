"""No password and no session token shows in what error reporters collect of a failure."""

from __future__ import annotations

import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from redis.exceptions import RedisError

from clients._shared.secrecy import Masked
from clients.errors import ValkeyError
from clients.valkey_client import SessionStore, ValkeyClient
from tests.secret_walker import SENTINEL, leaks_at_steps, leaks_of
from tests.valkey_helpers import client_behind_proxy
from tests.valkey_methods import METHODS
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server whose password is like nothing else."""
    with ValkeyServer(password=SENTINEL) as started:
        yield started


def _urls(port: int) -> dict[str, str]:
    return {
        "wrong password": f"redis://:{SENTINEL}x@127.0.0.1:{port}/0",
        "unknown user": f"redis://somebody:{SENTINEL}@127.0.0.1:{port}/0",
        "no such database": f"redis://:{SENTINEL}@127.0.0.1:{port}/99",
        "unescaped slash": f"redis://:{SENTINEL}/x@127.0.0.1:{port}/0",
        "unescaped hash": f"redis://:{SENTINEL}#x@127.0.0.1:{port}/0",
        "no scheme": f"{SENTINEL}@127.0.0.1:{port}",
        "bad escape": f"redis://:{SENTINEL}%zz@127.0.0.1:{port}/0",
        "no UTF-8": f"redis://:{SENTINEL}%ff@127.0.0.1:{port}/0",
        "bad port": f"redis://:{SENTINEL}@127.0.0.1:{SENTINEL}",
        "bad database": f"redis://:{SENTINEL}@127.0.0.1:{port}/{SENTINEL}",
        "bad option": f"redis://:{SENTINEL}@127.0.0.1:{port}/0?{SENTINEL}=1",
        "line end within": f"redis://:{SENTINEL}@127.0.0.1\n:{port}/0",
        "no TLS there": f"rediss://:{SENTINEL}@127.0.0.1:{port}/0",
        "no certificate": f"rediss://:{SENTINEL}@127.0.0.1:{port}/0?ssl_ca_certs=/absent.pem",
        "no cluster": f"redis+cluster://:{SENTINEL}@127.0.0.1:{port}",
        "no sentinel": f"redis+sentinel://:{SENTINEL}@127.0.0.1:{port}/s?sentinel_password={SENTINEL}",
        "closed port": f"redis://:{SENTINEL}@127.0.0.1:1/0",
    }


@pytest.mark.parametrize("given", ["text", "callable"])
@pytest.mark.parametrize("name", _urls(0))
def test_a_failed_construction_shows_no_password(
    server: ValkeyServer, name: str, given: str
) -> None:
    """Neither a message, nor a cause or context, nor a variable of any frame."""
    url = _urls(server.port)[name]

    def give() -> str:
        return url

    source: Any = url if given == "text" else give
    call = lambda: ValkeyClient(source, connect_timeout=0.3, socket_timeout=0.3)  # noqa: E731

    assert leaks_of(call, SENTINEL) == []


def test_no_call_shows_a_password_when_the_server_is_gone(server: ValkeyServer) -> None:
    """Every method: refused, silent, and with a refused login."""
    for fault in ("refuse", "stall", "password"):
        with client_behind_proxy(server, socket_timeout=0.2) as (client, proxy):
            if fault == "password":
                url = Masked(_urls(proxy.port)["wrong password"])
                client.runner.factory.source._url = url
                client.runner.factory.source._working = None
            else:
                getattr(proxy, fault).set()
            for name, method in METHODS.items():
                if fault == "stall" and name not in {"get", "pipeline", "sessions.create"}:
                    continue
                proxy.cut()
                time.sleep(0.02)  # until the client can see it
                call: Callable[[], object] = lambda: method(client)  # noqa: E731, B023 - called at once
                assert leaks_of(call, SENTINEL) == [], (fault, name)
            if fault == "refuse":
                with pytest.raises(RedisError):
                    client.client.get("a")
                assert leaks_of(lambda: client.client.get("a"), SENTINEL) == []


def test_no_call_shows_a_session_s_token_when_the_server_is_gone(server: ValkeyServer) -> None:
    """read, update, replace and revoke drop it before they ask the server; create masks it."""
    with client_behind_proxy(server, socket_timeout=0.2) as (client, proxy):
        store = SessionStore(client)
        token = store.create("u", {"a": 1})
        for fault in (proxy.refuse, proxy.stall):
            fault.set()
            for call in (
                lambda: store.read(token),
                lambda: store.update(token, {"a": 2}),
                lambda: store.replace(token, {"a": 2}),
                lambda: store.revoke(token),
            ):
                proxy.cut()
                assert leaks_of(call, token, token[22:]) == []
            fault.clear()
        given: Any = token.encode()
        for refused in (
            lambda: store.read(given),
            lambda: store.update(given, {"a": 2}),
            lambda: store.replace(given, {"a": 2}),
            lambda: store.revoke(given),
        ):
            assert leaks_of(refused, token, token[22:]) == []
        with pytest.raises(ValkeyError):
            store.update(token, {"a": {1}})
        assert leaks_of(lambda: store.update(token, {"a": {1}}), token, token[22:]) == []


def test_a_token_that_was_made_in_vain_does_not_show(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have stored the session although its reply was lost."""
    monkeypatch.setattr("secrets.token_urlsafe", lambda _size: SENTINEL * 4)
    with client_behind_proxy(server, socket_timeout=0.2) as (client, proxy):
        store = SessionStore(client)
        proxy.cut_after = b"EVALSHA"

        assert leaks_of(lambda: store.create("u"), SENTINEL * 4) == []


@pytest.mark.filterwarnings(
    # A step may lie in a generator that is being closed: nobody can be told of that.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_an_interrupted_login_shows_no_password(server: ValkeyServer) -> None:
    """At each step of a call that has to connect: a soft time limit comes where it likes."""
    with ValkeyClient(server.url) as client:

        def call() -> None:
            client.runner.link.pool.drop_idle()  # type: ignore[attr-defined]  # one server
            client.get("a")

        assert leaks_at_steps(call, SENTINEL, stride=3) == []


def test_an_interrupt_during_a_silent_connect_shows_no_password(server: ValkeyServer) -> None:
    """A signal handler raises while the constructor waits for the greeting."""

    class Expired(Exception):  # noqa: N818 - named as task queues name theirs
        """A soft time limit."""

    def ring(_number: int, _frame: object) -> None:
        raise Expired

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with client_behind_proxy(server) as (_, proxy):
            proxy.stall.set()
            url = f"redis://:{SENTINEL}@127.0.0.1:{proxy.port}/0"
            for given in (url, lambda: url):
                make = partial(ValkeyClient, given)
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                with pytest.raises(Expired):
                    make()
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                assert leaks_of(make, SENTINEL) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
