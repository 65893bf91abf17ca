"""``VaultSecretsResource`` on a real server: arguments arrive, and failures keep their class."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from clients import VaultClient
from clients.dagster_adapter import (
    VaultAuthenticationError,
    VaultConnectionError,
    VaultSecretNotFoundError,
    VaultSecretsResource,
)

if TYPE_CHECKING:
    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import Role, VaultLab

READ = "secret/data/app/db"


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("get_secret", {"path": inspect.Parameter.empty, "version": None, "use_cache": True}),
        (
            "get_database_credentials",
            {"database_path": "bike-data-flow/production/database"},
        ),
        ("get_api_key", {"provider": inspect.Parameter.empty}),
        ("list_secrets", {"path": inspect.Parameter.empty}),
        ("health_check", {}),
        ("clear_cache", {}),
    ],
)
def test_the_methods_have_the_agreed_signatures(method: str, signature: dict[str, Any]) -> None:
    """Names, order and defaults of the arguments are what pipelines were written for."""
    found = inspect.signature(getattr(VaultSecretsResource.from_env(), method)).parameters

    assert [(name, one.default) for name, one in found.items()] == list(signature.items())


def test_resource_objects_share_one_cache(role: Role, vault_proxy: HttpFaultProxy) -> None:
    """A second object's read is answered by the first one's, until it asks for a fresh one."""
    VaultSecretsResource.from_env().get_secret("app/db")
    VaultSecretsResource.from_env().get_secret("app/db")
    assert vault_proxy.count(READ) == 1

    VaultSecretsResource.from_env().get_secret("app/db", use_cache=False)
    assert vault_proxy.count(READ) == 2

    VaultSecretsResource.from_env().clear_cache()
    VaultSecretsResource.from_env().get_secret("app/db")
    assert vault_proxy.count(READ) == 3


def test_a_version_is_asked_for(role: Role, vault_lab: VaultLab) -> None:
    """The first version stays readable when there is a second one."""
    vault_lab.write("app/versions", {"n": 1})
    vault_lab.write("app/versions", {"n": 2})
    resource = VaultSecretsResource.from_env()

    assert resource.get_secret("app/versions", 1) == {"n": 1}
    assert resource.get_secret("app/versions") == {"n": 2}


def test_threads_share_one_login(role: Role, vault_proxy: HttpFaultProxy) -> None:
    """Sixteen threads that start together with objects of their own log in once."""
    with ThreadPoolExecutor(16) as pool:
        read = list(
            pool.map(lambda _: VaultSecretsResource.from_env().get_secret("app/db"), range(64))
        )

    assert len(read) == 64
    assert vault_proxy.count("auth/approle/login") == 1


def test_another_credential_is_another_login(
    role: Role, vault_lab: VaultLab, vault_proxy: HttpFaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that changes is seen at the next use."""
    assert VaultSecretsResource.from_env().health_check() is True
    other = vault_lab.role()

    monkeypatch.setenv("VAULT_ROLE_ID", other.role_id)
    monkeypatch.setenv("VAULT_SECRET_ID", other.secret_id)

    assert VaultSecretsResource.from_env().health_check() is True
    assert len(vault_lab.tokens_of(other)) == 1


def test_the_settings_reach_the_client(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is configured is what VaultClient is told."""
    told: dict[str, Any] = {}

    class Told(VaultClient):
        def __init__(self, addr: str, token: str | None, **settings: Any) -> None:
            told.update(settings, addr=addr, token=token)
            super().__init__(addr, token, **settings | {"namespace": None})

    monkeypatch.setattr("clients._dagster.config.VaultClient", Told)
    settings = {"timeout": 7, "retries": 1, "cache_ttl": 5, "namespace": "team"}

    assert VaultSecretsResource.from_env(**settings).health_check() is True

    expected = {"role_id": role.role_id, "secret_id": role.secret_id, "auth_method": "approle"}
    assert {name: told[name] for name in [*settings, *expected]} == settings | expected


def test_failures_keep_their_class(
    role: Role, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors are the SDK's own, under the names that the adapter exports."""
    resource = VaultSecretsResource.from_env()
    with pytest.raises(VaultSecretNotFoundError, match="app/none"):
        resource.get_secret("app/none")
    with pytest.raises(VaultAuthenticationError):
        resource.get_secret("denied/x")

    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{closed_port}")
    resource = VaultSecretsResource.from_env(retries=0)
    with pytest.raises(VaultConnectionError, match="refused"):
        resource.get_secret("app/db")
    assert resource.health_check() is False


def test_a_failed_login_is_tried_again_at_the_next_use(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing remembers a failure: a step's retry can succeed."""
    monkeypatch.setenv("VAULT_SECRET_ID", "wrong")
    resource = VaultSecretsResource.from_env()
    with pytest.raises(VaultAuthenticationError):
        resource.get_secret("app/db")

    monkeypatch.setenv("VAULT_SECRET_ID", role.secret_id)

    assert resource.get_secret("app/db") == {"url": "postgresql://app"}
