"""Tokens that die, and what it costs to replace them."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from clients._vault.relogin import LoginTokens
from clients._vault.retry import Deadline
from clients.errors import VaultAuthenticationError, VaultConnectionError, VaultError
from clients.vault_client import VaultClient
from tests.http_fault_proxy import Fault, HttpFaultProxy
from tests.lock_interrupts import interrupt_often, interrupted_once_locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vault_fixtures import Role, VaultLab


@pytest.fixture
def role(vault_lab: VaultLab) -> Role:
    """An AppRole of the test's own."""
    return vault_lab.role()


@pytest.fixture
def client(role: Role, vault_proxy: HttpFaultProxy) -> Iterator[VaultClient]:
    """An AppRole client without a cache, behind the proxy, counted from after its login."""
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as made:
        vault_proxy.forget()
        yield made


def test_a_revoked_token_is_replaced_once_for_all_threads(
    vault_lab: VaultLab, role: Role, client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """Sixteen threads that hit a revoked token see no error and make one login."""
    assert vault_lab.revoke_tokens_of(role) == 1
    together = threading.Barrier(16)

    def read(_: int) -> dict[str, str]:
        together.wait(20)
        return client.get_secret("app/db")

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(read, range(16)))

    assert found == [{"url": "postgresql://app"}] * 16
    assert vault_proxy.count("/login") == 1


def test_an_interrupt_right_after_the_lock_was_taken_blocks_no_login(
    vault_lab: VaultLab, role: Role, client: VaultClient
) -> None:
    """Whoever comes next logs in, and does not wait for a thread that has long gone on."""
    vault_lab.revoke_tokens_of(role)
    with interrupted_once_locked():
        client.get_secret("app/db")

    with ThreadPoolExecutor(1) as other:
        assert other.submit(client.get_secret, "app/db").result(5)


@pytest.mark.slow
@pytest.mark.timeout(300, method="thread")
def test_interrupts_at_any_moment_leave_the_lock_of_logins_free(
    vault_lab: VaultLab, role: Role, client: VaultClient
) -> None:
    """Also while it is released: the next login of another thread does not wait in vain."""
    tokens = client._session.tokens
    gone = replace(tokens.current(Deadline(5)), generation=0)
    refusal = VaultAuthenticationError("refused", reason="invalid_token")
    interrupt_often(lambda: tokens.replacement(gone, refusal, Deadline(5)))
    vault_lab.revoke_tokens_of(role)

    with ThreadPoolExecutor(1) as other:
        assert other.submit(client.get_secret, "app/db").result(20)


def test_a_token_can_be_revoked_again_and_again(
    vault_lab: VaultLab, role: Role, client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """Each revocation costs one login, at once and not only after a pause."""
    for _ in range(4):
        vault_lab.revoke_tokens_of(role)
        assert client.get_secret("app/db")

    assert vault_proxy.count("/login") == 4


def test_a_denial_causes_no_login_storm(client: VaultClient, vault_proxy: HttpFaultProxy) -> None:
    """A path that stays denied, asked for again and again by many, costs one login."""

    def read(_: int) -> str | None:
        with pytest.raises(VaultAuthenticationError) as caught:
            client.get_secret("denied/x")
        return caught.value.reason

    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(read, range(64)))

    assert set(reasons) == {"permission_denied"}
    assert vault_proxy.count("/login") <= 1
    assert client.get_secret("app/db")


def test_a_path_that_stays_denied_leaves_no_tokens_behind(
    vault_lab: VaultLab, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that mended nothing is undone: the token from before stays, with what hangs on it."""
    monkeypatch.setattr("clients._vault.relogin._DENIAL_PAUSE", 0.0)
    client = VaultClient(vault_lab.url, cache_ttl=0, **role.arguments())
    (first,) = vault_lab.tokens_of(role)
    for _ in range(5):
        with pytest.raises(VaultAuthenticationError, match="denied by policy"):
            client.get_secret("denied/x")
        assert client.get_secret("app/db")
        living = vault_lab.tokens_of(role)
        assert first in living
        assert len(living) <= 2
    client.close()

    assert vault_lab.tokens_of(role) == []


def test_new_policies_are_kept_also_when_the_path_asked_for_stays_denied(
    vault_lab: VaultLab,
) -> None:
    """The login that a denial asked for brought other policies: the next read needs them."""
    role = vault_lab.role(token_policies=["default"])
    with VaultClient(vault_lab.url, cache_ttl=0, **role.arguments()) as client:
        vault_lab.admin.auth.approle.create_or_update_approle(role.name, token_policies=["app"])
        with pytest.raises(VaultAuthenticationError, match="denied by policy"):
            client.get_secret("denied/x")

        assert client.get_secret("app/db")


def test_a_token_that_is_good_for_few_requests_costs_no_error(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Uses are counted, so that threads that share a token never show one that is used up."""
    role = vault_lab.role(token_num_uses=5)
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as client:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: client.get_secret("app/db"), range(100)))

        assert found == [{"url": "postgresql://app"}] * 100
        assert 20 <= vault_proxy.count("/login") <= 21
        assert vault_proxy.count("/data/") == 100


