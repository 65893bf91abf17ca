"""Logging in to a real server, and what it costs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from clients.errors import VaultAuthenticationError, VaultConnectionError
from clients.vault_client import VaultClient
from tests.postgres_helpers import open_sockets

if TYPE_CHECKING:
    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab


def test_an_invalid_token_is_refused_at_once(vault_lab: VaultLab) -> None:
    """Construction raises with the server's own words."""
    with pytest.raises(VaultAuthenticationError, match=r"token is invalid.*permission denied") as c:
        VaultClient(vault_lab.url, "hvs.invalid", environ={})

    assert (c.value.reason, c.value.status) == ("token_invalid", 403)


def test_a_token_that_may_not_look_itself_up_is_accepted(vault_lab: VaultLab) -> None:
    """A least-privilege token that may read is a good token."""
    token = vault_lab.token(no_default_policy=True)
    with VaultClient(vault_lab.url, token, environ={}) as client:
        assert client.get_secret("app/db") == {"url": "postgresql://app"}
        assert client.health_check() is True


def test_a_token_tells_its_life(vault_lab: VaultLab) -> None:
    """Its age and its end; a root token has none, which its server tells as 0 seconds."""
    with VaultClient(vault_lab.url, vault_lab.token(ttl="1h"), environ={}) as client:
        assert 3500 < (client.credential_life().remaining or 0) <= 3600
        assert 0 <= client.credential_life().age < 60
    with VaultClient(vault_lab.url, vault_lab.root_token, environ={}) as client:
        assert client.credential_life().remaining is None


def test_a_token_with_a_newline_works(vault_lab: VaultLab) -> None:
    """What `$(cat file)` brings along is stripped."""
    environ = {"VAULT_ADDR": vault_lab.url, "VAULT_TOKEN": f"{vault_lab.token()}\n"}
    with VaultClient(environ=environ) as client:
        assert client.get_secret("app/db")


def test_wrong_approle_credentials_are_refused_at_once(vault_lab: VaultLab) -> None:
    """A wrong secret id is a refused login: one request, and no retry."""
    role = vault_lab.role()
    arguments = role.arguments() | {"secret_id": "wrong"}
    with pytest.raises(VaultAuthenticationError, match=r"login was refused.*role or secret") as c:
        VaultClient(vault_lab.url, **arguments)

    assert c.value.reason == "login_refused"


def test_a_failed_construction_leaves_no_socket(vault_lab: VaultLab) -> None:
    """Also when the error is kept, and with it the frames that held the client."""
    role = vault_lab.role()
    sockets = open_sockets()
    kept = []
    for credentials in ({"token": "hvs.invalid"}, role.arguments() | {"secret_id": "wrong"}):
        with pytest.raises(VaultAuthenticationError) as caught:
            VaultClient(vault_lab.url, **{"environ": {}} | credentials)
        kept.append(caught)

    assert open_sockets() <= sockets


def test_nothing_listening_is_told_in_the_words_of_the_system(closed_port: int) -> None:
    """A refused port is an answer within a second, retries and all."""
    began = time.monotonic()
    with pytest.raises(VaultConnectionError, match="Connection refused") as caught:
        VaultClient(f"http://127.0.0.1:{closed_port}", "token-that-is-none", environ={})

    assert time.monotonic() - began < 5
    assert caught.value.reason == "unreachable"
    assert caught.value.__cause__ is not None


def test_the_token_of_a_caller_outlives_the_client(vault_lab: VaultLab) -> None:
    """Closing revokes nothing that was given to us."""
    token = vault_lab.token()
    VaultClient(vault_lab.url, token, environ={}).close()

    with VaultClient(vault_lab.url, token, environ={}) as client:
        assert client.get_secret("app/db")


def test_closing_revokes_the_token_that_the_client_obtained(vault_lab: VaultLab) -> None:
    """An AppRole token does not live on after its client."""
    role = vault_lab.role()
    client = VaultClient(vault_lab.url, **role.arguments())
    assert len(vault_lab.tokens_of(role)) == 1
    client.close()

    assert vault_lab.tokens_of(role) == []


def test_a_token_client_keeps_to_the_request_budget(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Construction 1, a cold read 1, a warm read 0, a close 0."""
    with VaultClient(vault_proxy.url, vault_lab.token(), environ={}) as client:
        assert vault_proxy.count() == 1
        client.get_secret("app/db")
        assert vault_proxy.count() == 2
        for _ in range(50):
            client.get_secret("secret/data/app/db")
    assert vault_proxy.count() == 2


def test_an_approle_client_keeps_to_the_request_budget(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Construction 1, a cold read 1, a warm read 0, a close 1; never a lookup."""
    with VaultClient(vault_proxy.url, **vault_lab.role().arguments()) as client:
        assert [one.path for one in vault_proxy.seen] == ["/v1/auth/approle/login"]
        client.get_secret("app/db")
        client.get_secret("app/db")
        assert vault_proxy.count() == 2
    assert vault_proxy.count() == 3
    assert vault_proxy.count("revoke-self") == 1


def test_many_threads_that_miss_one_key_make_one_request(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Sixty-four threads, one secret, one request; the counts add up."""
    with VaultClient(vault_proxy.url, vault_lab.token(), environ={}) as client:
        vault_proxy.forget()
        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(lambda _: client.get_secret("app/db"), range(64)))
        stats = client.cache_stats()

        assert vault_proxy.count() == 1
        assert found == [{"url": "postgresql://app"}] * 64
        assert stats["misses"] == 1
        assert stats["hits"] + stats["coalesced"] == 63


def test_ambient_hvac_settings_play_no_part(
    vault_lab: VaultLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies, bundles and token files of the machine do not reach a request with a token."""
    token = vault_lab.token()
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("VAULT_TOKEN", "ambient")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/does/not/exist")
    with VaultClient(vault_lab.url, token, environ={}) as client:
        assert client.get_secret("app/db")
