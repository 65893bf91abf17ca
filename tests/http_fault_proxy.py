"""An HTTP proxy on loopback that stands before a real server, counts, and misbehaves on demand."""

from __future__ import annotations

import http
import http.client
import json
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedIOBase

__all__ = ["Fault", "HttpFaultProxy", "SeenRequest"]

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass(frozen=True)
class SeenRequest:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Fault:
    """What to do with one request instead of forwarding it.

    ``reset`` cuts the connection; ``pause`` waits first, and then the rest happens; without a
    status the request is forwarded all the same. ``drip`` sends the body byte by byte, that many
    seconds apart. ``raw`` is sent in place of a whole HTTP answer, and the connection ends.
    """

    status: int | None = None
    body: bytes = field(default=b'{"errors":[]}', repr=False)
    headers: dict[str, str] = field(
        default_factory=lambda: {"Content-Type": "application/json"}, repr=False
    )
    reset: bool = False
    pause: float = 0.0
    drip: float = 0.0
    raw: bytes | None = field(default=None, repr=False)


class HttpFaultProxy:
    """Forward requests to 127.0.0.1:*port*, except for those that a fault is planned for.

    Args:
        port: The real server's port.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.seen: list[SeenRequest] = []
        self.connections = 0
        #: What stands in place of every error text of the real server; None leaves them alone.
        self.words: str | None = None
        self._faults: deque[tuple[Fault, Callable[[SeenRequest], bool]]] = deque()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._server.on_connection = self._count_connection
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.cut_all()
        self._server.server_close()

    def plan(self, *faults: Fault, times: int = 1, path: str = "") -> None:
        """Plan *faults* for the next requests whose path has *path* in it, each *times* times."""
        for fault in faults:
            for _ in range(times):
                self._faults.append((fault, lambda request: path in request.path))

    def count(self, path: str = "", method: str = "") -> int:
        """Return how many requests came whose path has *path* in it."""
        return sum(path in one.path and method in one.method for one in list(self.seen))

    def forget(self) -> None:
        """Count anew, and drop what is planned."""
        self.seen.clear()
        self._faults.clear()

    def _count_connection(self) -> None:
        self.connections += 1

    def take_fault(self, request: SeenRequest) -> Fault | None:
        """Note the request, and return what is planned for it."""
        with self._lock:
            self.seen.append(request)
            for planned in self._faults:
                if planned[1](request):
                    self._faults.remove(planned)
                    return planned[0]
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    on_connection: Callable[[], None] | None = None

    def __init__(self, *args: Any) -> None:
        self.open_sockets: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_sockets.add(request)
        if self.on_connection:
            self.on_connection()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open_sockets.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        for one in list(self.open_sockets):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are a part of the tests."""


def _handler_of(proxy: HttpFaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *args: Any) -> None:
            """Keep quiet."""

        def forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = SeenRequest(
                self.command, self.path, dict(self.headers.items()), self.rfile.read(length)
            )
            fault = proxy.take_fault(request) or Fault()
            time.sleep(fault.pause)
            if fault.reset:
                # A reset and no orderly end, as when a process is killed.
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.close_connection = True
                self.connection.close()
                return
            if fault.raw is not None:
                self.close_connection = True
                _drip(self.wfile, fault.raw, fault.drip)
                return
            if fault.status is not None:
                self.answer(fault.status, fault.headers, fault.body, fault.drip)
                return
            self.answer(*_reworded(*_ask(proxy.target, request), proxy.words), fault.drip)

        def answer(self, status: int, headers: dict[str, str], body: bytes, drip: float) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            _drip(self.wfile, body, drip)

        do_GET = do_POST = do_PUT = do_DELETE = do_LIST = do_HEAD = forward  # noqa: N815 - theirs

    return Handler


def _drip(sink: BufferedIOBase, content: bytes, pause: float) -> None:
    if not pause:
        sink.write(content)
        return
    for one in content:
        sink.write(bytes([one]))
        time.sleep(pause)


def _reworded(
    status: int, headers: dict[str, str], body: bytes, words: str | None
) -> tuple[int, dict[str, str], bytes]:
    """Return the answer with *words* in place of each of its error texts."""
    if words is None or status < http.HTTPStatus.BAD_REQUEST:
        return status, headers, body
    try:
        told = json.loads(body)
    except ValueError:
        return status, headers, words.encode()
    for name in ("errors", "warnings"):
        if told.get(name):
            told[name] = [words] * len(told[name])
    return status, headers, json.dumps(told).encode()


def _ask(port: int, request: SeenRequest) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(request.method, request.path, request.body, request.headers)
        reply = connection.getresponse()
        body = reply.read()
    finally:
        connection.close()
    headers = {k: v for k, v in reply.getheaders() if k.lower() not in _HOP_BY_HOP}
    return reply.status, headers, body
