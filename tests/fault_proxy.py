"""A TCP proxy on loopback that cuts, stalls, delays, refuses and counts."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tests.tcp_relay import Link, TcpRelay

if TYPE_CHECKING:
    import socket

__all__ = ["FaultProxy"]


class FaultProxy(TcpRelay):
    """Relay connections to a server, and fail on demand.

    Attributes that steer it may be set at any time:

    * ``delay``: seconds that each chunk is held, in each direction;
    * ``drip``: when true, chunks from the server arrive byte by byte;
    * ``stall``: when set, chunks from the server are swallowed (the request still arrives);
    * ``refuse``: when set, new connections are accepted and cut at once;
    * ``cut_before``, ``cut_after``: a text; the first chunk from a client that has it is not
      relayed, or relayed and its answer lost, and its connection is cut;
    * ``cut_up``, ``cut_down``: a number of bytes; of the next chunk from a client, or from the
      server, that has so many, only those are relayed, nothing follows them in either direction,
      and its connection is cut;
    * ``stall_at``: a text; the first client chunk that has it is relayed and sets ``stall``.

    What it counts: ``connections``, ``round_trips`` (a chunk from the client after one from the
    server, or the first one), ``bytes_up``, ``seen`` (the client's chunks with the text ``watch``).

    Args:
        port: The server's port on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.delay = 0.0
        self.drip = False
        self.cut_before = b""
        self.cut_after = b""
        self.cut_up: int | None = None
        self.cut_down: int | None = None
        self.stall_at = b""
        self.watch = b""
        self.stall = threading.Event()
        self.refuse = threading.Event()
        self.connections = 0
        self.round_trips = 0
        self.bytes_up = 0
        self.seen = 0
        self._muted: set[socket.socket] = set()

    def mute(self) -> None:
        """Swallow from now on what the server says on the connections that are open now."""
        with self._lock:
            self._muted |= self._sockets

    def reset_counts(self) -> None:
        """Start counting anew."""
        self.connections = self.round_trips = self.bytes_up = self.seen = 0

    def serve(self, client: socket.socket) -> None:
        """Relay a connection, or cut it at once."""
        if self.refuse.is_set():
            client.close()
        else:
            super().serve(client)

    def relay(self, link: Link, source: socket.socket, sink: socket.socket, *, up: bool) -> None:
        """Relay one direction, as far as nothing is to fail."""
        if up:
            with self._lock:
                self.connections += 1
        while chunk := source.recv(65536):
            if self.delay:
                time.sleep(self.delay)
            if not (self._goes_up(chunk, link) if up else self._goes_down(link)):
                return
            if not up and (self.stall.is_set() or source in self._muted):
                continue
            cut = self.cut_up if up else self.cut_down
            if cut is not None and cut <= len(chunk):
                # First, so that the answer to a whole request is lost for sure.
                link.is_cut = True
                sink.sendall(chunk[:cut])
                return
            step = 1 if self.drip and not up else len(chunk)
            for start in range(0, len(chunk), step):
                sink.sendall(chunk[start : start + step])

    def _goes_up(self, chunk: bytes, link: Link) -> bool:
        """Count a client's chunk, set off what waits for it; return False to cut instead."""
        self.bytes_up += len(chunk)
        if not link.client_spoke:
            self.round_trips += 1
        link.client_spoke = True
        self.seen += bool(self.watch) and self.watch in chunk
        if self.cut_before and self.cut_before in chunk:
            self.cut_before = b""
            return False
        if self.cut_after and self.cut_after in chunk:
            self.cut_after = b""
            link.is_cut = True
        if self.stall_at and self.stall_at in chunk:
            self.stall_at = b""
            self.stall.set()
        return True

    def _goes_down(self, link: Link) -> bool:
        """Note that the server has answered; return False to cut instead."""
        link.client_spoke = False
        return not link.is_cut
