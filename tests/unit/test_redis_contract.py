"""What the Valkey call path leans on in redis-py, pinned: read this before widening its version.

``clients/_valkey/protocol.py`` and ``connections.py`` use redis-py's Connection classes as
factory and codec, through methods that its documentation does not promise.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from redis._parsers.hiredis import _HiredisParser
from redis._parsers.resp2 import _RESP2Parser
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import TimeoutError as DriverTimeoutError
from redis.retry import Retry

from clients._valkey.protocol import arrival_checks, pack, reply_reader, request_sender

if TYPE_CHECKING:
    from collections.abc import Iterator

PARSERS = [_HiredisParser, _RESP2Parser]


def _start_parser(connection: Any) -> None:
    connection._parser.on_connect(connection)


class Peer:
    """One connection of the driver's and our end of it."""

    def __init__(self, parser: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        kind: Any = Connection
        self.connection: Any = kind(
            host="127.0.0.1",
            port=self.listener.getsockname()[1],
            protocol=2,
            driver_info=None,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=1.0,
            socket_timeout=0.2,
            parser_class=parser,
            redis_connect_func=_start_parser,
        )
        self.connection.connect()
        self.server, _ = self.listener.accept()

    def close(self) -> None:
        """Close both ends."""
        self.connection.disconnect()
        self.server.close()
        self.listener.close()


@pytest.fixture(params=PARSERS, ids=lambda parser: parser.__name__)
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """A connected pair, for each of redis-py's parsers."""
    made = Peer(request.param)
    yield made
    made.close()


def test_our_handshake_replaces_the_drivers_own(peer: Peer) -> None:
    """With redis_connect_func nothing but our own bytes goes out."""
    peer.connection.send_packed_command(peer.connection.pack_command("PING"), check_health=False)

    assert peer.server.recv(100) == b"*1\r\n$4\r\nPING\r\n"


def test_commands_are_packed_as_the_protocol_has_them() -> None:
    """Texts in UTF-8, each with its length in bytes."""
    assert pack(("SET", "\u00fc", "1")) == b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xbc\r\n$1\r\n1\r\n"


def test_the_socket_is_at_hand(peer: Peer) -> None:
    """What is sent on the connection's socket arrives."""
    peer.connection._sock.sendall(b"x")

    assert peer.server.recv(100) == b"x"


def test_a_refusal_is_a_value_and_the_connection_stays(peer: Peer) -> None:
    """The parser returns an error reply: whatever it raises is no complete reply."""
    peer.server.sendall(b"-WRONGTYPE x\r\n$2\r\nok\r\n")
    refusal = peer.connection._parser.read_response()

    assert isinstance(refusal, ResponseError)
    assert str(refusal) == "WRONGTYPE x"
    assert peer.connection._parser.read_response() == "ok"


def test_our_reader_gives_what_the_parser_gives(peer: Peer) -> None:
    """Texts, refusals and half replies, one by one; LOADING, silence and the end are raised."""
    read = reply_reader(peer.connection)
    peer.server.sendall(b"$2\r\nok\r\n-ERR no\r\n*2\r\n:1\r\n")
    assert read() == "ok"
    assert isinstance(read(), ResponseError)
    with pytest.raises((DriverTimeoutError, TimeoutError)):
        read()
    peer.server.sendall(b":2\r\n-LOADING x\r\n")
    assert read() == [1, 2]
    with pytest.raises(BusyLoadingError):
        read()
    peer.server.close()
    with pytest.raises((DriverConnectionError, OSError)):
        read()


def test_our_sender_sends_all_of_it(peer: Peer) -> None:
    """In order, also what the socket has no room for yet; no room for long is a failure."""
    send = request_sender(peer.connection)
    peer.server.settimeout(5)
    requests = [b"a" * 10, b"b" * 20_000_000, b"c" * 10]
    sender = threading.Thread(target=lambda: [send(one) for one in requests])
    sender.start()
    missing, runs = sum(map(len, requests)), b""
    while missing:
        chunk = peer.server.recv(1 << 20)
        missing -= len(chunk)
        runs += bytes(one for one in b"abc" if one in chunk)
    sender.join()

    assert [letter for letter, _ in itertools.groupby(runs.decode())] == ["a", "b", "c"]
    for _ in range(2):
        with pytest.raises((DriverTimeoutError, TimeoutError)):
            send(requests[1])
    peer.server.close()
    with pytest.raises(ConnectionError):
        send(requests[1])


def test_our_checks_see_what_the_parser_sees(peer: Peer) -> None:
    """What came with the reply before, what came since, and the end of the connection."""
    has_read, can_read = arrival_checks(peer.connection)
    assert not has_read()
    assert not can_read(0)
    peer.server.sendall(b"+OK\r\n+LATE\r\n")
    assert reply_reader(peer.connection)() == "OK"
    assert has_read() or can_read(0)
    assert reply_reader(peer.connection)() == "LATE"
    assert not has_read()
    assert not can_read(0)
    peer.server.shutdown(socket.SHUT_RDWR)
    try:
        seen = can_read(1000)
    except (DriverConnectionError, OSError):
        seen = True
    assert seen


def test_loading_is_raised(peer: Peer) -> None:
    """The parser raises the replies that it counts as connection errors."""
    peer.server.sendall(b"-LOADING x\r\n")

    with pytest.raises(BusyLoadingError):
        peer.connection._parser.read_response()


def test_errors_inside_a_reply_are_values(peer: Peer) -> None:
    """An array may hold errors, and they are not raised."""
    peer.server.sendall(b"*2\r\n:1\r\n-ERR no\r\n")

    first, second = peer.connection._parser.read_response()
    assert first == 1
    assert isinstance(second, ResponseError)


def test_silence_is_the_drivers_timeout(peer: Peer) -> None:
    """A read that takes too long raises."""
    with pytest.raises(DriverTimeoutError):
        peer.connection._parser.read_response()


def test_a_closed_connection_is_an_error_when_read(peer: Peer) -> None:
    """A read at the end of the stream raises, and does not return nothing."""
    peer.server.close()

    with pytest.raises((DriverConnectionError, OSError)):
        peer.connection._parser.read_response()


def test_an_idle_connection_cannot_be_read(peer: Peer) -> None:
    """can_read(0) is False and harmless while nothing has arrived."""
    assert peer.connection._parser.can_read(0) is False
    peer.server.sendall(b"+OK\r\n")
    assert peer.connection._parser.read_response() == "OK"
    assert peer.connection._parser.can_read(0) is False


def test_a_reply_that_nobody_asked_for_can_be_seen(peer: Peer) -> None:
    """can_read(0) tells it, also when it came together with the one before."""
    peer.server.sendall(b"+OK\r\n+LATE\r\n")

    assert peer.connection._parser.read_response() == "OK"
    assert peer.connection._parser.can_read(0)


def test_half_a_reply_that_nobody_asked_for_can_be_seen(peer: Peer) -> None:
    """Even a part of one makes the connection unfit."""
    peer.server.sendall(b"+OK\r\n$100\r\nhal")

    assert peer.connection._parser.read_response() == "OK"
    assert peer.connection._parser.can_read(0)


def test_a_closed_connection_can_be_seen(peer: Peer) -> None:
    """can_read raises, or says True, once the server has closed."""
    peer.server.shutdown(socket.SHUT_RDWR)

    try:
        seen = peer.connection._parser.can_read(1)
    except (DriverConnectionError, OSError):
        seen = True
    assert seen


def test_a_dropped_connection_closes_without_the_collector() -> None:
    """No reference cycle keeps a connection open that nobody refers to any more."""
    made = Peer(_HiredisParser)
    gone = weakref.ref(made.connection)
    gc.disable()
    try:
        made.connection = None

        assert gone() is None
        made.server.settimeout(1)
        assert made.server.recv(1) == b""
    finally:
        gc.enable()
        made.server.close()
        made.listener.close()


@pytest.mark.parametrize("kind", [Connection, SSLConnection, UnixDomainSocketConnection])
def test_each_connection_class_has_what_we_use(kind: Any) -> None:
    """The methods and their parameters, for the handshake and for closing, are there."""
    assert "check_health" in inspect.signature(kind.send_packed_command).parameters
    for name in ("pack_command", "pack_commands", "read_response", "connect", "disconnect"):
        assert callable(getattr(kind, name))
    assert isinstance(kind.is_connected, property)
