"""A TCP proxy on loopback that cuts, stalls, delays, refuses and counts."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

__all__ = ["FaultProxy"]


class FaultProxy:
    """Relay connections to a server, and fail on demand.

    Attributes that steer it may be set at any time:

    * ``delay``: seconds that each chunk is held, in each direction;
    * ``stall``: when set, chunks from the server are swallowed (the request still arrives);
    * ``refuse``: when set, new connections are accepted and cut at once.

    What it counts: ``connections``, ``round_trips`` (a chunk from the client after one from the
    server, or the first one), ``bytes_up``.

    Args:
        port: The server's port on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.delay = 0.0
        self.stall = threading.Event()
        self.refuse = threading.Event()
        self.connections = 0
        self.round_trips = 0
        self.bytes_up = 0
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
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
        self.cut()
        self._accepter.join(5)

    def cut(self) -> None:
        """Cut every connection, as a dying server or network does."""
        with self._lock:
            sockets = list(self._sockets)
            self._sockets.clear()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def reset_counts(self) -> None:
        """Start counting anew."""
        self.connections = self.round_trips = self.bytes_up = 0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse.is_set():
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                client.close()
                continue
            self.connections += 1
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {client, server}
            turn = {"client": False}
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._relay, args=(source, sink, up, turn), daemon=True
                ).start()

    def _relay(
        self,
        source: socket.socket,
        sink: socket.socket,
        up: bool,  # noqa: FBT001 - private, and always named at the call
        turn: dict[str, bool],
    ) -> None:
        try:
            while chunk := source.recv(65536):
                if self.delay:
                    time.sleep(self.delay)
                if up:
                    self.bytes_up += len(chunk)
                    if not turn["client"]:
                        self.round_trips += 1
                    turn["client"] = True
                else:
                    turn["client"] = False
                    if self.stall.is_set():
                        continue
                sink.sendall(chunk)
        except OSError:
            pass
        finally:
            with self._lock:
                self._sockets -= {source, sink}
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            source.close()
