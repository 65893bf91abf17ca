"""HTTP connections on which a time-out bounds the whole exchange, and not each wait in it.

The HTTP library's own time-out starts again with each address of a host, and with each piece of an
answer: a server that sends byte by byte could hold a caller for hours.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from urllib3.response import HTTPResponse

__all__ = ["UnansweredTlsError", "make_session"]

_POOL_SIZE = 64


def make_session() -> requests.Session:
    """Return a session whose time-outs are meant, and that does nothing behind the caller's back.

    No proxy, CA bundle or .netrc of the environment touches its requests, and it follows no
    redirect. Pass it ``urllib3.Timeout(connect=..., total=...)``.
    """
    session = _Session()
    session.trust_env = False
    adapter = _Adapter(pool_connections=1, pool_maxsize=_POOL_SIZE, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None; else the session would read the body of a redirect, however large."""


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a moment, whatever number of reads that takes."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        # It was just set, to what is left of the request's time.
        timeout = sock.gettimeout()
        self._ends_at = time.monotonic() + (float("inf") if timeout is None else timeout)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(None if left == float("inf") else left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock))

    def begin(self) -> None:
        super().begin()
        if self.msg.get_payload():
            # urllib3 would log what it cannot parse, and that may be the body.
            raise http.client.HTTPException("a header line that is none")


class _Connection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        return _connect(self)


class UnansweredTlsError(ConnectionError):
    """The server ended a TLS connection before any answer, and it was shown no certificate."""


class _TlsConnection(HTTPSConnection):
    response_class = _Response
    _answered = False

    def _new_conn(self) -> socket.socket:
        self._answered = False
        return _connect(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().request(*args, **kwargs)
        except ssl.SSLEOFError as error:
            # The server's alert may be there to read, and urllib3 reads on after a broken pipe.
            raise BrokenPipeError(*error.args) from error

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 does
        # Since TLS 1.3 a client learns only now that the server does not do without its
        # certificate, and a reset may overtake the alert that says so: RFC 8446, section 4.4.2.4.
        try:
            response = super().getresponse()
        except (ConnectionError, ssl.SSLEOFError) as error:
            if self._answered or self.cert_file is not None:
                raise
            raise UnansweredTlsError(*error.args) from error
        self._answered = True
        return response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _connect(connection: HTTPConnection) -> socket.socket:
    """Connect to the first address that answers; a dead one must not use up the others' time."""
    host, timeout = connection.host, connection.timeout or 0.0
    ends_at = time.monotonic() + timeout
    try:
        found = socket.getaddrinfo(host.strip("[]"), connection.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise NameResolutionError(host, connection, error) from error
    except UnicodeError:
        raise LocationParseError(host) from None
    failure: OSError = TimeoutError("timed out")
    for number, (*_, (address, port, *_)) in enumerate(found):
        share = (ends_at - time.monotonic()) / (len(found) - number)
        if share <= 0:
            break
        try:
            sock = socket.create_connection((str(address), port), share)
        except OSError as error:
            failure = error
            continue
        for option in connection.socket_options or ():
            sock.setsockopt(*option)
        # What is left is for the TLS handshake.
        sock.settimeout(max(ends_at - time.monotonic(), 0.001))
        return sock
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, f"no connection within {timeout:g} s") from failure
    raise NewConnectionError(connection, f"no connection: {failure}") from failure
