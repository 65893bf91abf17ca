"""A relay before PostgreSQL that puts other words into every error and notice of the server.

The codes stay as they are: a client that goes by them does not notice.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.tcp_relay import Link, TcpRelay

if TYPE_CHECKING:
    import socket
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


class TranslatingProxy(TcpRelay):
    """Relay connections to a server, and translate what its errors and notices say.

    Args:
        port: The server's port on 127.0.0.1.
        translate: Takes a code, the letter of a field and its words, and returns other words.
    """

    def __init__(self, port: int, translate: Callable[[str, str, str], str]) -> None:
        super().__init__(port)
        self._translate = translate
        #: How many errors and notices got other words.
        self.translated = 0

    def relay(self, link: Link, source: socket.socket, sink: socket.socket, *, up: bool) -> None:
        """Relay one direction; the server's with other words."""
        if up:
            super().relay(link, source, sink, up=up)
            return
        rest, started = b"", False
        while chunk := source.recv(65536):
            if not started and chunk in {b"N", b"S", b"G"}:
                sink.sendall(chunk)  # the answer to a request for encryption
                continue
            started = True
            out, rest = self._translated(rest + chunk)
            sink.sendall(out)

    def _translated(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the whole messages in *data* with other words, and what is left."""
        out = b""
        while len(data) >= 5:
            length = struct.unpack("!i", data[1:5])[0]
            if len(data) < length + 1:
                break
            message, data = data[: length + 1], data[length + 1 :]
            if message[:1] in {b"E", b"N"}:
                body = self.translate(message[5:])
                message = message[:1] + struct.pack("!i", len(body) + 4) + body
            out += message
        return out, data

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
