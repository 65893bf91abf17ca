"""The client's own key and certificate, which libpq reads when it meets the server."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from clients.errors import PostgresConnectionError
from clients.postgres_client import PostgresClient
from tests.tls_relay import locked_copy, make_certificates

if TYPE_CHECKING:
    from pathlib import Path

    from utils.local_stack import StackEndpoints

KEY_PASSWORD = "0pen me"
UNREADABLE = "could not load private key file"


@pytest.fixture
def url(stack: StackEndpoints, tmp_path: Path) -> str:
    """A URL with a key that has a password: libpq opens it before the server answers."""
    certificate, key = make_certificates(tmp_path).client
    tls = f"sslmode=require&sslnegotiation=direct&sslcert={certificate}"
    return f"{stack.database_url}?{tls}&sslkey={locked_copy(key, KEY_PASSWORD)}"


@pytest.mark.parametrize("password", ["", "&sslpassword=wrong"], ids=["none", "wrong"])
def test_nobody_is_asked_for_a_keys_password(
    url: str, password: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """OpenSSL would ask at the terminal, and wait for ever: the option is named."""
    with pytest.raises(PostgresConnectionError, match="add sslpassword to the URL") as caught:
        PostgresClient(url + password)

    assert UNREADABLE in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_keys_password_counts_wherever_it_stands(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the URL or in a service's file; what fails then is this server's want of TLS."""
    services = tmp_path / "services"
    services.write_text(f"[crm]\nsslpassword={KEY_PASSWORD}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    for password in (f"&sslpassword={quote(KEY_PASSWORD)}", "&service=crm"):
        with pytest.raises(PostgresConnectionError) as caught:
            PostgresClient(url + password)
        assert UNREADABLE not in str(caught.value)
