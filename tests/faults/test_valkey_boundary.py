"""Whatever goes wrong below a public method comes out as one of our errors, and costs no place."""

from __future__ import annotations

import itertools
import socket
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from clients.errors import ClientError, ValkeyConnectionError, ValkeyError
from clients.valkey_client import ValkeyClient
from tests.valkey_helpers import client_behind_proxy
from tests.valkey_methods import METHODS
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server for the tests here."""
    with ValkeyServer() as started:
        yield started


class Fault(Exception):  # noqa: N818 - it stands for whatever a driver may raise
    """An exception of a class that nobody here knows."""


class Injector:
    """Raises at the n-th call that goes into the driver or the socket below it.

    Args:
        at: Which call.
        kind: What it raises.
    """

    def __init__(self, at: int, kind: type[Exception]) -> None:
        self.left = at
        self.kind = kind

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Count the calls into the driver."""
        if _goes_into_the_driver(frame, event, argument):
            self.left -= 1
            if self.left == 0:
                raise self.kind("injected")


def _goes_into_the_driver(frame: FrameType, event: str, function: Any) -> bool:
    if frame.f_code.co_name == "__del__":
        return False  # nobody can be told of what happens there
    if event == "call":
        return str(frame.f_globals.get("__name__")).partition(".")[0] == "redis"
    if event == "c_call":
        owner = type(getattr(function, "__self__", None)).__module__
        home = f"{owner} {getattr(function, '__module__', '')}"
        return "hiredis" in home or "socket" in home
    return False


