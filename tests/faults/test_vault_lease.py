"""Users that Vault makes for a while: renewed, replaced, given up, and revoked at the end."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from clients import (
    Clients,
    PostgresClient,
    PostgresConnectionError,
    PostgresError,
    ValkeyClient,
    ValkeyConnectionError,
    VaultClient,
    VaultError,
    build_clients,
)
from tests.postgres_faults import kill_sessions, superuser, wait_for
from tests.rotation_lab import ENDING_SESSIONS, who

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rotation_lab import RotationLab

_USER = uuid4()


@contextmanager
def leased(lab: RotationLab, *, token: str | None = None, **settings: Any) -> Iterator[Clients]:
    """Build all three clients with a database user of their own."""
    role = lab.dynamic_role(**{"ttl": 60, "max_ttl": 600} | settings)
    given = token or lab.vault.token(policies=["rotation"])
    environ = {"VAULT_ADDR": lab.vault.url, "VAULT_TOKEN": given}
    with build_clients(environ=environ, database_role=role) as clients:
        yield clients


def revoke_all(lab: RotationLab) -> None:
    """Revoke every database lease, as an administrator would after a break-in."""
    lab.vault.admin.sys.revoke_prefix("database/creds")


def test_the_user_is_vaults_and_is_gone_after_close(rotation_lab: RotationLab) -> None:
    """The stored URL says where; user and password are the lease's, which ``close()`` revokes."""
    with leased(rotation_lab) as clients:
        user = who(clients.postgres)
        assert user in rotation_lab.database_users()
        assert clients.postgres.check_rls() == []
        assert clients.postgres.execute("SELECT 1 AS one FROM contacts", user_id=_USER) == []

    # Revoked with the last answer of close(), not some time later.
    assert user not in rotation_lab.database_users()


@pytest.mark.slow
def test_a_renewed_lease_keeps_its_user_and_its_connections(rotation_lab: RotationLab) -> None:
    """As long as Vault renews, nobody connects anew."""
    with leased(rotation_lab, ttl=2, max_ttl=60) as clients:
        user, sessions = who(clients.postgres), clients.postgres.stats()["connects"]
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert who(clients.postgres) == user
            time.sleep(0.05)

        assert clients.postgres.stats()["connects"] == sessions

    assert user not in rotation_lab.database_users()


def test_a_lease_that_ends_is_replaced_and_open_blocks_go_on(rotation_lab: RotationLab) -> None:
    """The next call has a new user; a block that is open keeps the old one to its end."""
    with leased(rotation_lab, ttl=6, max_ttl=6) as clients:
        before = who(clients.postgres)
        with clients.postgres.connection(_USER) as conn:
            wait_for(lambda: _who_in_thread(clients) != before)
            row = conn.execute("SELECT session_user::text AS name").fetchone()
            assert row["name"] == before
        after = who(clients.postgres)

        assert after != before
        # The block's session went with its end: every session is the new user's.
        with superuser(rotation_lab.postgres) as conn:
            rows = conn.execute("SELECT 1 FROM pg_stat_activity WHERE usename = %s", (before,))
            assert rows.fetchall() == []


@pytest.mark.parametrize(
    ("statement", "times"),
    [
        pytest.param("SELECT pg_sleep(0.1)", 35, marks=pytest.mark.slow),
        ("SELECT pg_sleep(3.5)", 1),
    ],
)
def test_a_block_longer_than_a_lease_keeps_it_alive(
    rotation_lab: RotationLab, statement: str, times: int
) -> None:
    """A process that does nothing else takes no connection: its statements see to the renewal."""
    with leased(rotation_lab, ttl=2, max_ttl=60, revocation_statements=ENDING_SESSIONS) as clients:
        before = who(clients.postgres)
        with clients.postgres.connection(_USER) as conn:
            for _ in range(times):
                conn.execute(statement)
        assert who(clients.postgres) == before


def test_a_call_longer_than_a_lease_keeps_it_alive(rotation_lab: RotationLab) -> None:
    """A report that runs for longer than its user was given is not lost at the end."""
    with leased(rotation_lab, ttl=2, max_ttl=60, revocation_statements=ENDING_SESSIONS) as clients:
        before = who(clients.postgres)
        assert clients.postgres.execute("SELECT pg_sleep(3.5)", user_id=_USER) != []
        assert who(clients.postgres) == before


def _who_in_thread(clients: Clients) -> str:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(who, clients.postgres).result()


@pytest.mark.slow
def test_a_lease_does_not_outlive_its_token(rotation_lab: RotationLab) -> None:
    """The token lives for four seconds and the lease, by its own clock, for an hour: the user
    goes with the token, and is replaced before."""  # noqa: D205, D209 - one sentence
    lab = rotation_lab
    approle = lab.role(token_ttl="4s", token_max_ttl="4s")
    database_role = lab.dynamic_role(ttl=3600, max_ttl=7200)
    with build_clients(environ=lab.environ(approle), database_role=database_role) as clients:
        users = set()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            users.add(who(clients.postgres))
            assert (clients.postgres.credential_life().remaining or 0) <= 4
            time.sleep(0.05)

    assert len(users) > 2


