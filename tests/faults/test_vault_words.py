"""No behaviour depends on the words of a server: they may be in any language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from clients import VaultClient, VaultError
from clients.vault_auth import AppRole, Jwt, Token
from tests.http_fault_proxy import Fault, HttpFaultProxy
from tests.vault_servers import SealableOpenBao

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.vault_fixtures import VaultLab
    from tests.vault_logins import LoginLab

    Call = Callable[[str], object]

#: None are the server's own; in the others stand words that it has for something else.
_WORDS = (
    None,
    "Ключ не подошёл",
    "permission denied",
    "1 error occurred:\n\t* permission denied\n\n",
    "namespace not found",
    'no handler for route "x"',
    "unknown role: x",
    "Vault is sealed",
    "invalid token",
)
_EACH_WORDING = pytest.mark.parametrize(
    "words", [*_WORDS[:3], *(pytest.param(one, marks=pytest.mark.slow) for one in _WORDS[3:])]
)


@pytest.fixture(scope="module")
def situations(vault_lab: VaultLab, login_lab: LoginLab) -> dict[str, tuple[Call, str]]:
    """Each state that the server tells in words: a call that meets it, and its reason."""
    lab, admin = vault_lab, vault_lab.admin
    admin.write("sys/namespaces/team")
    admin.sys.enable_secrets_engine("database", path="no-roles")
    admin.sys.enable_secrets_engine("kv", path="words-1", options={"version": "1"})
    admin.write_data("words-1/there", data={"a": "b"})
    for _ in range(2):
        lab.write("words/old", {"a": "b"})
    lab.write("words/gone", {"a": "b"})
    admin.secrets.kv.v2.delete_latest_version_of_secret("words/gone")
    admin.secrets.kv.v2.destroy_secret_versions("words/old", versions=[1])
    policy = """
        path "secret/*" { capabilities = ["read", "list"] }
        path "secret/data/denied/*" { capabilities = ["deny"] }
        path "words-1/*" { capabilities = ["read", "list"] }
        path "no-roles/*" { capabilities = ["read"] }
    """
    admin.sys.create_or_update_policy("words", policy)
    token = lab.token(policies=["words"], no_default_policy=True)
    root = lab.root_token
    dead = lab.token()
    admin.auth.token.revoke(dead)
    role = lab.role()
    wrapped = login_lab.wrapped(role.name)
    admin.sys.unwrap(wrapped)

    def reads(path: str, shown: str = token, **more: Any) -> Call:
        version = more.pop("version", None)
        return lambda url: _made(url, Token(shown), **more).get_secret(path, version)

    def leases(path: str, shown: str = token) -> Call:
        return lambda url: _made(url, Token(shown)).leased_url(path, lambda: "postgresql://h/d")()

    def logs_in(auth: Any, **more: Any) -> Call:
        return lambda url: _made(url, auth, **more)

    def dies(url: str) -> object:
        shown = lab.token(policies=["words"], no_default_policy=True)
        client = _made(url, Token(shown))
        client.get_secret("app/db")
        admin.auth.token.revoke(shown)
        return client.get_secret("app/db")

    return {
        "missing": (reads("words/none"), "missing"),
        "missing version": (reads("app/db", version=99), "version_missing"),
        "missing in version 1": (reads("none", mount_point="words-1"), "missing"),
        "deleted": (reads("words/gone"), "deleted"),
        "destroyed": (reads("words/old", version=1), "destroyed"),
        "no mount": (reads("x", root, mount_point="none"), "mount"),
        "no mount in a namespace": (reads("x", root, namespace="team"), "mount"),
        "no namespace": (reads("x", root, namespace="none"), "namespace"),
        "no namespace for a login": (
            logs_in(AppRole(role.role_id, role.secret_id), namespace="none"),
            "namespace",
        ),
        "denied": (reads("denied/x"), "permission_denied"),
        "denied mount": (reads("x", mount_point="none"), "permission_denied"),
        "dead token": (logs_in(Token(dead)), "token_invalid"),
        "bogus token": (logs_in(Token("hvs.bogus")), "token_invalid"),
        "token that dies": (dies, "token_invalid"),
        "no folder": (lambda url: _made(url, Token(token)).list_secrets("none"), "missing"),
        "no database role": (leases("no-roles/creds/none"), "missing"),
        "no static role": (leases("no-roles/static-creds/none"), "missing"),
        "no database mount": (leases("none/creds/x", root), "mount"),
        "denied role": (leases("other/creds/x"), "permission_denied"),
        "wrong secret id": (logs_in(AppRole(role.role_id, "wrong")), "login_refused"),
        "no auth mount": (logs_in(AppRole("r", "s", mount="none")), "mount"),
        "used wrapping token": (
            logs_in(AppRole(role.role_id, wrapped_secret_id=wrapped)),
            "wrapping_token_used",
        ),
        "expired JWT": (
            logs_in(Jwt(login_lab.jwt_role(), login_lab.issuer.issue(lasts=-500))),
            "jwt_expired",
        ),
    }


def _made(url: str, auth: Any, **more: Any) -> VaultClient:
    return VaultClient(url, auth=auth, retries=0, cache_ttl=0, environ={}, **more)


@pytest.fixture
def worded(vault_proxy: HttpFaultProxy) -> Iterator[HttpFaultProxy]:
    """The proxy whose server's words a test replaces."""
    yield vault_proxy
    vault_proxy.words = None


