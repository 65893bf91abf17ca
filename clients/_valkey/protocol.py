"""Send requests and read replies: with hiredis and a redis-py connection's own socket and parser.

The driver's call path is slower, and decides by itself what to close. This module alone uses what
is private to the driver's connections; tests/unit/test_redis_contract.py pins what it uses.
"""

from __future__ import annotations

import os
import select
from ssl import SSLSocket
from typing import TYPE_CHECKING, Any

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _HiredisParser
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import RedisError, ResponseError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from .silence import AnyConnection

__all__ = [
    "Arguments",
    "arrival_checks",
    "last_refusal",
    "pack",
    "reply_reader",
    "request_sender",
    "send_part",
    "send_whole",
    "start_parser",
    "take_socket",
]

#: One command's words, numbers as text: see ``pack``.
Arguments = tuple[str, ...]

#: Returns one command as the protocol has it.
#:
#: Text alone: a number takes hiredis through Python code, and a signal handler that raises there
#: crashes the process. (hiredis's own annotation says a tuple of one.)
pack: Callable[[Arguments], bytes] = hiredis.pack_command  # type: ignore[assignment]


def arrival_checks(
    connection: AnyConnection,
) -> tuple[Callable[[], object], Callable[[int], object]]:
    """Return what tells whether anything has come on a connected *connection*, its end included.

    The driver's ``can_read`` makes and registers a poll object at each call, which costs more than
    the poll.

    Returns:
        Two functions, either of which may tell: one for what was read already, and one that takes
        0 and asks the system.
    """
    parser, sock = connection._parser, connection._sock
    if not isinstance(parser, _HiredisParser) or not hasattr(select, "poll"):
        return bool, parser.can_read
    has_data = parser._reader.has_data
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    if isinstance(sock, SSLSocket):
        # It may have decrypted what the socket below no longer has.
        pending = sock.pending
        return (lambda: has_data() or pending()), poller.poll
    return has_data, poller.poll


def request_sender(connection: AnyConnection) -> Callable[[bytes], object]:
    """Return what sends a whole request on a connected *connection*.

    A socket with a time-out waits for room before each send, and nearly always there is some: the
    first try is without that wait, during which other threads would get the interpreter.
    """
    sock = connection._sock
    if isinstance(sock, SSLSocket) or os.name == "nt":
        return sock.sendall  # type: ignore[no-any-return]
    fileno, send_rest, write = sock.fileno, sock.sendall, os.write

    def send(request: bytes) -> None:
        try:
            sent = write(fileno(), request)
        except BlockingIOError:
            sent = 0
        if sent < len(request):
            send_rest(memoryview(request)[sent:])

    return send


def reply_reader(connection: AnyConnection) -> Callable[[], Any]:
    """Return what reads one reply of a connected *connection*, and raises what is no reply.

    It does what the driver's parser does for a connection without RESP3, in a third of its steps.
    """
    parser = connection._parser
    if not isinstance(parser, _HiredisParser):
        return parser.read_response  # type: ignore[no-any-return]
    gets, feed = parser._reader.gets, parser._reader.feed
    receive, buffer = connection._sock.recv_into, parser._buffer

    def read() -> Any:
        reply = gets()
        while reply is NOT_ENOUGH_DATA:
            count = receive(buffer)
            if not count:
                raise DriverConnectionError("the server closed the connection")
            feed(buffer, 0, count)  # type: ignore[arg-type]  # it takes any buffer
            reply = gets()
        if isinstance(reply, DriverConnectionError):
            raise reply
        return reply

    return read


def start_parser(connection: AnyConnection) -> None:
    """Have a new connection's parser read from its socket, as redis-py's ``on_connect`` does."""
    connection._parser.on_connect(connection)


def send_whole(connection: AnyConnection, request: bytes) -> None:
    """Send all of *request*."""
    connection._sock.sendall(request)


def send_part(connection: AnyConnection, requests: memoryview) -> int:
    """Send what there is room for, and return how many bytes that was."""
    return int(connection._sock.send(requests))


def take_socket(connection: AnyConnection) -> socket.socket | None:
    """Take the socket out of a connection, so that it is not closed with it."""
    sock, connection._sock = connection._sock, None
    return sock  # type: ignore[no-any-return]


def last_refusal(connection: AnyConnection) -> ResponseError | None:
    """Return the refusal that a server has sent before it closed the connection."""
    try:
        # The replies to what came before it are first.
        while connection._parser.can_read(0):
            reply = connection._parser.read_response()
            if isinstance(reply, ResponseError):
                return reply
    except (RedisError, OSError, UnicodeError):
        pass
    return None