def test_a_revoked_lease_heals_with_the_next_call(rotation_lab: RotationLab) -> None:
    """Sessions of a dropped role go on without their rights: one call tells, the next is served."""
    with leased(rotation_lab) as clients:
        who(clients.postgres)
        revoke_all(rotation_lab)
        with pytest.raises(PostgresError) as caught:
            clients.postgres.execute("SELECT name FROM contacts", user_id=_USER)
        assert caught.value.sqlstate in {"42501", "42704"}

        assert clients.postgres.execute("SELECT name FROM contacts", user_id=_USER) == []


def test_a_revoked_lease_heals_blocks_as_well(rotation_lab: RotationLab) -> None:
    """What a block's own statement tells is heard, too."""
    with leased(rotation_lab) as clients:
        who(clients.postgres)
        revoke_all(rotation_lab)
        with pytest.raises(Exception, match=r"permission denied|role OID"):  # noqa: SIM117 - the block raises
            with clients.postgres.connection(_USER) as conn:
                conn.execute("SELECT name FROM contacts")

        with clients.postgres.connection(_USER) as conn:
            assert conn.execute("SELECT name FROM contacts").fetchall() == []


def test_a_revocation_that_ends_sessions_costs_no_call(rotation_lab: RotationLab) -> None:
    """With the revocation that the README recommends, the sessions are seen to be gone."""
    with leased(rotation_lab, revocation_statements=ENDING_SESSIONS) as clients:
        before = who(clients.postgres)
        revoke_all(rotation_lab)

        assert who(clients.postgres) != before


def test_a_policy_error_of_the_user_asks_vault_once_a_second_at_most(
    rotation_lab: RotationLab, vault_proxy: Any
) -> None:
    """A statement that is denied for good makes no storm at Vault, and no new user."""
    lab = rotation_lab
    environ = lab.environ(lab.role(), vault_proxy.url)
    with superuser(lab.postgres) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS not_yours (n int)")
    with build_clients(
        environ=environ, database_role=lab.dynamic_role(ttl=60, max_ttl=600)
    ) as clients:
        user, started = who(clients.postgres), time.monotonic()
        for _ in range(50):
            with pytest.raises(PostgresError, match="permission denied for table not_yours"):
                clients.postgres.execute("SELECT n FROM not_yours", user_id=_USER)
        assert who(clients.postgres) == user
        assert vault_proxy.count("/leases/renew") <= time.monotonic() - started + 1
        assert vault_proxy.count("/creds/") == 1


def test_a_forked_child_has_a_user_of_its_own(rotation_lab: RotationLab) -> None:
    """And its end takes nothing from the parent."""
    with leased(rotation_lab) as clients:
        parents = who(clients.postgres)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writer, who(clients.postgres).encode())
                clients.close()
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            childs = answer.read()
        os.waitpid(child, 0)

        assert childs.startswith("v-")
        assert childs != parents
        assert who(clients.postgres) == parents
        assert childs not in rotation_lab.database_users()


@pytest.mark.slow
def test_a_static_role_follows_vaults_own_rotations(rotation_lab: RotationLab) -> None:
    """``static-creds``: one user, whose password Vault changes every few seconds."""
    lab = rotation_lab
    path = lab.static_role(period=5)
    with build_clients(environ=lab.environ(lab.role()), database_role=path) as clients:
        users = set()
        until = time.monotonic() + 7
        while time.monotonic() < until:
            users.add(who(clients.postgres))
            clients.postgres._pool.drain()
            time.sleep(0.1)
        life = clients.postgres.credential_life()

    assert users == {path.rpartition("/")[2]}
    assert life.age <= 6
    assert (life.remaining or 0) <= 5


def test_a_closed_lease_makes_no_more_users(rotation_lab: RotationLab) -> None:
    """It says so; the clients that use it are to be made anew."""
    lab = rotation_lab
    with VaultClient(lab.vault.url, lab.vault.token(policies=["rotation"]), environ={}) as vault:
        url = vault.leased_url(lab.dynamic_role(ttl=60, max_ttl=600))
        assert url().startswith("postgresql://v-")
        url.close()
        url.close()
        with pytest.raises(VaultError, match="was closed"):
            url()


def test_a_lease_ends_with_its_block(rotation_lab: RotationLab) -> None:
    """As the clients do, and no copy of it can end it twice or outlive it."""
    lab = rotation_lab
    before = lab.database_users()
    with VaultClient(lab.vault.url, lab.vault.token(policies=["rotation"]), environ={}) as vault:
        with vault.leased_url(lab.dynamic_role(ttl=60, max_ttl=600)) as url:
            assert url().startswith("postgresql://v-")
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="cannot be pickled or copied"):
                    copied(url)
        assert lab.database_users() == before


