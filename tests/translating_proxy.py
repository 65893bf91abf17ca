"""A relay before PostgreSQL that puts other words into every error and notice of the server.

The codes stay as they are: a client that goes by them does not notice.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    from utils._stack.postgres import PostgresServer

__all__ = ["ForeignServer", "TranslatingProxy", "german", "nonsense"]

# https://www.postgresql.org/docs/18/protocol-error-fields.html: the fields that are words.
_WORDS = {ord("S"), ord("M"), ord("D"), ord("H"), ord("W")}

_GERMAN = {
    "28P01": "Passwort-Authentifizierung für Benutzer »crm_user« fehlgeschlagen",
    "28000": "Rolle »crm_user« existiert nicht",
    "3D000": "Datenbank »nosuch« existiert nicht",
    "53300": "zu viele Verbindungen für Rolle »crm_user«",
    "57P01": "Verbindung wird abgebrochen aufgrund von Anweisung des Administrators",
    "57P03": "das Datenbanksystem startet",
}


def german(code: str, field: str, words: str) -> str:
    """Return what a German server says."""
    if field == "M":
        return _GERMAN.get(code, f"Fehler, der hier nicht übersetzt ist ({len(words)} Zeichen)")
    return {"ERROR": "FEHLER", "FATAL": "FATAL", "PANIC": "PANIK"}.get(words, "Einzelheiten")


def nonsense(code: str, field: str, words: str) -> str:
    """Return words that mean nothing, or another failure than this one."""
    if field == "M":
        return "starting up; password authentication failed; Connection refused: frobnicated"
    return f"blurb {field}"


class TranslatingProxy:
    """Relay connections to a server, and translate what its errors and notices say.

    Args:
        port: The server's port on 127.0.0.1.
        translate: Takes a code, the letter of a field and its words, and returns other words.
    """

    def __init__(self, port: int, translate: Callable[[str, str, str], str]) -> None:
        self._target = port
        self._translate = translate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        #: How many errors and notices got other words.
        self.translated = 0
        self._accepter = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepter.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepter.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for relay, source, sink in ((_Up, client, server), (_Down, server, client)):
                threading.Thread(target=relay(self, source, sink).run, daemon=True).start()

    def translate(self, body: bytes) -> bytes:
        """Return an error's or notice's fields with other words."""
        fields = [(field[0], field[1:]) for field in body.split(b"\0") if field]
        code = next((text for letter, text in fields if letter == ord("C")), b"").decode()
        self.translated += 1
        return (
            b"".join(
                bytes([letter])
                + (
                    self._translate(code, chr(letter), text.decode()).encode()
                    if letter in _WORDS
                    else text
                )
                + b"\0"
                for letter, text in fields
            )
            + b"\0"
        )


class _Relay:
    def __init__(self, proxy: TranslatingProxy, source: socket.socket, sink: socket.socket) -> None:
        self._proxy = proxy
        self._source = source
        self._sink = sink

    def run(self) -> None:
        """Relay until either side is gone."""
        with contextlib.suppress(OSError):
            while chunk := self._source.recv(65536):
                self._sink.sendall(self._seen(chunk))
        for one in (self._source, self._sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._source.close()

    def _seen(self, chunk: bytes) -> bytes:
        return chunk


class _Up(_Relay):
    pass


class _Down(_Relay):
    _rest = b""
    _started = False

    def _seen(self, chunk: bytes) -> bytes:
        if not self._started and chunk in {b"N", b"S", b"G"}:
            return chunk  # the answer to a request for encryption
        self._started = True
        data, out = self._rest + chunk, b""
        while len(data) >= 5:
            length = struct.unpack("!i", data[1:5])[0]
            if len(data) < length + 1:
                break
            message, data = data[: length + 1], data[length + 1 :]
            if message[:1] in {b"E", b"N"}:
                body = self._proxy.translate(message[5:])
                message = message[:1] + struct.pack("!i", len(body) + 4) + body
            out += message
        self._rest = data
        return out


class ForeignServer:
    """A server as its clients see it through the proxy; everything else is the server's own.

    Args:
        server: The server.
        port: The proxy's port.
    """

    def __init__(self, server: PostgresServer, port: int) -> None:
        self._server = server
        self._port = port

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def url(self, *args: Any, **kwargs: Any) -> str:
        """Return the URL of a database, through the proxy."""
        direct = self._server.url(*args, **kwargs)
        return direct.replace(f":{urlsplit(direct).port}/", f":{self._port}/")
