"""Leases in trouble: closed in mid-request, slow to make, refused by the server, never answered."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from clients import (
    ClientError,
    PostgresClient,
    PostgresError,
    VaultClient,
    VaultError,
)
from clients.__main__ import check_services
from tests.http_fault_proxy import Fault
from tests.lock_interrupts import interrupt_often, interrupted_once_locked
from tests.postgres_faults import wait_for
from tests.rotation_lab import who

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients import LeasedUrl
    from tests.http_fault_proxy import HttpFaultProxy
    from tests.rotation_lab import RotationLab

_USER = uuid4()


@contextmanager
def leased_url(
    lab: RotationLab,
    addr: str | None = None,
    *,
    ttl: int = 60,
    max_ttl: int = 600,
    base: Callable[[], str] | None = None,
    timeout: float = 10.0,
) -> Iterator[LeasedUrl]:
    """Lease a user, with a token that dies of itself only after the test."""
    token = lab.vault.token(policies=["rotation"])
    role = lab.dynamic_role(ttl=ttl, max_ttl=max_ttl)
    with VaultClient(addr or lab.vault.url, token, timeout=timeout, environ={}) as vault:
        url = vault.leased_url(role, base)
        yield url
        url.close()


def test_a_user_that_comes_after_close_is_revoked(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """``close()`` does not wait for ever for a thread that asks; that thread then cleans up."""
    lab, answers = rotation_lab, []
    before = lab.database_users()
    with leased_url(lab, vault_proxy.url) as url:
        vault_proxy.plan(Fault(pause=3.0), path="/creds/")

        def ask() -> None:
            with pytest.raises(VaultError, match="was closed") as caught:
                url()
            answers.append(caught.value.reason)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: vault_proxy.count("/creds/") == 1)
        url.close()
        assert answers == []  # it was not waited for
        thread.join(30)

    assert answers == ["closed"]
    assert lab.database_users() == before


def test_a_user_of_an_interrupted_request_is_revoked_at_close(
    rotation_lab: RotationLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after Vault's answer: no lock is held, the next call works, close() knows of both."""
    lab = rotation_lab
    before = lab.database_users()
    with leased_url(lab) as url:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(url._session().tokens, "looked_up", interrupt)
            with pytest.raises(KeyboardInterrupt):
                url()
        with PostgresClient(url) as client:
            assert who(client) in lab.database_users()
        assert len(lab.database_users() - before) == 2

    assert lab.database_users() == before


def test_an_interrupt_right_after_the_lock_was_taken_leaves_it_free(
    rotation_lab: RotationLab,
) -> None:
    """Between two steps of the interpreter, where no handler is in force yet."""
    with leased_url(rotation_lab) as url:
        url()
        url.suspect_revoked()
        for call in (url.generation, url):
            with interrupted_once_locked():
                call()
        with ThreadPoolExecutor(1) as other:
            assert other.submit(url).result(5).startswith("postgresql://v-")


