"""A link that takes its time: a TCP relay that holds every byte for a fixed time, each way.

It holds, and does not throttle: what arrives together leaves together, however much it is. The
relay is a process of its own, because in the process that is measured it would compete with it,
and it has one thread: several would wait for each other at each byte, and so would the contestants.
"""

from __future__ import annotations

import select
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Self

__all__ = ["DelayedLink"]

_CHUNK = 1 << 18
#: Seconds by which bytes may leave early, together with others that are due: about as late as a
#: system wakes a process up.
_TOGETHER = 5e-5


class DelayedLink:
    """A relay to 127.0.0.1:*port* in a process of its own.

    Args:
        port: The server's port.
        round_trip: The seconds that it adds to a round trip, half of them each way.
    """

    def __init__(self, port: int, round_trip: float) -> None:
        words = [sys.executable, "-m", "tests.benchmarks._delayed_link", str(port)]
        self._process = subprocess.Popen(
            [*words, str(round_trip / 2)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # The end of its input ends it, also when this process is killed.
        self._process.communicate()


class _End:
    """One end of a connection through the relay.

    Args:
        sock: Its socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.other = self
        #: What is to be sent; an empty chunk is the end.
        self.unsent: deque[memoryview] = deque()
        self.watched = 0
        self.has_heard_all = self.has_said_all = False


class _Relay:
    """Relays each connection to *listener* to 127.0.0.1:*port*, until its standard input ends."""

    def __init__(self, listener: socket.socket, port: int, delay: float) -> None:
        self._listener = listener
        self._port = port
        self._delay = delay
        self._selector = selectors.DefaultSelector()
        # The delay is the same for all, so what comes first is due first.
        self._held: deque[tuple[float, _End, bytes]] = deque()

    def run(self) -> None:
        selector, held = self._selector, self._held
        selector.register(self._listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            timeout = max(0.0, held[0][0] - time.monotonic()) if held else None
            # The selector counts in milliseconds, and this in microseconds.
            if select.select([selector.fileno()], [], [], timeout)[0] and not self._read():
                return
            now = time.monotonic() + _TOGETHER
            while held and held[0][0] <= now:
                _, end, chunk = held.popleft()
                end.unsent.append(memoryview(chunk))
                if len(end.unsent) == 1:
                    self._send(end)

    def _read(self) -> bool:
        """Do what can be done now; return whether to go on."""
        due = time.monotonic() + self._delay
        for key, events in self._selector.select(0):
            if key.fileobj is self._listener:
                self._accept()
                continue
            if key.data is None:
                return False
            if events & selectors.EVENT_READ:
                self._hold(key.data, due)
            if events & selectors.EVENT_WRITE:
                self._send(key.data)
        return True

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        ends = [_End(client), _End(socket.create_connection(("127.0.0.1", self._port)))]
        for end, other in zip(ends, reversed(ends), strict=True):
            end.other = other
            end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.sock.settimeout(0)
            self._watch(end)

    def _hold(self, end: _End, due: float) -> None:
        try:
            chunk = end.sock.recv(_CHUNK)
        except OSError:
            chunk = b""
        self._held.append((due, end.other, chunk))
        if not chunk:
            end.has_heard_all = True
            self._watch(end)

    def _send(self, end: _End) -> None:
        try:
            while end.unsent and not end.has_said_all:
                chunk = end.unsent.popleft()
                if not chunk:
                    end.has_said_all = True
                    end.sock.shutdown(socket.SHUT_WR)
                else:
                    sent = end.sock.send(chunk)
                    if sent < len(chunk):
                        end.unsent.appendleft(chunk[sent:])
        except BlockingIOError:
            end.unsent.appendleft(chunk)
        except OSError:
            end.has_said_all = True
        if end.unsent or end.has_said_all or end.watched & selectors.EVENT_WRITE:
            self._watch(end)

    def _watch(self, end: _End) -> None:
        """Wait for what *end* can do next, and close it when that is nothing."""
        if end.has_said_all:
            end.unsent.clear()
        reads = 0 if end.has_heard_all else selectors.EVENT_READ
        wanted = reads | (selectors.EVENT_WRITE if end.unsent else 0)
        if wanted != end.watched:
            if end.watched:
                self._selector.unregister(end.sock)
            if wanted:
                self._selector.register(end.sock, wanted, end)
            end.watched = wanted
        if end.has_heard_all and end.has_said_all:
            end.sock.close()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=128) as opened:
        print(opened.getsockname()[1], flush=True)  # noqa: T201 - how the parent learns the port
        _Relay(opened, int(sys.argv[1]), float(sys.argv[2])).run()
