"""A proxy that relays PostgreSQL's protocol message by message, and cuts behind any of them."""

from __future__ import annotations

import contextlib
import socket
from typing import IO

from tests.tcp_relay import Link, TcpRelay

__all__ = ["MessageProxy"]


class MessageProxy(TcpRelay):
    """Relay connections to a server; cut one behind a chosen message.

    Args:
        port: The server's port on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        # How many more messages pass in each direction; None: all.
        self._left: dict[str, int | None] = {"up": None, "down": None}
        self._answers_pass = True
        self.has_cut = False

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

    def relay(self, link: Link, source: socket.socket, sink: socket.socket, *, up: bool) -> None:
        """Relay the messages of one direction until it ends, or one of them is to be cut."""
        is_start = up
        with source.makefile("rb") as reader:
            while (message := _next_message(reader, is_start=is_start)) is not None:
                is_start = False
                if not self._may_pass("up" if up else "down"):
                    link.is_cut = True
                    return
                if up or self._answers_pass or not link.is_cut:
                    sink.sendall(message)

    def end(self, link: Link, *, up: bool) -> None:
        """Let the other direction end by itself, when the server has seen the end of this one."""
        if not up:
            super().end(link, up=up)
            return
        with contextlib.suppress(OSError):
            link.server.shutdown(socket.SHUT_WR)

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


def _next_message(reader: IO[bytes], *, is_start: bool) -> bytes | None:
    head = reader.read(4 if is_start else 5)
    if len(head) < (4 if is_start else 5):
        return None
    return head + reader.read(int.from_bytes(head[-4:]) - 4)
