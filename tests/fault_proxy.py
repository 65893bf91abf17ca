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
        self.target = port
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
        self._sockets: set[socket.socket] = set()
        self._muted: set[socket.socket] = set()
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

    def mute(self) -> None:
        """Swallow from now on what the server says on the connections that are open now."""
        with self._lock:
            self._muted |= self._sockets

    def reset_counts(self) -> None:
        """Start counting anew."""
        self.connections = self.round_trips = self.bytes_up = self.seen = 0

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
            # That was for connecting alone: an idle connection is none to cut.
            server.settimeout(None)
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
                if not (self._goes_up if up else self._goes_down)(chunk, turn):
                    break
                if not up and (self.stall.is_set() or source in self._muted):
                    continue
                cut = self.cut_up if up else self.cut_down
                if cut is not None and cut <= len(chunk):
                    # First, so that the answer to a whole request is lost for sure.
                    turn["cut"] = True
                    sink.sendall(chunk[:cut])
                    break
                step = 1 if self.drip and not up else len(chunk)
                for start in range(0, len(chunk), step):
                    sink.sendall(chunk[start : start + step])
        except OSError:
            pass
        finally:
            with self._lock:
                self._sockets -= {source, sink}
                self._muted.discard(source)
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            source.close()

    def _goes_up(self, chunk: bytes, turn: dict[str, bool]) -> bool:
        """Count a client's chunk, set off what waits for it; return False to cut instead."""
        self.bytes_up += len(chunk)
        if not turn["client"]:
            self.round_trips += 1
        turn["client"] = True
        self.seen += bool(self.watch) and self.watch in chunk
        if self.cut_before and self.cut_before in chunk:
            self.cut_before = b""
            return False
        if self.cut_after and self.cut_after in chunk:
            self.cut_after = b""
            turn["cut"] = True
        if self.stall_at and self.stall_at in chunk:
            self.stall_at = b""
            self.stall.set()
        return True

    def _goes_down(self, chunk: bytes, turn: dict[str, bool]) -> bool:  # noqa: ARG002 - as above
        """Note that the server has answered; return False to cut instead."""
        turn["client"] = False
        return not turn.get("cut")