@_EACH_WORDING
def test_each_state_has_its_reason_whatever_the_words(
    situations: dict[str, tuple[Call, str]], worded: HttpFaultProxy, words: str | None
) -> None:
    """Statuses and structure decide: the server's words stand in the message, and no more."""
    worded.words = words
    found = {}
    for name, (call, _) in situations.items():
        with pytest.raises(VaultError) as caught:
            call(worded.url)
        found[name] = caught.value.reason

    assert found == {name: reason for name, (_, reason) in situations.items()}


@_EACH_WORDING
def test_a_client_heals_whatever_the_words(
    vault_lab: VaultLab, worded: HttpFaultProxy, words: str | None
) -> None:
    """A revoked token is replaced each time, and a denial costs one login in all."""
    role = vault_lab.role()
    with VaultClient(worded.url, cache_ttl=0, **role.arguments()) as client:
        worded.words = words
        for _ in range(3):
            vault_lab.revoke_tokens_of(role)
            assert client.get_secret("app/db")
        assert worded.count("/login") == 4
        for _ in range(5):
            with pytest.raises(VaultError) as caught:
                client.get_secret("denied/x")
            assert caught.value.reason == "permission_denied"
        assert worded.count("/login") == 5
        assert client.health_check() is True


def test_a_sealed_and_an_uninitialised_server_are_told_whatever_the_words() -> None:
    """And a proxy's own 503 is neither, though it speaks of seals."""
    with SealableOpenBao() as server, HttpFaultProxy(server.port) as proxy:
        for words in _WORDS:
            proxy.words = words
            assert _reason(proxy.url) == "uninitialised"
        server.initialise()
        for words in _WORDS:
            proxy.words = words
            assert _reason(proxy.url) == "sealed"


def _reason(url: str) -> str | None:
    with pytest.raises(VaultError) as caught:
        _made(url, Token("hvs.x"))
    return caught.value.reason


def test_to_find_out_uses_up_no_use_of_a_token(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """The server counts the requests that the caller asked for, and no others."""
    token = vault_lab.token(num_uses=50)
    accessor = vault_lab.admin.auth.token.lookup(token)["data"]["accessor"]
    with VaultClient(vault_proxy.url, token, cache_ttl=0, environ={}) as client:
        client.get_secret("app/db")
        for _ in range(5):
            with pytest.raises(VaultError):
                client.get_secret("denied/x")
        found_out = vault_proxy.count("/ui/namespaces")
        left = vault_lab.admin.auth.token.lookup_accessor(accessor)["data"]["num_uses"]

    assert found_out == 5
    assert 50 - left == vault_proxy.count() - found_out


@pytest.mark.parametrize("status", [302, 404, 405, 429, 503])
def test_where_nothing_can_be_found_out_a_denial_is_told_as_both(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, status: int
) -> None:
    """A gateway that lets no other path through: the error says so, and no login storm begins."""
    role = vault_lab.role()
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as client:
        vault_proxy.forget()
        vault_proxy.plan(Fault(status), path="ui/namespaces", times=20)
        for _ in range(5):
            with pytest.raises(VaultError, match="or get a new one if it has ended") as caught:
                client.get_secret("denied/x")
            assert caught.value.reason == "permission_denied"
        assert vault_proxy.count("/login") == 1
