"""A proxy that relays PostgreSQL's protocol message by message, and cuts behind any of them."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

__all__ = ["MessageProxy"]


class MessageProxy:
    """Relay connections to a server; cut one behind a chosen message.

    Args:
        port: The server's port on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        # How many more messages pass in each direction; None: all.
        self._left: dict[str, int | None] = {"up": None, "down": None}
        self._answers_pass = True
        self.has_cut = False
        self._sockets: list[socket.socket] = []
        self._relays: list[threading.Thread] = []
        self._accepter = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepter.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepter.join(5)
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for relay in self._relays:
            relay.join(5)
        for one in self._sockets:
            one.close()

    def cut_after(self, direction: str, messages: int, *, answers_pass: bool = True) -> None:
        """Cut the connection that speaks next, behind some messages of one direction.

        Args:
            direction: "up" from the client, or "down" from the server.
            messages: How many pass.
            answers_pass: Whether what the server says to the messages that passed comes through.
        """
        with self._lock:
            self._left = {"up": None, "down": None, direction: messages}
            self._answers_pass = answers_pass
            self.has_cut = False

    def relent(self) -> bool:
        """Let everything pass; return whether something was cut."""
        with self._lock:
            self._left = {"up": None, "down": None}
            return self.has_cut

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target), 5)
            for one in (client, server):
                one.settimeout(None)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            is_cut = threading.Event()
            for source, sink, direction in ((client, server, "up"), (server, client, "down")):
                relay = threading.Thread(
                    target=self._relay, args=(source, sink, direction, is_cut), daemon=True
                )
                self._relays.append(relay)
                relay.start()

    def _relay(
        self, source: socket.socket, sink: socket.socket, direction: str, is_cut: threading.Event
    ) -> None:
        reader = source.makefile("rb")
        is_start = direction == "up"
        with contextlib.suppress(OSError, ValueError):
            while (message := _next_message(reader, is_start=is_start)) is not None:
                is_start = False
                if not self._may_pass(direction):
                    is_cut.set()
                    break
                if direction == "up" or self._answers_pass or not is_cut.is_set():
                    sink.sendall(message)
        # The other direction ends by itself, when the server has seen the end of what it was sent.
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        reader.close()
        if direction == "down":
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _may_pass(self, direction: str) -> bool:
        with self._lock:
            left = self._left[direction]
            if left is None:
                return True
            if left == 0:
                self.has_cut = True
                # One connection alone: the next one gets through.
                self._left[direction] = None
                return False
            self._left[direction] = left - 1
            return True


def _next_message(reader: object, *, is_start: bool) -> bytes | None:
    read = reader.read  # type: ignore[attr-defined]  # a buffered reader of a socket
    head = read(4 if is_start else 5)
    if len(head) < (4 if is_start else 5):
        return None
    body: bytes = read(int.from_bytes(head[-4:]) - 4)
    whole: bytes = head + body
    return whole
