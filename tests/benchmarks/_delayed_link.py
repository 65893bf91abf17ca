"""A link that takes its time: a TCP relay that holds every byte for a fixed time, each way.

It holds, and does not throttle: what arrives together leaves together, however much it is. The
relay is a process of its own, because in the process that is measured it would compete with it.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Self, TypeAlias

__all__ = ["DelayedLink"]

#: When a chunk is due, and the chunk; an empty one is the end.
_Held: TypeAlias = "SimpleQueue[tuple[float, bytes]]"


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


def relay(port: int, delay: float) -> socket.socket:
    """Accept connections on a free port, and relay each to *port*; return the listener."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for source, sink in ((client, server), (server, client)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                held: _Held = SimpleQueue()
                threading.Thread(target=_hold, args=(source, held, delay), daemon=True).start()
                threading.Thread(target=_release, args=(held, sink), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


def _hold(source: socket.socket, held: _Held, delay: float) -> None:
    chunk = b"first"
    while chunk:
        try:
            chunk = source.recv(1 << 18)
        except OSError:
            chunk = b""
        held.put((time.monotonic() + delay, chunk))


def _release(held: _Held, sink: socket.socket) -> None:
    while True:
        due, chunk = held.get()
        time.sleep(max(0.0, due - time.monotonic()))
        with contextlib.suppress(OSError):
            if not chunk:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(chunk)


if __name__ == "__main__":
    opened = relay(int(sys.argv[1]), float(sys.argv[2]))
    print(opened.getsockname()[1], flush=True)  # noqa: T201 - how the parent learns the port
    sys.stdin.read()
