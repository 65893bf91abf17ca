"""TLS, against a server with a CA of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients.errors import VaultConfigurationError, VaultConnectionError, VaultError
from clients.vault_client import VaultClient
from tests.fault_proxy import FaultProxy
from tests.vault_servers import TlsOpenBao

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def tls_server() -> Iterator[TlsOpenBao]:
    """A development server behind TLS."""
    with TlsOpenBao() as server:
        yield server


def _environ(server: TlsOpenBao, **more: str) -> dict[str, str]:
    return {"VAULT_ADDR": server.url, "VAULT_TOKEN": server.root_token} | more


def test_the_ca_of_the_environment_is_trusted(tls_server: TlsOpenBao) -> None:
    """VAULT_CACERT is read at construction, whatever hvac read when it was imported."""
    with VaultClient(environ=_environ(tls_server, VAULT_CACERT=str(tls_server.ca_file))) as client:
        assert client.health_check() is True


def test_an_unknown_ca_is_refused_at_once(tls_server: TlsOpenBao) -> None:
    """A certificate that nobody vouches for is no outage: one try, and the settings to check."""
    with FaultProxy(tls_server.port) as proxy:
        environ = _environ(tls_server, VAULT_ADDR=f"https://127.0.0.1:{proxy.port}")
        with pytest.raises(VaultConfigurationError, match="certificate verify failed") as caught:
            VaultClient(environ=environ)

        assert proxy.connections == 1
    assert caught.value.reason == "tls"
    assert "VAULT_CACERT" in str(caught.value)


def test_verification_can_be_switched_off_and_warns(tls_server: TlsOpenBao) -> None:
    """VAULT_SKIP_VERIFY reaches the connection, and the library says that it is unsafe."""
    with (
        pytest.warns(match="Unverified HTTPS request"),
        VaultClient(environ=_environ(tls_server, VAULT_SKIP_VERIFY="true")) as client,
    ):
        assert client.health_check() is True


def test_plain_http_to_a_tls_server_says_so(tls_server: TlsOpenBao) -> None:
    """The server's own words come out."""
    environ = _environ(tls_server, VAULT_ADDR=tls_server.url.replace("https", "http"))
    with pytest.raises(VaultError, match="HTTP 400"):
        VaultClient(environ=environ)


def test_a_client_certificate_is_shown(tls_server: TlsOpenBao) -> None:
    """Certificate and key reach the TLS library: a file that is none is named as a setting."""
    environ = _environ(
        tls_server,
        VAULT_CACERT=str(tls_server.ca_file),
        VAULT_CLIENT_CERT=str(tls_server.ca_file),
        VAULT_CLIENT_KEY=str(tls_server.folder / "vault-key.pem"),
    )
    with pytest.raises(VaultConfigurationError, match="VAULT_CLIENT_CERT"):
        VaultClient(environ=environ)
    pair = {
        "VAULT_CLIENT_CERT": str(tls_server.folder / "vault-cert.pem"),
        "VAULT_CLIENT_KEY": str(tls_server.folder / "vault-key.pem"),
    }
    with VaultClient(environ=environ | pair) as client:
        assert client.health_check() is True


def test_a_cut_handshake_is_an_outage(tls_server: TlsOpenBao) -> None:
    """A server that goes away in the midst of TLS is tried again, and then unreachable."""
    with FaultProxy(tls_server.port) as proxy:
        proxy.refuse.set()
        environ = _environ(
            tls_server,
            VAULT_ADDR=f"https://127.0.0.1:{proxy.port}",
            VAULT_CACERT=str(tls_server.ca_file),
        )
        with pytest.raises(VaultConnectionError, match="after 3 tries") as caught:
            VaultClient(retries=2, environ=environ)

    assert caught.value.reason == "unreachable"
