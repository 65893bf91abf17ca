"""A TLS-terminating relay on loopback, and the certificates for it, made on the spot."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.tcp_relay import TcpRelay

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Certificates", "TlsRelay", "locked_copy", "make_certificates"]

_KEY_FORMAT = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of one private certificate authority.

    Args:
        ca: Its certificate.
        server: A certificate for 127.0.0.1 and localhost, with its key.
        client: A client's certificate, with its key.
    """

    ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


def make_certificates(
    folder: Path, *, host: str = "localhost", lasts: dt.timedelta = dt.timedelta(days=1)
) -> Certificates:
    """Write a new authority, a server's and a client's certificate into *folder*.

    Args:
        folder: Where to write.
        host: Whose certificates they are; ``localhost`` stands for 127.0.0.1 as well.
        lasts: How long they are valid from now on; below zero for expired ones.
    """
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _sign("test authority", ca_key, ca_key, None, host, dt.timedelta(days=1))
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    pairs = []
    for name in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign(name, key, ca_key, ca, host, lasts)
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(*_KEY_FORMAT))
        pairs.append(paths)
    return Certificates(folder / "ca.pem", pairs[0], pairs[1])


def locked_copy(key: Path, password: str) -> Path:
    """Write a copy of a key that only *password* opens, and return its path.

    Args:
        key: The key's file.
        password: The password.
    """
    opened = serialization.load_pem_private_key(key.read_bytes(), password=None)
    locked = key.with_suffix(".locked")
    locked.touch(mode=0o600)
    locked.write_bytes(
        opened.private_bytes(
            *_KEY_FORMAT[:2], serialization.BestAvailableEncryption(password.encode())
        )
    )
    return locked


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    host: str,
    lasts: dt.timedelta,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    if host == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + lasts)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(_usage(of_authority=issuer is None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _usage(*, of_authority: bool) -> x509.KeyUsage:
    # Python 3.13 and later trust no authority that does not say what its key is for.
    return x509.KeyUsage(
        digital_signature=not of_authority,
        key_cert_sign=of_authority,
        crl_sign=of_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


class TlsRelay(TcpRelay):
    """Speaks TLS to clients and plain TCP to a server on 127.0.0.1.

    Args:
        port: The server's port.
        certificates: What to show, and whom to trust.
        ask_for_certificate: Refuse clients that show no certificate of the authority.
        hangs_up: End each connection after its handshake without a word, as a server seems to do
            whose alert is lost on the way: with a FIN, or with a reset.
    """

    def __init__(
        self,
        port: int,
        certificates: Certificates,
        *,
        ask_for_certificate: bool = False,
        hangs_up: Literal["fin", "reset"] | None = None,
    ) -> None:
        super().__init__(port)
        self._hangs_up = hangs_up
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificates.server)
        if ask_for_certificate:
            self._context.load_verify_locations(certificates.ca)
            self._context.verify_mode = ssl.CERT_REQUIRED

    def serve(self, client: socket.socket) -> None:
        """Shake hands, and relay with one thread for both directions."""
        client.settimeout(5)
        secured = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
        except OSError:
            _close_gracefully(secured)
            return
        if self._hangs_up:
            if self._hangs_up == "reset":
                secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            secured.close()
            return
        with secured, socket.create_connection(("127.0.0.1", self.target), 5) as server:
            # One thread for both directions: an SSL socket is not for two at once.
            secured.settimeout(0.005)
            server.settimeout(0.005)
            with contextlib.suppress(OSError):
                while _pass_on(secured, server) and _pass_on(server, secured):
                    pass


def _close_gracefully(client: ssl.SSLSocket) -> None:
    """Close once the client has read what was sent to it.

    To close with something unread resets the connection, and the client may lose the alert.
    """
    with client, contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


def _pass_on(source: socket.socket, sink: socket.socket) -> bool:
    """Pass on what is there; return False at the end of the stream."""
    try:
        chunk = source.recv(65536)
    except TimeoutError:
        return True
    if chunk:
        sink.sendall(chunk)
    return bool(chunk)
