"""Health, on servers in each state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients.errors import VaultConnectionError
from clients.vault_client import VaultClient
from tests.http_fault_proxy import HttpFaultProxy
from tests.vault_servers import SealableOpenBao

if TYPE_CHECKING:
    from tests.vault_fixtures import VaultLab


def test_health_tells_the_states_of_a_server_apart() -> None:
    """Uninitialised, sealed, healthy, sealed again, unreachable: each is named, none retried."""
    with SealableOpenBao() as server, HttpFaultProxy(server.port) as proxy:
        with pytest.raises(VaultConnectionError, match=r"not initialised.*operator init") as caught:
            VaultClient(proxy.url, "hvs.some-token", environ={})
        assert caught.value.reason == "uninitialised"
        server.initialise()
        proxy.forget()
        with pytest.raises(VaultConnectionError, match="Vault is sealed") as caught:
            VaultClient(proxy.url, "hvs.some-token", environ={})
        assert (caught.value.reason, caught.value.status) == ("sealed", 503)
        assert proxy.count("lookup-self") == 1
        server.unseal()
        with VaultClient(proxy.url, server.root_token, environ={}) as client:
            assert client.health_check() is True
            server.seal()
            for call in (
                client.health_check,
                client.server_version,
                lambda: client.get_secret("x"),
            ):
                with pytest.raises(VaultConnectionError, match="Vault is sealed") as caught:
                    call()
                assert caught.value.reason == "sealed"
            server.stop()
            for call in (client.health_check, lambda: client.get_secret("x")):
                with pytest.raises(VaultConnectionError) as caught:
                    call()
                assert caught.value.reason in {"unreachable", "server_error", "timeout"}
            server.start()
            server.unseal()
            assert client.health_check() is True


def test_health_works_inside_a_namespace(vault_lab: VaultLab, vault_proxy: HttpFaultProxy) -> None:
    """The server refuses to tell its health in a namespace, so it is asked outside of it."""
    vault_lab.admin.sys.create_namespace("team-a")
    with VaultClient(
        vault_proxy.url, vault_lab.root_token, namespace="team-a", environ={}
    ) as client:
        assert client.health_check() is True
        assert client.server_version().startswith("2.")
    sent = {one.path.split("?")[0]: one.headers for one in vault_proxy.seen}

    assert "X-Vault-Namespace" not in sent["/v1/sys/health"]
    assert sent["/v1/auth/token/lookup-self"]["X-Vault-Namespace"] == "team-a"


def test_health_does_not_look_into_the_cache(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """A warm cache is no sign of life."""
    with VaultClient(vault_proxy.url, vault_lab.token(), environ={}) as client:
        client.get_secret("app/db")
        vault_proxy.forget()
        client.health_check()

        assert vault_proxy.count("/sys/health") == 1
        assert vault_proxy.count("lookup-self") == 1
