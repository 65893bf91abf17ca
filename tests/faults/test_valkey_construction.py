"""A client that cannot work is never made: each refusal is quick and says why."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clients.errors import ValkeyConnectionError
from clients.valkey_client import ValkeyClient, ValkeyError
from tests.valkey_helpers import raw
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


def test_a_refused_port_fails_at_once(closed_port: int) -> None:
    """Nobody listens: the error says so in well under a second."""
    start = time.monotonic()
    with pytest.raises(ValkeyConnectionError, match=r"[Cc]onnection refused") as caught:
        ValkeyClient(f"redis://:{PASSWORD}@127.0.0.1:{closed_port}/0")

    assert time.monotonic() - start < 1
    assert caught.value.__cause__ is not None
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("login", ["", ":password@"])
@pytest.mark.parametrize(
    ("greeting", "code"),
    [
        (b"-DENIED this server takes local connections alone", "DENIED"),
        (b"-ERR nombre maximal de clients atteint", "ERR"),
    ],
)
def test_what_a_server_says_before_it_closes_is_the_reason(
    login: str, greeting: bytes, code: str
) -> None:
    """It does so where it takes no connection, whatever its words and whatever was sent first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            opened, _ = listener.accept()
            with opened:
                opened.sendall(greeting + b"\r\n")
                opened.shutdown(socket.SHUT_WR)
                while opened.recv(1000):
                    pass

        thread = threading.Thread(target=refuse)
        thread.start()
        words = greeting.decode().partition(" ")[2]
        with pytest.raises(ValkeyConnectionError, match=words) as caught:
            ValkeyClient(f"redis://{login}127.0.0.1:{listener.getsockname()[1]}/0")
        thread.join()

    assert (caught.value.reason, caught.value.code) == ("refused", code)


def test_a_wrong_password_is_tried_once(server: ValkeyServer, client: ValkeyClient) -> None:
    """The server's reason comes out at once, and its log shows one attempt."""
    client.client.acl_log_reset()
    wrong = f"redis://:wrong-canary@127.0.0.1:{server.port}/0"
    with pytest.raises(ValkeyConnectionError, match=r"WRONGPASS") as caught:
        ValkeyClient(wrong)

    entries = client.client.acl_log()
    assert [entry["count"] for entry in entries] == [1]
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_password_says_so(server: ValkeyServer) -> None:
    """The server wants a password, and the URL has none."""
    with pytest.raises(ValkeyConnectionError, match=r"NOAUTH.*the URL has none") as caught:
        ValkeyClient(f"redis://127.0.0.1:{server.port}/0")

    assert caught.value.code == "NOAUTH"


def test_a_database_out_of_range_is_refused(server: ValkeyServer) -> None:
    """The server's own words, at construction."""
    with pytest.raises(ValkeyConnectionError, match=r"DB index is out of range"):
        ValkeyClient(server.url.removesuffix("0") + "99")


def test_an_unknown_host_is_refused() -> None:
    """A name that DNS does not know is named."""
    with pytest.raises(ValkeyConnectionError, match=r"no-such-host\.invalid"):
        ValkeyClient("redis://no-such-host.invalid")


def test_a_listener_that_never_answers_is_given_up() -> None:
    """The time-outs bound the constructor from above, and it does not give up before."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(ValkeyConnectionError, match=r"socket_timeout 0.5 s"):
            ValkeyClient(
                f"redis://127.0.0.1:{silent.getsockname()[1]}",
                connect_timeout=0.5,
                socket_timeout=0.5,
            )
        assert 0.4 < time.monotonic() - start < 2


def test_a_listener_that_speaks_another_protocol_is_named() -> None:
    """An HTTP server is no Valkey."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ValkeyConnectionError, match=r"connecting to Valkey"):
            ValkeyClient(f"redis://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize("given", ["text", "callable"])
def test_no_frame_of_a_refusal_shows_the_password(
    server: ValkeyServer, closed_port: int, given: str
) -> None:
    """Error reporters collect the local variables of a traceback."""
    canary = "wrong-" + "canary"
    for port in (server.port, closed_port):
        url = f"redis://:{canary}@127.0.0.1:{port}/0"
        with pytest.raises(ValkeyConnectionError) as caught:
            ValkeyClient(url if given == "text" else lambda url=url: url)
        del url
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        frames = [frame for frame in shown.format() if __file__ not in frame]
        assert [frame for frame in frames if canary in frame] == []
        assert len(frames) > 5


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_failed_construction_leaves_nothing(server: ValkeyServer) -> None:
    """No thread, no socket, no connection on the server."""
    with ValkeyClient(server.url) as admin:
        admin.client.acl_setuser("limited", enabled=True, passwords=["+secret"], commands=["+auth"])
    threads, files = threading.active_count(), _open_files()
    kept = []
    for login in (":wrong", "limited:secret") * 10:
        with pytest.raises(ValkeyConnectionError) as caught:
            ValkeyClient(f"redis://{login}@127.0.0.1:{server.port}/0")
        kept.append(caught)

    assert threading.active_count() == threads
    assert _open_files() == files


def test_rotated_credentials_reach_new_connections(server: ValkeyServer) -> None:
    """A callable is asked for each new connection, so a changed password needs no restart."""
    with ValkeyClient(server.url) as admin:
        admin.client.acl_setuser(
            "app", enabled=True, passwords=["+one"], keys="*", commands=["+@all"]
        )
        current = {"password": "one"}
        source = lambda: f"redis://app:{current['password']}@127.0.0.1:{server.port}"  # noqa: E731
        with ValkeyClient(source) as client:
            client.set("a", "x")
            admin.client.acl_setuser(
                "app", enabled=True, passwords=["-one", "+two"], keys="*", commands=["+@all"]
            )
            current["password"] = "two"
            raw(admin, "CLIENT", "KILL", "USER", "app")

            assert client.get("a") == "x"
            assert client.client.get("a") == "x"
        admin.client.acl_deluser("app")


def test_a_denied_command_names_key_and_mend(server: ValkeyServer) -> None:
    """An ACL rule that forbids a key gives NOPERM, and the allowed keys work."""
    with ValkeyClient(server.url) as admin:
        admin.client.acl_setuser(
            "narrow", enabled=True, passwords=["+pw"], keys=["app:*"], commands=["+@all", "-client"]
        )
        with ValkeyClient(f"redis://narrow:pw@127.0.0.1:{server.port}") as client:
            assert client.set("app:1", "x") is True
            with pytest.raises(ValkeyError, match=r"'other'.*NOPERM.*ACL") as caught:
                client.get("other")
        admin.client.acl_deluser("narrow")

    assert caught.value.code == "NOPERM"
