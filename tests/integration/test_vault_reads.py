"""Reading secrets from a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from clients.errors import (
    VaultAuthenticationError,
    VaultConfigurationError,
    VaultError,
    VaultSecretNotFoundError,
)
from clients.vault_client import VaultClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab
    from utils.local_stack import StackEndpoints


def test_the_stack_can_be_used_with_its_exports_alone(stack: StackEndpoints) -> None:
    """What `make env` exports is all that a client needs."""
    with VaultClient(environ=stack.environment()) as client:
        assert client.get_database_url() == stack.database_url
        assert client.get_database_admin_url() == stack.admin_url
        assert client.get_valkey_url() == stack.valkey_url
        assert set(client.get_email_credentials()) == {"api_key", "from_address"}
        assert client.get_api_key("openweather")
        assert client.get_database_credentials()["username"] == "crm_user"
        assert client.list_secrets("crm") == ["database", "email", "valkey"]
        assert client.health_check() is True


@pytest.mark.parametrize("path", ["app/db", "secret/data/app/db", "/app/db/"])
def test_both_spellings_of_a_path_read_the_same_secret(vault: VaultClient, path: str) -> None:
    """The path of the HTTP API and the one of the command line are the same secret."""
    assert vault.get_secret(path) == {"url": "postgresql://app"}


def test_an_empty_secret_is_an_empty_dict(vault: VaultClient, vault_lab: VaultLab) -> None:
    """A secret without fields is no failure."""
    vault_lab.write("reads/empty", {})

    assert vault.get_secret("reads/empty") == {}


def test_a_large_secret_is_read_whole(vault: VaultClient, vault_lab: VaultLab) -> None:
    """An answer that comes in many pieces is put together again."""
    large = {"text": "x\u00fc" * 150_000}
    vault_lab.write("reads/large", large)

    assert vault.get_secret("reads/large") == large


def test_strange_characters_in_a_path_are_no_syntax(
    vault: VaultClient, vault_lab: VaultLab
) -> None:
    """Question marks, hashes, percent signs and blanks are parts of a name."""
    for name in ("a?b=c", "a#b", "a%2e%2e", "ü b", "a+b&c"):
        vault_lab.write(f"reads/{name}", {"name": name})

        assert vault.get_secret(f"reads/{name}") == {"name": name}


def test_versions_are_read_and_cached_apart(vault: VaultClient, vault_lab: VaultLab) -> None:
    """Version 1 stays what it was, whatever came after it."""
    vault_lab.write("reads/versions", {"n": 1})
    vault_lab.write("reads/versions", {"n": 2})
    for _ in range(2):
        assert vault.get_secret("reads/versions", version=1) == {"n": 1}
        assert vault.get_secret("reads/versions", version=2) == {"n": 2}
        assert vault.get_secret("reads/versions") == {"n": 2}


def test_a_fresh_read_sees_a_rotated_secret(vault: VaultClient, vault_lab: VaultLab) -> None:
    """The cache answers until it is told not to, and then has the new value."""
    vault_lab.write("reads/rotated", {"n": 1})
    vault.get_secret("reads/rotated")
    vault_lab.write("reads/rotated", {"n": 2})
    assert vault.get_secret("reads/rotated") == {"n": 1}
    assert vault.get_secret("reads/rotated", use_cache=False) == {"n": 2}
    assert vault.get_secret("reads/rotated") == {"n": 2}
    vault_lab.write("reads/rotated", {"n": 3})
    vault.clear_cache()

    assert vault.get_secret("reads/rotated") == {"n": 3}


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", 10**30, -(10**5000)], ids=range(7))
def test_an_unfit_version_is_refused(vault: VaultClient, version: Any) -> None:
    """The server takes 0 and negative numbers for the latest; a caller's slip must not pass."""
    with pytest.raises(VaultConfigurationError, match="version is"):
        vault.get_secret("app/db", version=version)


def test_each_reason_for_finding_nothing_is_told_apart(
    vault: VaultClient, vault_lab: VaultLab
) -> None:
    """Missing, version missing, deleted and destroyed are four answers."""
    kv = vault_lab.admin.secrets.kv.v2
    for name in ("deleted", "destroyed"):
        vault_lab.write(f"reads/{name}", {"a": "b"})
    kv.delete_latest_version_of_secret("reads/deleted")
    kv.destroy_secret_versions("reads/destroyed", versions=[1])
    cases: list[tuple[str, str, int | None]] = [
        ("missing", "reads/nothing", None),
        ("missing", "reads/nothing", 7),
        ("version_missing", "app/db", 7),
        ("deleted", "reads/deleted", None),
        ("deleted", "reads/deleted", 1),
        ("destroyed", "reads/destroyed", None),
    ]
    for reason, path, version in cases:
        with pytest.raises(VaultSecretNotFoundError) as caught:
            vault.get_secret(path, version=version)

        assert (caught.value.reason, caught.value.status) == (reason, 404)
        assert path in str(caught.value)
    with pytest.raises(VaultSecretNotFoundError, match="version 1 was deleted at 20"):
        vault.get_secret("reads/deleted")


