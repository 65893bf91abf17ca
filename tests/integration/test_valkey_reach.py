"""TLS with a private authority and client certificates, ACL users, and Unix sockets."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING

import pytest

from clients.errors import ValkeyConfigurationError, ValkeyConnectionError
from clients.valkey_client import ValkeyClient
from tests.tls_relay import Certificates, TlsRelay, locked_copy, make_certificates
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server that listens on TCP and on a Unix socket."""
    made = ValkeyServer()
    made.directives = (f"unixsocket {made.folder}/valkey.sock", "unixsocketperm 700")
    with made as started:
        yield started


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One private authority for all tests here."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tls_with_a_private_authority(
    server: ValkeyServer, certificates: Certificates, scheme: str, host: str
) -> None:
    """The authority's file makes the certificate good, and host names are checked."""
    with TlsRelay(server.port, certificates) as relay:
        url = f"{scheme}://:{server.password}@{host}:{relay.port}/1?ssl_ca_certs={certificates.ca}"
        with ValkeyClient(url, max_connections=2) as client:
            assert client.set("a", "x") is True
            assert client.get("a") == "x"
            assert client.client.get("a") == "x"


def test_an_unknown_authority_is_refused(server: ValkeyServer, certificates: Certificates) -> None:
    """Without the authority's file the certificate is refused, at once and by name."""
    with TlsRelay(server.port, certificates) as relay:
        start = time.monotonic()
        with pytest.raises(ValkeyConnectionError, match=r"CERTIFICATE_VERIFY_FAILED") as caught:
            ValkeyClient(
                f"rediss://:{server.password}@127.0.0.1:{relay.port}", connect_timeout=40.0
            )

        assert time.monotonic() - start < 20
        assert server.password not in "".join(traceback.format_exception(caught.value))


def test_a_client_certificate_is_shown(server: ValkeyServer, certificates: Certificates) -> None:
    """A server that asks for one gets it; without it the handshake fails."""
    certificate, key = certificates.client
    with TlsRelay(server.port, certificates, ask_for_certificate=True) as relay:
        url = f"rediss://:{server.password}@127.0.0.1:{relay.port}?ssl_ca_certs={certificates.ca}"
        with ValkeyClient(f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}") as client:
            assert client.health_check() is True
        with pytest.raises(ValkeyConnectionError):
            ValkeyClient(url)


def test_checks_can_be_turned_off_by_name(server: ValkeyServer, certificates: Certificates) -> None:
    """Whoever says ssl_cert_reqs=none gets it."""
    with TlsRelay(server.port, certificates) as relay:
        url = f"rediss://:{server.password}@127.0.0.1:{relay.port}?ssl_cert_reqs=none"
        with ValkeyClient(url) as client:
            assert client.health_check() is True


def test_a_missing_certificate_file_is_named(server: ValkeyServer, tmp_path: Path) -> None:
    """The option and the file are in the message, before anything is opened."""
    for option in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        with pytest.raises(ValkeyConfigurationError, match=f"{option}.*absent.pem"):
            ValkeyClient(f"rediss://127.0.0.1:{server.port}?{option}={tmp_path}/absent.pem")


def test_a_key_without_its_certificate_is_refused(
    server: ValkeyServer, certificates: Certificates
) -> None:
    """The option that is missing is named; the TLS library would raise a TypeError."""
    with pytest.raises(ValkeyConfigurationError, match="'ssl_keyfile' needs 'ssl_certfile'"):
        ValkeyClient(f"rediss://127.0.0.1:{server.port}?ssl_keyfile={certificates.client[1]}")


def test_a_key_with_a_password_needs_it_in_the_url(
    server: ValkeyServer, certificates: Certificates, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody is asked at the terminal, which would wait for ever: the option is named."""
    certificate, key = certificates.client
    locked = locked_copy(key, "0pen me")
    with TlsRelay(server.port, certificates, ask_for_certificate=True) as relay:
        url = f"rediss://:{server.password}@127.0.0.1:{relay.port}?ssl_ca_certs={certificates.ca}"
        url += f"&ssl_certfile={certificate}&ssl_keyfile={locked}"
        with pytest.raises(ValkeyConfigurationError, match=r"ssl_keyfile.*add ssl_password"):
            ValkeyClient(url)
        with pytest.raises(ValkeyConnectionError):
            ValkeyClient(f"{url}&ssl_password=wrong")
        with ValkeyClient(f"{url}&ssl_password=0pen%20me") as client:
            assert client.health_check() is client.client.ping() is True

    assert capfd.readouterr().err == ""


def test_a_key_that_comes_to_need_a_password_is_not_asked_about(
    server: ValkeyServer, certificates: Certificates, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its file may be replaced while the client runs: the next connection fails, and waits not."""
    certificate, key = certificates.client
    moving = certificate.with_name("moving.key")
    moving.write_bytes(key.read_bytes())
    with TlsRelay(server.port, certificates) as relay:
        url = f"rediss://:{server.password}@127.0.0.1:{relay.port}?ssl_ca_certs={certificates.ca}"
        url += f"&ssl_certfile={certificate}&ssl_keyfile={moving}"
        with ValkeyClient(url) as client:
            moving.write_bytes(locked_copy(key, "0pen me").read_bytes())
            with ValkeyClient(server.url) as admin:
                admin.client.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(ValkeyConnectionError):
                client.get("a")

    assert capfd.readouterr().err == ""


def test_a_broken_certificate_file_is_an_error(server: ValkeyServer, tmp_path: Path) -> None:
    """A file that is no certificate fails at construction."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")

    with pytest.raises(ValkeyConnectionError):
        ValkeyClient(f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={broken}")


def test_tls_to_a_plain_port_fails_within_the_timeouts(server: ValkeyServer) -> None:
    """Neither side understands the other: an error, and no hanging."""
    start = time.monotonic()
    with pytest.raises(ValkeyConnectionError):
        ValkeyClient(f"rediss://127.0.0.1:{server.port}", connect_timeout=0.5, socket_timeout=0.5)

    assert time.monotonic() - start < 3


def test_plain_to_a_tls_port_fails_at_once(
    server: ValkeyServer, certificates: Certificates
) -> None:
    """A forgotten s in the scheme is an error at construction."""
    with TlsRelay(server.port, certificates) as relay, pytest.raises(ValkeyConnectionError):
        ValkeyClient(f"redis://127.0.0.1:{relay.port}", socket_timeout=1)


def test_an_acl_user_logs_in_with_its_name(server: ValkeyServer) -> None:
    """User and password in the URL are the ACL's, with any character in them."""
    with ValkeyClient(server.url) as admin:
        admin.client.acl_setuser(
            "app", enabled=True, passwords=["+p/@ #"], keys=["*"], commands=["+@all"]
        )
        with ValkeyClient(f"redis://app:p%2F%40%20%23@127.0.0.1:{server.port}") as client:
            assert client.client.acl_whoami() == "app"
            assert client.set("a", "x") is True


def test_a_unix_socket_works(server: ValkeyServer) -> None:
    """unix:// reaches the same server, in the database that it names."""
    path = f"{server.folder}/valkey.sock"
    with ValkeyClient(f"unix://:{server.password}@{path}?db=2") as client:
        client.set("a", "x")

        assert client.client.get("a") == "x"
        assert path in repr(client)
        assert client.client.client_info()["db"] == 2


def test_a_missing_unix_socket_is_named(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(ValkeyConnectionError, match=r"absent\.sock"):
        ValkeyClient(f"unix://{tmp_path}/absent.sock")