def test_a_lease_that_may_not_be_revoked_is_left_to_its_end(
    rotation_lab: RotationLab, caplog: pytest.LogCaptureFixture
) -> None:
    """close() ends normally, and one warning says what is left."""
    lab = rotation_lab
    lab.vault.admin.sys.create_or_update_policy(
        "reads-only",
        'path "secret/data/crm/*" { capabilities = ["read"] }\n'
        'path "database/creds/*" { capabilities = ["read"] }',
    )
    with leased(lab, token=lab.vault.token(policies=["reads-only"])) as clients:
        user = who(clients.postgres)

    assert user in lab.database_users()
    assert [one.message for one in caplog.records if "ends by itself" in one.message]
    revoke_all(lab)


@pytest.mark.slow
def test_valkey_gets_a_user_of_its_own(rotation_lab: RotationLab) -> None:
    """The same for Valkey: ACL users come from Vault, and go with ``close()``."""
    lab = rotation_lab
    role = lab.dynamic_cache_role(ttl=3, max_ttl=3)
    with build_clients(environ=lab.environ(lab.role()), valkey_role=role) as clients:
        names = set()
        until = time.monotonic() + 6
        while time.monotonic() < until:
            clients.valkey.set("a", "x", expire_seconds=5)
            names |= {
                one["user"]
                for one in lab.valkey_admin.client_list()
                if one["lib-name"] == "failfast-clients"
            }
            time.sleep(0.05)
        assert len(names) > 1
        assert "default" not in names

    assert lab.cache_users() == set()


def test_nothing_shows_the_password(
    rotation_lab: RotationLab, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the log at DEBUG, no repr, and no error when the server refuses it."""
    caplog.set_level(logging.DEBUG)
    lab = rotation_lab
    with VaultClient(lab.vault.url, lab.vault.token(policies=["rotation"]), environ={}) as vault:
        url = vault.leased_url(lab.dynamic_role(ttl=60, max_ttl=600))
        secret = url().split("@")[0].rpartition(":")[2]
        with (
            build_clients(vault=vault, database_role=url.path) as clients,
            superuser(lab.postgres) as conn,
        ):
            name = who(clients.postgres)
            own = clients.leases[0]().split("@")[0].rpartition(":")[2]
            conn.execute(f'ALTER ROLE "{name}" NOLOGIN')
            kill_sessions(conn, name)
            shown = f"{url!r} {vars(url)} {clients!r} {clients.leases[0]._lease!r}"
        url.close()

    for text in (caplog.text, shown):
        assert secret not in text
        assert own not in text


def test_a_user_that_may_no_longer_log_in_is_replaced(rotation_lab: RotationLab) -> None:
    """The server refuses the lease's user before its time: there is a new one, and no failure."""
    lab = rotation_lab
    with leased(lab) as clients, superuser(lab.postgres) as conn:
        before = who(clients.postgres)
        time.sleep(1.1)  # a user that is younger is not replaced
        conn.execute(f'ALTER ROLE "{before}" NOLOGIN')
        kill_sessions(conn, before)

        assert who(clients.postgres) != before


def test_each_client_tells_the_life_of_its_credential(rotation_lab: RotationLab) -> None:
    """Seconds since it was made, and until it ends."""
    with leased(rotation_lab, ttl=60, max_ttl=600) as clients:
        time.sleep(0.1)
        report = clients.health_check()
    lives = [report.vault.credential, report.postgres.credential, report.valkey.credential]

    assert [one is not None and 0.1 <= one.age < 30 for one in lives] == [True] * 3
    vault, postgres, valkey = (one.remaining if one else None for one in lives)
    assert 3500 < (vault or 0) <= 3600
    assert 30 < (postgres or 0) <= 60
    assert valkey is None


def test_a_wrong_database_is_not_the_credentials_fault(rotation_lab: RotationLab) -> None:
    """An error that no other credential would mend makes no new user."""
    lab = rotation_lab
    with VaultClient(lab.vault.url, lab.vault.token(policies=["rotation"]), environ={}) as vault:
        url = vault.leased_url(
            lab.dynamic_role(ttl=60, max_ttl=600), lambda: lab.postgres.url(dbname="nowhere")
        )
        before = lab.database_users()
        with pytest.raises(PostgresConnectionError, match="nowhere"):
            PostgresClient(url)
        assert len(lab.database_users() - before) == 1
        url.close()


def test_a_lease_works_without_the_factory(rotation_lab: RotationLab) -> None:
    """``leased_url()`` is a callable URL like any other."""
    lab = rotation_lab
    with VaultClient(lab.vault.url, lab.vault.token(policies=["rotation"]), environ={}) as vault:
        url = vault.leased_url(lab.dynamic_cache_role(ttl=60, max_ttl=60), vault.get_valkey_url)
        with ValkeyClient(url) as valkey:
            assert valkey.health_check()
        url.close()
        with pytest.raises((ValkeyConnectionError, VaultError)):
            ValkeyClient(url)