@pytest.mark.filterwarnings(
    # A fault between socket() and the next line leaves the closing to its destructor.
    "ignore:unclosed:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
@pytest.mark.parametrize(
    "kind",
    [
        Fault,
        OSError,
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (RuntimeError, MemoryError, KeyError)
        ),
    ],
)
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_a_fault_at_any_call_of_the_driver_is_ours(
    server: ValkeyServer,
    kind: type[Exception],
    warm: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """Every method, every call into the driver: a ClientError, and the only place stays usable."""
    with ValkeyClient(server.url, max_connections=1, pool_timeout=0.5) as client:
        for name, method in METHODS.items() if warm else list(METHODS.items())[::7]:
            for point in itertools.count(1):
                client.set_many({"a": "A", "b": "B"})
                if not warm:
                    client.runner.link.pool.drop_idle()  # type: ignore[attr-defined]  # one server
                injector = Injector(point, kind)
                error = _failure(lambda: method(client), injector)  # noqa: B023 - called at once

                assert error is None or isinstance(error, ClientError), (name, point)
                assert client.get("b") == "B", (name, point)
                if injector.left > 0:
                    break
            assert point > 3, name


def _failure(call: Any, injector: Injector | None) -> Exception | None:
    sys.setprofile(injector)
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return error
    finally:
        sys.setprofile(None)
    return None


def test_a_fault_in_the_driver_is_ours_and_names_the_key(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of a class that nobody knows; what a signal handler raises is the caller's."""
    with ValkeyClient(server.url) as client:
        client.runner.link.pool.drop_idle()  # type: ignore[attr-defined]  # one server
        reading = Mock(return_value=Mock(side_effect=Fault))
        monkeypatch.setattr("clients._valkey.pool.reply_reader", reading)
        with pytest.raises(ValkeyConnectionError, match=r"INCRBY 'n'.*unexpected Fault") as caught:
            client.incr("n")
        monkeypatch.undo()

        assert caught.value.maybe_applied
        assert isinstance(caught.value.__cause__, Fault)


class AnyReply:
    """Answers every request with the same bytes, once the greeting is over."""

    def __init__(self) -> None:
        self.reply = b"+PONG\r\n"
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while asked := connection.recv(65536):
                if b"SETINFO" in asked:
                    connection.sendall(b"+OK\r\n")
                    continue
                connection.sendall(self.reply * asked.count(b"*"))


@contextmanager
def any_reply() -> Iterator[tuple[ValkeyClient, AnyReply]]:
    """Open a client on a server that answers as it is told."""
    server = AnyReply()
    try:
        with ValkeyClient(server.url, socket_timeout=0.5, connect_timeout=0.5) as client:
            yield client, server
    finally:
        server.close()


#: No method takes any of these.
ODD = [
    b":9223372036854775807\r\n",
    b"+WHAT\r\n",
    b"*1\r\n$1\r\nx\r\n",
    b"*0\r\n",
    b"*3\r\n:1\r\n:2\r\n$1\r\nx\r\n",
    b"%1\r\n+a\r\n:1\r\n",
    b",1.5\r\n",
    b"#t\r\n",
    b"*-5\r\n",
    b"*99999999999999\r\n",
    b"$99999999999999999999\r\n",
    b"-\r\n",
    b"-MOVED\r\n",
    b"-ASK x y z\r\n",
    b"\x00\xff\r\n",
    b"*1\r\n" * 50 + b":1\r\n",
    b"$2\r\n\xff\xfe\r\n",
]
#: Some methods take these as what they are: a text, a number, nothing.
PLAUSIBLE = [b"$-1\r\n", b"*-1\r\n", b":0\r\n", b":-1\r\n", b"+OK\r\n", b"$0\r\n\r\n"]


@pytest.mark.parametrize("reply", ODD + PLAUSIBLE, ids=repr)
def test_a_reply_of_another_shape_is_a_valkey_error(reply: bytes) -> None:
    """Whatever a server answers, no method raises anything else, or waits for ever."""
    with any_reply() as (client, server):
        for name, method in METHODS.items():
            server.reply = reply
            error = _failure(lambda: method(client), None)  # noqa: B023 - called at once

            assert error is None or isinstance(error, ValkeyError), name
            names_no_key = {"health_check", "server_version"}
            assert error is None or name in names_no_key or "'" in str(error), name


@pytest.mark.parametrize("reply", [b":0\r\n", b"+OK\r\n", b"$-1\r\n", b"*0\r\n", b"+pong\r\n"])
def test_a_ping_is_answered_by_pong_alone(reply: bytes) -> None:
    """A server, or a proxy, that answers something else is not healthy."""
    with any_reply() as (client, server):
        server.reply = reply
        with pytest.raises(ValkeyConnectionError, match="instead of PONG"):
            client.health_check()


def test_a_connection_out_of_step_is_not_used_again() -> None:
    """A reply that the command does not have may be another one's: its connection is closed."""
    with any_reply() as (client, server):
        before = server.connections
        server.reply = b":1\r\n"
        with pytest.raises(ValkeyConnectionError, match=r"GET 'a'.*instead of a text"):
            client.get("a")
        server.reply = b"$1\r\nx\r\n"

        assert client.get("a") == "x"
        assert server.connections == before + 1


def test_a_change_with_an_odd_answer_may_have_been_applied() -> None:
    """Nobody knows what the server did."""
    with any_reply() as (client, server):
        server.reply = b"+WHAT\r\n"
        with pytest.raises(ValkeyConnectionError) as changed:
            client.incr("n")
        with pytest.raises(ValkeyConnectionError) as read:
            client.ttl("n")

        assert changed.value.maybe_applied
        assert not read.value.maybe_applied


def test_a_url_callable_that_fails_is_a_valkey_error(server: ValkeyServer) -> None:
    """At construction and later, with its own error as the cause."""

    def fail() -> str:
        raise LookupError("no such URL")

    with pytest.raises(ValkeyError, match="LookupError") as caught:
        ValkeyClient(fail)
    assert isinstance(caught.value.__cause__, LookupError)
    with client_behind_proxy(server) as (client, proxy):
        client.runner.factory.source._url = fail
        proxy.cut()
        with pytest.raises(ValkeyError, match=r"GET 'a'.*LookupError"):
            client.get("a")
