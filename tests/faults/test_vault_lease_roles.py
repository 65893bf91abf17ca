"""Roles and URLs that no lease can be had with: the error names them, and no user is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from clients import (
    ClientError,
    VaultAuthenticationError,
    VaultClient,
    VaultConfigurationError,
    VaultSecretNotFoundError,
    build_clients,
)

if TYPE_CHECKING:
    from tests.rotation_lab import RotationLab


@pytest.mark.parametrize(
    ("role", "reason", "words"),
    [
        ("no-such-role", "missing", "there is no such role.*static-creds"),
        ("nowhere/creds/x", "mount", "there is no such mount; check the role's path"),
    ],
)
def test_a_role_that_is_not_there_is_named(
    rotation_lab: RotationLab, role: str, reason: str, words: str
) -> None:
    """The error names the service, the path and the mend, and nothing is left open."""
    environ = {"VAULT_ADDR": rotation_lab.vault.url, "VAULT_TOKEN": rotation_lab.vault.root_token}
    with pytest.raises(VaultSecretNotFoundError, match=f"^vault, for postgres.*{words}") as caught:
        build_clients(environ=environ, database_role=role)

    assert caught.value.reason == reason


def test_a_role_that_a_policy_denies_is_a_denial(rotation_lab: RotationLab) -> None:
    """The path is in the message."""
    environ = {
        "VAULT_ADDR": rotation_lab.vault.url,
        "VAULT_TOKEN": rotation_lab.vault.token(policies=["app"]),
    }
    with pytest.raises(VaultAuthenticationError, match=r"database/creds/crm.*permission denied"):
        build_clients(environ=environ, database_role="crm")


@pytest.mark.parametrize("role", ["", "a/b", "../sys", "database/creds/../x", 7])
def test_a_role_that_is_no_role_is_refused_before_any_request(
    rotation_lab: RotationLab, role: Any
) -> None:
    """The message shows how to write one."""
    token = rotation_lab.vault.token()
    with (
        VaultClient(rotation_lab.vault.url, token, environ={}) as vault,
        pytest.raises(VaultConfigurationError, match="database role"),
    ):
        vault.leased_url(role)


def test_a_base_url_that_is_no_callable_is_refused(rotation_lab: RotationLab) -> None:
    """At once, and without showing it: whoever passes the URL itself passes a password."""
    token = rotation_lab.vault.token()
    with (
        VaultClient(rotation_lab.vault.url, token, environ={}) as vault,
        pytest.raises(VaultConfigurationError, match="base_url is str") as caught,
    ):
        vault.leased_url("crm-app", "postgresql://u:secret@h/d")  # type: ignore[arg-type]

    assert "secret" not in str(caught.value)


def test_a_failed_construction_leaves_no_user(rotation_lab: RotationLab) -> None:
    """Valkey's secret is broken: the lease that PostgreSQL had by then is revoked."""
    lab = rotation_lab
    before = lab.database_users()
    role = lab.dynamic_role(ttl=60, max_ttl=600)
    with pytest.raises(ClientError, match=r"^vault, for valkey: "):
        build_clients(
            environ=lab.environ(lab.role()), database_role=role, valkey_role="no-such-role"
        )

    assert lab.database_users() == before


def test_a_base_that_is_no_url_makes_no_user(rotation_lab: RotationLab) -> None:
    """It is refused before Vault is asked, and the message does not show it."""
    lab = rotation_lab
    before = lab.database_users()
    with VaultClient(lab.vault.url, lab.vault.token(policies=["rotation"]), environ={}) as vault:
        url = vault.leased_url(lab.dynamic_role(ttl=60, max_ttl=600), lambda: "host=h password=pw")
        with pytest.raises(VaultConfigurationError, match="write it as scheme://") as caught:
            url()

    assert "pw" not in str(caught.value)
    assert lab.database_users() == before