def test_a_wrong_mount_and_a_wrong_namespace_are_no_missing_secret(vault_lab: VaultLab) -> None:
    """Each has a reason of its own, and names the setting to check."""
    root = vault_lab.root_token
    with (
        VaultClient(vault_lab.url, root, mount_point="kv/nix", environ={}) as client,
        pytest.raises(VaultSecretNotFoundError, match="check mount_point") as caught,
    ):
        client.get_secret("app/db")
    assert caught.value.reason == "mount"
    with pytest.raises(VaultSecretNotFoundError, match="check VAULT_NAMESPACE") as caught:
        VaultClient(vault_lab.url, root, namespace="nowhere", environ={})
    assert caught.value.reason == "namespace"
    with pytest.raises(VaultSecretNotFoundError, match="check VAULT_NAMESPACE"):
        VaultClient(vault_lab.url, namespace="nowhere", **vault_lab.role().arguments())


@pytest.mark.parametrize("path", ["", "../../sys/mounts", "a/../../x", "a\nb"])
def test_an_unfit_path_is_refused_before_any_request(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, path: str
) -> None:
    """A path that would leave the mount costs no request, whoever passes it."""
    with VaultClient(vault_proxy.url, vault_lab.root_token, environ={}) as client:
        vault_proxy.forget()
        attempts: list[Callable[[], object]] = [
            lambda: client.get_secret(path),
            lambda: client.list_secrets(path),
            lambda: client.get_api_key(path),
            lambda: client.get_database_url(path=path),
        ]
        for attempt in attempts:
            with pytest.raises(VaultConfigurationError, match=r"path|name"):
                attempt()

        assert vault_proxy.count() == 0


def test_lists_name_folders_and_secrets(vault: VaultClient, vault_lab: VaultLab) -> None:
    """Folders end in a slash; a missing folder and a secret are no folder."""
    vault_lab.write("lists/a", {})
    vault_lab.write("lists/b/c", {})
    assert vault.list_secrets("lists") == ["a", "b/"]
    assert vault.list_secrets("secret/metadata/lists/b") == ["c"]
    assert "lists/" in vault.list_secrets("/")
    for path in ("nothing", "lists/a"):
        with pytest.raises(VaultSecretNotFoundError, match="no such folder"):
            vault.list_secrets(path)


def test_a_denied_path_is_a_denial_and_names_the_path(vault: VaultClient) -> None:
    """A policy's denial is neither a missing secret nor a dead token."""
    with pytest.raises(VaultAuthenticationError, match=r"'denied/x'.*denied by policy") as caught:
        vault.get_secret("denied/x")

    assert (caught.value.reason, caught.value.status) == ("permission_denied", 403)


@pytest.mark.parametrize(
    ("secret", "field"),
    [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": " \n"}, "url"),
        ({"url": 5}, "url"),
        ({"url": None}, "url"),
    ],
)
def test_a_missing_or_unfit_field_names_path_and_field(
    vault: VaultClient, vault_lab: VaultLab, secret: dict[str, Any], field: str
) -> None:
    """No getter returns None, an empty text or a number in place of a URL."""
    vault_lab.write("reads/field", secret)
    for getter in (vault.get_database_url, vault.get_valkey_url):
        with pytest.raises(VaultError, match=f"'reads/field'.*'{field}'") as caught:
            getter(path="reads/field", use_cache=False)

        assert caught.value.reason == "field"


def test_database_credentials_are_complete_or_an_error(
    vault: VaultClient, vault_lab: VaultLab
) -> None:
    """The port has a default and may be a number; nothing else may be missing."""
    full = {"username": "u", "password": "p", "host": "h", "database": "d"}
    vault_lab.write("reads/creds", full)
    assert vault.get_database_credentials("reads/creds") == full | {"port": "5432"}
    vault_lab.write("reads/creds", full | {"port": 6000})
    assert vault.get_database_credentials("reads/creds", use_cache=False)["port"] == "6000"
    for port in ("x", 0, 70000, True, "1" * 5000):
        vault_lab.write("reads/creds", full | {"port": port})
        with pytest.raises(VaultError, match="'port' is no port"):
            vault.get_database_credentials("reads/creds", use_cache=False)
    vault_lab.write("reads/creds", {"url": "postgresql://u:p@h/d"})
    with pytest.raises(VaultError, match=r"its 'url' is for get_database_url\(\)"):
        vault.get_database_credentials("reads/creds", use_cache=False)
    for name in full:
        vault_lab.write("reads/creds", {k: v for k, v in full.items() if k != name})
        with pytest.raises(VaultError, match=f"'{name}' is missing"):
            vault.get_database_credentials("reads/creds", use_cache=False)


def test_an_admin_url_may_be_missing(vault: VaultClient) -> None:
    """None says that there is none, and only that."""
    assert vault.get_database_admin_url(path="app/db") is None


def test_a_closed_client_refuses_every_use(vault_lab: VaultLab) -> None:
    """Closing twice does no harm; use after it says what to do, cached values included."""
    client = VaultClient(vault_lab.url, vault_lab.root_token, environ={})
    client.get_secret("app/db")
    client.close()
    client.close()
    uses: list[Callable[[], object]] = [
        lambda: client.get_secret("app/db"),
        lambda: client.get_database_url(path="app/db"),
        lambda: client.list_secrets("app"),
        client.health_check,
        client.server_version,
    ]
    for use in uses:
        with pytest.raises(VaultError, match=f"{vault_lab.url} is closed: make a new one"):
            use()
    assert "closed" in repr(client)
