"""KV mounts of both versions: told apart once, read alike, and named where nothing is found."""

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
    from collections.abc import Iterator

    from tests.http_fault_proxy import HttpFaultProxy
    from tests.vault_fixtures import VaultLab

_MOUNT = "nested/kv1"
_POLICY = f"""
path "{_MOUNT}/*" {{ capabilities = ["read", "list"] }}
path "secret/*" {{ capabilities = ["read", "list"] }}
"""
_NO_LOOKUP = _POLICY + 'path "sys/internal/ui/mounts/*" { capabilities = ["deny"] }'


@pytest.fixture(scope="module")
def version_1(vault_lab: VaultLab) -> str:
    """A mount of version 1 with a secret, and two policies for it; return its name."""
    admin = vault_lab.admin
    admin.sys.enable_secrets_engine("kv", path=_MOUNT, options={"version": "1"})
    for path in ("app/db", "app/data/x", "top"):
        admin.write(f"{_MOUNT}/{path}", url=f"postgresql://{path}")
    admin.sys.create_or_update_policy("kv1", _POLICY)
    admin.sys.create_or_update_policy("kv1-no-lookup", _NO_LOOKUP)
    return _MOUNT


@pytest.fixture(params=["kv1", "kv1-no-lookup"])
def client(
    request: pytest.FixtureRequest,
    vault_lab: VaultLab,
    vault_proxy: HttpFaultProxy,
    version_1: str,
) -> Iterator[VaultClient]:
    """A client for that mount, with a token that may look it up, and with one that may not."""
    token = vault_lab.token(policies=[request.param])
    with VaultClient(vault_proxy.url, token, mount_point=version_1, cache_ttl=0, environ={}) as one:
        vault_proxy.forget()
        yield one


def test_a_secret_of_version_1_is_read(client: VaultClient, vault_proxy: HttpFaultProxy) -> None:
    """What the mount is costs requests once, and after that a read costs one."""
    for path in ("app/db", "app/data/x", "top"):
        assert client.get_secret(path) == {"url": f"postgresql://{path}"}
    first = vault_proxy.count()
    assert first <= 6
    for _ in range(5):
        client.get_secret("app/db")

    assert vault_proxy.count() == first + 5
    assert vault_proxy.count("internal/ui/mounts") == 1


def test_a_folder_of_version_1_is_listed(client: VaultClient) -> None:
    """As in one of version 2, folders end in a slash."""
    assert client.list_secrets("app") == ["data/", "db"]
    assert client.list_secrets("/") == ["app/", "top"]
    with pytest.raises(VaultSecretNotFoundError, match="folder not found"):
        client.list_secrets("nothing")


def test_a_version_of_a_secret_is_refused_there(client: VaultClient) -> None:
    """A mount of version 1 has the latest one alone, and another one must not pass for it."""
    client.get_secret("app/db")
    with pytest.raises(VaultConfigurationError, match="KV version 1, which keeps the latest"):
        client.get_secret("app/db", version=1)
    with pytest.raises(VaultError, match="notes no times") as caught:
        client.secret_age("app/db")
    assert caught.value.reason == "kv_version"


def test_a_missing_secret_is_told_with_the_version_that_was_asked(
    client: VaultClient, vault: VaultClient
) -> None:
    """Who looks in the wrong kind of mount sees it in the message."""
    client.get_secret("app/db")
    for one, kv in ((client, 1), (vault, 2)):
        with pytest.raises(VaultSecretNotFoundError, match="secret not found") as caught:
            one.get_secret("nothing/there")
        assert f"KV version {kv}" in str(caught.value)
        assert caught.value.reason == "missing"


def test_a_mount_of_version_2_costs_no_lookup(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Its first answer proves what it is; one that finds nothing asks once."""
    with VaultClient(vault_proxy.url, vault_lab.token(), cache_ttl=0, environ={}) as client:
        vault_proxy.forget()
        client.get_secret("app/db")
        assert vault_proxy.count() == 1
    with VaultClient(vault_proxy.url, vault_lab.token(), cache_ttl=0, environ={}) as client:
        for _ in range(5):
            with pytest.raises(VaultSecretNotFoundError, match="not found"):
                client.get_secret("nothing/there")
        assert vault_proxy.count("internal/ui/mounts") == 1


def test_a_denied_path_stays_a_denial_also_where_the_mount_is_unknown(
    vault_lab: VaultLab, version_1: str
) -> None:
    """Not knowing the mount's version makes no missing secret of it."""
    token = vault_lab.token(policies=["default"])
    for mount in (version_1, "secret", "no-such-mount"):
        with (
            VaultClient(vault_lab.url, token, mount_point=mount, environ={}) as client,
            pytest.raises(VaultAuthenticationError, match="denied by policy"),
        ):
            client.get_secret("app/db")


def test_a_dead_token_is_told_as_that_whatever_the_mount(
    vault_lab: VaultLab, version_1: str
) -> None:
    """The lookup of the mount does not hide why nothing can be read."""
    token = vault_lab.token(policies=["kv1"])
    with VaultClient(vault_lab.url, token, mount_point=version_1, environ={}) as client:
        vault_lab.admin.auth.token.revoke(token)
        with pytest.raises(VaultAuthenticationError) as caught:
            client.get_secret("app/db")
        assert caught.value.reason == "token_invalid"


def test_another_engine_is_named(vault_lab: VaultLab) -> None:
    """A database or transit mount is no KV mount with nothing in it."""
    vault_lab.admin.sys.enable_secrets_engine("transit", path="keys")
    with (
        VaultClient(vault_lab.url, vault_lab.root_token, mount_point="keys", environ={}) as client,
        pytest.raises(VaultSecretNotFoundError, match="as 'transit' and not as a KV") as caught,
    ):
        client.get_secret("app/db")
    assert caught.value.reason == "mount"


def test_a_secret_of_version_1_may_look_like_one_of_version_2(
    vault_lab: VaultLab, version_1: str
) -> None:
    """A path that begins with data/, and a field of that name, make no mount of version 2."""
    vault_lab.admin.write_data(f"{version_1}/data/odd", data={"data": {"a": "wrong"}})
    vault_lab.admin.write(f"{version_1}/odd", a="right")
    settings: dict[str, Any] = {"mount_point": version_1, "environ": {}}
    with VaultClient(vault_lab.url, vault_lab.root_token, **settings) as client:
        assert client.get_secret("odd") == {"a": "right"}


def test_a_mount_that_is_upgraded_is_followed(
    vault_lab: VaultLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing found in version 1 is a reason to look at the mount again, now and then."""
    monkeypatch.setattr("clients._vault.kv._LOOKUP_PAUSE", 0.0)
    admin = vault_lab.admin
    admin.sys.enable_secrets_engine("kv", path="grows", options={"version": "1"})
    admin.write("grows/app", a="1")
    settings: dict[str, Any] = {"mount_point": "grows", "cache_ttl": 0, "environ": {}}
    with VaultClient(vault_lab.url, vault_lab.root_token, **settings) as client:
        assert client.get_secret("app") == {"a": "1"}
        admin.sys.tune_mount_configuration("grows", options={"version": "2"})
        vault_lab.write("app", {"a": "2"}, mount_point="grows")
        with pytest.raises(VaultSecretNotFoundError):
            client.get_secret("app")

        assert client.get_secret("app") == {"a": "2"}