@pytest.mark.slow
@pytest.mark.timeout(300, method="thread")
def test_interrupts_at_any_moment_leave_the_lock_of_a_lease_free(rotation_lab: RotationLab) -> None:
    """Also while it is released: no later call of another thread waits in vain."""
    with leased_url(rotation_lab) as url:
        url()
        interrupt_often(url)
        with ThreadPoolExecutor(1) as other:
            assert other.submit(url).result(20).startswith("postgresql://v-")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_leases_while_a_thread_of_its_parent_does(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """A lease that is on its way at the fork is nothing that the child has to wait for."""
    with leased_url(rotation_lab, vault_proxy.url, timeout=5) as url, ThreadPoolExecutor(1) as one:
        vault_proxy.plan(Fault(pause=2.0), path="/creds/")
        parents = one.submit(url)
        wait_for(lambda: vault_proxy.count("/creds/") == 1)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if "//v-" in url() else 2
                url.close()
            finally:
                os._exit(code)
        _, code = os.waitpid(child, 0)
        assert "//v-" in parents.result(20)

    assert code == 0


def test_a_login_that_is_refused_was_answered(rotation_lab: RotationLab) -> None:
    """``check`` tells it from a server that is not there, and shows no password."""
    lab = rotation_lab
    role = lab.dynamic_role(
        ttl=60,
        max_ttl=600,
        creation_statements=["CREATE ROLE \"{{name}}\" NOLOGIN PASSWORD '{{password}}'"],
    )
    report = check_services(lab.environ(lab.role()), database_role=role)[1]

    assert (report.reachable, report.authenticated) == (True, False)
    assert "not permitted to log in" in report.detail


def test_a_user_that_is_gone_is_replaced_in_the_midst_of_a_pause(rotation_lab: RotationLab) -> None:
    """After a long outage the next try may be far away: a call that fails brings it on."""
    lab = rotation_lab
    with leased_url(lab) as url, PostgresClient(url) as client:
        before = who(client)
        url._next_try = time.monotonic() + 3600
        lab.vault.admin.sys.revoke_prefix("database/creds")
        with pytest.raises(PostgresError, match=r"permission denied|role OID"):
            client.execute("SELECT name FROM contacts", user_id=_USER)

        assert who(client) != before


def test_a_request_that_got_no_answer_is_not_sent_again(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """Each one makes a user: it has all the time that there is."""
    lab = rotation_lab
    before = lab.database_users()
    with leased_url(lab, vault_proxy.url, timeout=3.0) as url:
        vault_proxy.plan(Fault(pause=1.7), path="/creds/")
        assert url().startswith("postgresql://v-")
        assert vault_proxy.count("/creds/") == 1

    assert lab.database_users() == before


@pytest.mark.slow
def test_a_renewal_that_got_no_answer_is_tried_again_before_the_lease_ends(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """However long the try took: the pause behind it is no reason to lose a user that works."""
    lab = rotation_lab
    with leased_url(lab, vault_proxy.url, ttl=10, max_ttl=600) as url:
        before = url()
        vault_proxy.plan(Fault(pause=2), path="/leases/renew")
        ends_at = time.monotonic() + 10
        while vault_proxy.count("/leases/renew") < 2 and time.monotonic() < ends_at:
            url.generation()
            time.sleep(0.05)

        assert (url.life().remaining or 0) > 5
        assert url() == before


def test_a_renewed_lease_is_counted_from_the_question(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """Vault renews before it answers: a slow answer makes no lease longer."""
    with leased_url(rotation_lab, vault_proxy.url, ttl=3, max_ttl=600) as url:
        url()
        vault_proxy.plan(Fault(pause=0.8), path="/leases/renew")
        wait_for(lambda: bool(url.generation()) and vault_proxy.count("/leases/renew") == 1)

        assert 0 < (url.life().remaining or 0) <= 3 - 0.8


@pytest.mark.slow
def test_a_database_that_is_slow_to_make_users_costs_no_call(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """Over half a second for each user: one call waits for it, none fails, and no user is lost."""
    lab = rotation_lab
    with leased_url(lab, vault_proxy.url, ttl=6, max_ttl=6) as url:
        with PostgresClient(url) as client:
            users = {who(client)}
            vault_proxy.plan(Fault(pause=0.6), times=100, path="/creds/")
            until = time.monotonic() + 6
            while time.monotonic() < until:
                assert client.execute("SELECT name FROM contacts", user_id=_USER) == []
                users.add(who(client))
                time.sleep(0.02)
        assert 1 < len(users) == vault_proxy.count("/creds/")


def test_a_database_that_is_slower_than_a_call_may_wait_heals(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """The try after one that got no answer has more time: else no try would ever end well."""
    lab = rotation_lab
    with (
        leased_url(lab, vault_proxy.url, ttl=3, max_ttl=3) as url,
        PostgresClient(url) as client,
    ):
        before = who(client)
        vault_proxy.plan(Fault(pause=1.5), times=100, path="/creds/")

        wait_for(lambda: _another_user_works(client, before))


def _another_user_works(client: PostgresClient, before: str) -> bool:
    try:
        client.execute("SELECT name FROM contacts", user_id=_USER)
        return who(client) != before
    except ClientError:
        return False


def test_a_server_that_refuses_every_user_gets_fewer_and_fewer(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """Each user lives on to the end of its lease: after one second, two more, and so on."""
    lab = rotation_lab
    with leased_url(lab, vault_proxy.url) as url:
        first = url()
        started = time.monotonic()
        while time.monotonic() < started + 3.6:
            url(use_cache=False)
            time.sleep(0.01)
        assert url() != first
        assert 2 <= vault_proxy.count("/creds/") <= 3


def test_a_vault_that_never_answers_is_asked_once_at_close(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """However many leases there are: they end by themselves, and one line says so."""
    lab = rotation_lab
    with leased_url(lab, vault_proxy.url) as url:
        url()
        time.sleep(1.1)
        url(use_cache=False)
        assert vault_proxy.count("/creds/") == 2
        vault_proxy.plan(Fault(pause=8.0), times=3, path="/revoke")
        url.close()
        url.close()

        assert vault_proxy.count("/revoke") == 1
    (line,) = [one.getMessage() for one in caplog.records if "ends by itself" in one.message]
    assert "2 of the leases" in line
    lab.vault.admin.sys.revoke_prefix("database/creds")


def test_a_base_url_that_fails_later_stays_as_it_was(
    rotation_lab: RotationLab, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the caller's callable raises: no call fails, no user is made in vain."""
    lab = rotation_lab
    before = lab.database_users()
    answers = [lab.postgres.url("crm_user", "stored-pw")]

    def base() -> str:
        return answers[0]  # an IndexError later on

    with leased_url(lab, ttl=2, max_ttl=2, base=base) as url:
        with PostgresClient(url) as client:
            users = {who(client)}
            answers.clear()
            until = time.monotonic() + 4
            while time.monotonic() < until:
                users.add(who(client))
                time.sleep(0.02)
        assert len(url._living) <= 2  # those that ended are forgotten

    assert 1 < len(users) < 6
    lines = [one.getMessage() for one in caplog.records if "stays as it is" in one.message]
    assert len(lines) == len(users) - 1
    assert "IndexError" in lines[0]
    wait_for(lambda: lab.database_users() <= before)


def test_a_database_that_moved_is_followed_with_the_next_user(rotation_lab: RotationLab) -> None:
    """The stored URL is read anew for each user, and not for each connection."""
    lab = rotation_lab
    asked = []

    def base() -> str:
        asked.append(1)
        return lab.postgres.url(dbname="crm" if len(asked) == 1 else "postgres")

    with leased_url(lab, base=base) as url:
        assert [url().rpartition("/")[2] for _ in range(5)] == ["crm"] * 5
        assert len(asked) == 1
        time.sleep(1.1)
        assert url(use_cache=False).endswith("/postgres")
        assert url().endswith("/postgres")
        assert len(asked) == 2


def test_the_lease_wins_over_a_user_in_the_options_of_the_url(rotation_lab: RotationLab) -> None:
    """The driver prefers ``?user=`` to what stands before the host, and says nothing."""
    lab = rotation_lab
    base = (
        f"postgresql://127.0.0.1:{lab.postgres.port}/crm"
        f"?user=crm_user&%70assword={lab.set_postgres()}&application_name=mine"
    )
    with leased_url(lab, base=lambda: base) as url, PostgresClient(url) as client:
        assert who(client).startswith("v-")
        query = "SELECT current_setting('application_name')"
        assert client.execute_scalar(query, user_id=_USER) == "mine"
