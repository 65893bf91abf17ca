"""TLS, against a server with a CA of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import pytest

from clients.errors import VaultConfigurationError, VaultConnectionError, VaultError
from clients.vault_client import VaultClient
from tests.fault_proxy import FaultProxy
from tests.postgres_faults import wait_for
from tests.tls_relay import Certificates, TlsRelay, make_certificates
from tests.vault_servers import TlsOpenBao

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.vault_fixtures import VaultLab


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


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lasts": timedelta(minutes=-5)}, "certificate has expired"),
        ({"host": "vault.example.com"}, "not valid for '127.0.0.1'"),
    ],
    ids=["expired", "another host"],
)
def test_a_certificate_that_is_no_good_is_named(
    vault_lab: VaultLab, tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    """Expired and of another host are told apart, and neither is an outage."""
    certificates = make_certificates(tmp_path, **wrong)
    with TlsRelay(vault_lab.server.port, certificates) as relay:
        environ = _relayed(vault_lab, relay, certificates)
        with pytest.raises(VaultConfigurationError, match=words) as caught:
            VaultClient(environ=environ)

    assert caught.value.reason == "tls"


def test_a_server_that_wants_a_certificate_gets_it(vault_lab: VaultLab, tmp_path: Path) -> None:
    """Without one, the error is the server's own alert and names the variable to set."""
    certificates = make_certificates(tmp_path)
    with TlsRelay(vault_lab.server.port, certificates, ask_for_certificate=True) as relay:
        environ = _relayed(vault_lab, relay, certificates)
        with pytest.raises(VaultConfigurationError, match=r"required.*VAULT_CLIENT_CERT") as caught:
            VaultClient(environ=environ)
        assert caught.value.reason == "tls"
        certificate, key = map(str, certificates.client)
        environ |= {"VAULT_CLIENT_CERT": certificate, "VAULT_CLIENT_KEY": key}
        with VaultClient(environ=environ) as client:
            assert client.get_secret("app/db")


@pytest.mark.parametrize("end", ["fin", "reset"])
def test_an_alert_that_is_lost_leaves_a_reason(
    vault_lab: VaultLab, tmp_path: Path, end: Literal["fin", "reset"]
) -> None:
    """A server that ends each TLS connection without an answer may want a certificate."""
    certificates = make_certificates(tmp_path)
    with TlsRelay(vault_lab.server.port, certificates, hangs_up=end) as relay:
        environ = _relayed(vault_lab, relay, certificates)
        with pytest.raises(VaultConnectionError, match=r"VAULT_CLIENT_CERT.*2 tries") as caught:
            VaultClient(environ=environ, retries=1)
        assert caught.value.reason == "tls"

        certificate, key = map(str, certificates.client)
        environ |= {"VAULT_CLIENT_CERT": certificate, "VAULT_CLIENT_KEY": key}
        with pytest.raises(VaultConnectionError) as caught:
            VaultClient(environ=environ, retries=1)
        assert caught.value.reason == "unreachable"


def test_a_connection_that_was_answered_once_may_end(tls_server: TlsOpenBao) -> None:
    """A server that goes away later is unreachable, and wants no certificate."""
    with FaultProxy(tls_server.port) as proxy, ThreadPoolExecutor(1) as thread:
        environ = _environ(
            tls_server,
            VAULT_ADDR=f"https://127.0.0.1:{proxy.port}",
            VAULT_CACERT=str(tls_server.ca_file),
        )
        with VaultClient(retries=0, environ=environ) as client:
            proxy.stall.set()
            sent = proxy.bytes_up
            read = thread.submit(client.get_secret, "app/db")
            wait_for(lambda: proxy.bytes_up > sent)
            proxy.cut()
            with pytest.raises(VaultConnectionError) as caught:
                read.result()
            assert proxy.connections == 1
            proxy.stall.clear()

    assert caught.value.reason == "unreachable"


def test_a_file_without_a_certificate_is_no_authority(
    tls_server: TlsOpenBao, tmp_path: Path
) -> None:
    """It is a wrong setting, and no outage to be tried again."""
    junk = tmp_path / "junk.pem"
    junk.write_text("hello")
    with pytest.raises(VaultConfigurationError, match="no certificate") as caught:
        VaultClient(environ=_environ(tls_server, VAULT_CACERT=str(junk)))

    assert caught.value.reason == "tls"


def _relayed(lab: VaultLab, relay: TlsRelay, certificates: Certificates) -> dict[str, str]:
    return {
        "VAULT_ADDR": f"https://127.0.0.1:{relay.port}",
        "VAULT_TOKEN": lab.token(),
        "VAULT_CACERT": str(certificates.ca),
    }


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