def test_a_refused_login_is_the_answer_for_all_who_wait_for_it(
    vault_lab: VaultLab, role: Role, client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """A role that is gone is asked for once and not by each thread; the next call asks anew."""
    vault_lab.admin.auth.approle.delete_role(role.name)
    vault_lab.revoke_tokens_of(role)
    vault_proxy.plan(Fault(pause=1.0), path="/login")
    together = threading.Barrier(16)

    def read(_: int) -> VaultAuthenticationError:
        together.wait(20)
        with pytest.raises(VaultAuthenticationError, match="login was refused") as caught:
            client.get_secret("app/db")
        return caught.value

    with ThreadPoolExecutor(16) as pool:
        errors = list(pool.map(read, range(16)))
    assert len({id(error) for error in errors}) == 16
    assert vault_proxy.count("/login") == 1
    with pytest.raises(VaultAuthenticationError, match="login was refused"):
        client.get_secret("app/db")

    assert vault_proxy.count("/login") == 2


def test_a_denial_that_a_fresh_login_mends_is_mended(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """A role that gets another policy is served without a restart."""
    role = vault_lab.role(token_policies=["default"])
    with VaultClient(vault_proxy.url, **role.arguments()) as client:
        vault_lab.admin.auth.approle.create_or_update_approle(role.name, token_policies=["app"])

        assert client.get_secret("app/db")
        assert vault_proxy.count("/login") == 2


def test_a_server_that_refuses_every_token_is_not_flooded_with_logins(
    client: VaultClient, vault_proxy: HttpFaultProxy
) -> None:
    """A fresh token that never worked is no reason for yet another one."""
    refused = Fault(403, b'{"errors":["permission denied"]}')
    vault_proxy.plan(refused, times=100, path="/data/")
    for _ in range(10):
        with pytest.raises(VaultAuthenticationError):
            client.get_secret("app/db")

    assert vault_proxy.count("/login") <= 2


def test_a_lost_secret_id_is_authentication_lost(
    vault_lab: VaultLab, role: Role, client: VaultClient
) -> None:
    """When neither token nor credentials are good any more, health and reads say so."""
    vault_lab.admin.auth.approle.delete_role(role.name)
    vault_lab.revoke_tokens_of(role)
    with pytest.raises(VaultAuthenticationError, match=r"authentication lost.*login was refused"):
        client.health_check()
    with pytest.raises(VaultAuthenticationError, match="login was refused"):
        client.get_secret("app/db")


def test_health_heals_a_revoked_token(vault_lab: VaultLab, role: Role, client: VaultClient) -> None:
    """A client that can log in again is healthy."""
    vault_lab.revoke_tokens_of(role)

    assert client.health_check() is True


def test_a_revoked_token_of_the_caller_is_authentication_lost(vault_lab: VaultLab) -> None:
    """Nobody but the caller can mend that; reads and health say which it is."""
    token = vault_lab.token()
    with VaultClient(vault_lab.url, token, environ={}) as client:
        vault_lab.admin.auth.token.revoke(token)
        with pytest.raises(VaultAuthenticationError, match="authentication lost") as caught:
            client.health_check()
        assert caught.value.reason == "token_invalid"
        with pytest.raises(VaultAuthenticationError, match="invalid, expired or revoked"):
            client.get_secret("app/db")


@pytest.mark.slow
def test_a_token_is_renewed_before_it_expires(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """While its longest life lasts, a token is renewed and not replaced."""
    role = vault_lab.role(token_ttl="2s", token_max_ttl="1h")
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as client:
        ends_at = time.monotonic() + 5
        while time.monotonic() < ends_at:
            client.get_secret("app/db")
            time.sleep(0.05)

    assert vault_proxy.count("/login") == 1
    assert 2 <= vault_proxy.count("renew-self") <= 6


def test_a_token_near_the_end_of_its_longest_life_is_replaced(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """A renewal that gives much less than the login did is the last one: more would give less."""
    role = vault_lab.role(token_ttl="1000s", token_max_ttl="1h")
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as client:
        tokens = client._session.tokens
        assert isinstance(tokens, LoginTokens)
        shown = tokens.current(Deadline(9)).token
        assert shown is not None
        token = shown.reveal()
        answer = {"auth": {"client_token": token, "lease_duration": 400, "renewable": True}}
        vault_proxy.plan(Fault(200, json.dumps(answer).encode()), path="renew-self")
        for clock in (lambda: time.monotonic() + 800, lambda: time.monotonic() + 800 + 320):
            tokens._clock = clock
            client.get_secret("app/db")

        assert vault_proxy.count("renew-self") == 1
        assert vault_proxy.count("/login") == 2


def test_a_token_that_cannot_be_renewed_is_replaced(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """Batch tokens are not renewable: they are replaced, and nobody is told."""
    role = vault_lab.role(token_type="batch", token_ttl="2s")
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as client:
        ends_at = time.monotonic() + 3
        while time.monotonic() < ends_at:
            client.get_secret("app/db")
            time.sleep(0.05)

    assert 2 <= vault_proxy.count("/login") <= 5
    assert vault_proxy.count("renew-self") == 0


def test_an_idle_client_logs_in_again_after_its_token_died(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """A token that died of age is replaced before it is shown to the server."""
    role = vault_lab.role(token_ttl="1s")
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as client:
        time.sleep(1.3)
        assert client.get_secret("app/db")

    assert vault_proxy.count("/login") == 2
    assert vault_proxy.count("/data/") == 1
    assert vault_proxy.count("renew-self") == 0


def test_a_failed_renewal_does_not_fail_the_read(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy
) -> None:
    """While the old token lives, trouble with the new one is nobody's trouble."""
    role = vault_lab.role(token_ttl="4s", token_max_ttl="1h")
    with VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments()) as client:
        time.sleep(2.9)
        vault_proxy.plan(Fault(503), times=50, path="/auth/")
        for _ in range(10):
            assert client.get_secret("app/db")

        assert vault_proxy.count("renew-self") <= 2


def test_closing_survives_a_dead_server(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, role: Role
) -> None:
    """A token that cannot be revoked now dies by itself; close() does not raise."""
    client = VaultClient(vault_proxy.url, **role.arguments())
    vault_proxy.plan(Fault(reset=True), times=9)
    client.close()

    assert vault_proxy.count("revoke-self") == 1
    assert len(vault_lab.tokens_of(role)) == 1


def test_closing_in_the_midst_of_reads_leaves_no_token(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, role: Role
) -> None:
    """A read that learns of the revocation while close() is at work does not log in again."""
    client = VaultClient(vault_proxy.url, cache_ttl=0, **role.arguments())
    refused = Fault(403, b'{"errors":["permission denied"]}', pause=0.3)
    vault_proxy.plan(refused, path="/data/")
    vault_proxy.plan(Fault(pause=0.6), path="revoke-self")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(client.get_secret, "app/db")
        while not vault_proxy.count("/data/"):
            time.sleep(0.005)
        client.close()
        error = read.exception(20)

    assert isinstance(error, VaultError)
    assert error.reason == "closed"
    assert vault_proxy.count("/login") == 1
    assert vault_lab.tokens_of(role) == []


def test_waiting_for_the_login_of_another_thread_has_an_end(
    vault_lab: VaultLab, vault_proxy: HttpFaultProxy, role: Role
) -> None:
    """A login that hangs holds nobody beyond the timeout."""
    with VaultClient(vault_proxy.url, timeout=1.0, retries=0, **role.arguments()) as client:
        vault_lab.revoke_tokens_of(role)
        vault_proxy.plan(Fault(pause=20), times=9, path="/login")
        began = time.monotonic()

        def read(_: int) -> str | None:
            with pytest.raises(VaultConnectionError) as caught:
                client.get_secret("app/db", use_cache=False)
            return caught.value.reason

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(read, range(4))) == {"timeout"}
        assert time.monotonic() - began < 6
