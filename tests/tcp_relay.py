"""A relay on loopback between clients and a server; the proxies of the tests build on it."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Link", "TcpRelay"]


@dataclass(eq=False)
class Link:
    """One client's connection through the relay.

    Args:
        client: The socket that the client is at the other end of.
        server: The socket that the server is at the other end of.
        client_spoke: Whether the last chunk was the client's.
        is_cut: Whether what the server says is lost from now on.
    """

    client: socket.socket
    server: socket.socket
    client_spoke: bool = False
    is_cut: bool = False
    open_directions: int = 2


class TcpRelay:
    """Relay connections to a server on 127.0.0.1, with a thread for each direction.

    Args:
        port: The server's port; ``target`` may be set to another one at any time.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ends = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._accepter = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepter.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # A shutdown wakes the accepting thread; a close alone does not, on Linux.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepter.join(5)
        self._ends = True
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def cut(self) -> None:
        """Cut every connection, as a dying server or network does."""
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _shut(one)

    def serve(self, client: socket.socket) -> None:
        """Connect *client* to the server, and relay until both directions have ended."""
        try:
            server = socket.create_connection(("127.0.0.1", self.target), 5)
        except OSError:
            client.close()
            return
        # That was for connecting alone: an idle connection is none to cut.
        server.settimeout(None)
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, server)
        with self._lock:
            self._sockets |= {client, server}
        if self._ends:
            self.cut()
        self._start(partial(self._direction, link, up=False))
        self._direction(link, up=True)

    def relay(
        self,
        link: Link,  # noqa: ARG002 - for those that steer it
        source: socket.socket,
        sink: socket.socket,
        *,
        up: bool,  # noqa: ARG002 - likewise
    ) -> None:
        """Relay one direction until it ends.

        Args:
            link: The connection.
            source: Where to read.
            sink: Where to write.
            up: Whether that is from the client to the server.
        """
        while chunk := source.recv(65536):
            sink.sendall(chunk)

    def end(self, link: Link, *, up: bool) -> None:  # noqa: ARG002 - for those that end one alone
        """End the connection when one direction has ended."""
        for one in (link.client, link.server):
            _shut(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._start(partial(self.serve, client))

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _direction(self, link: Link, *, up: bool) -> None:
        source, sink = (link.client, link.server) if up else (link.server, link.client)
        try:
            self.relay(link, source, sink, up=up)
        except (OSError, ValueError):
            pass
        finally:
            self.end(link, up=up)
            with self._lock:
                link.open_directions -= 1
                over = link.open_directions == 0
                if over:
                    self._sockets -= {source, sink}
            if over:
                source.close()
                sink.close()


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
