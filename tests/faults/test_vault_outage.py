"""Vault is sealed, restarted, stalled, or takes our token away: what runs goes on running."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from clients import (
    ClientError,
    PostgresConnectionError,
    VaultClient,
    VaultConnectionError,
    build_clients,
)
from tests.http_fault_proxy import Fault, HttpFaultProxy
from tests.postgres_faults import kill_sessions, superuser, wait_for
from tests.rotation_lab import ENDING_SESSIONS, MixedLoad, RotationLab, connect_anew, who
from tests.vault_fixtures import VaultLab
from tests.vault_servers import SealableOpenBao
from utils._stack.seed import direct_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients import Clients


@pytest.fixture(scope="module")
def sealable() -> Iterator[SealableOpenBao]:
    """A Vault that keeps its data, and can be sealed and restarted."""
    with SealableOpenBao() as server:
        server.initialise()
        server.unseal()
        admin = direct_client(server.url, server.root_token)
        admin.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        admin.sys.enable_secrets_engine("database")
        yield server


@pytest.fixture
def lab(sealable: SealableOpenBao, rotation_lab: RotationLab) -> Iterator[RotationLab]:
    """The rotation tests' servers behind a Vault that can be sealed, and is open at first."""
    own = _lab(sealable, rotation_lab)
    own.store_postgres(own.set_postgres())
    own.store_valkey(own.set_valkey())
    yield own
    if not sealable.running:
        sealable.start()
    sealable.unseal()
    own.valkey_admin.close()


def _lab(server: SealableOpenBao, others: RotationLab) -> RotationLab:
    vault = VaultLab.__new__(VaultLab)
    vault.server, vault.url, vault.root_token = server, server.url, server.root_token
    vault.admin = direct_client(server.url, server.root_token)
    return RotationLab(vault, others.postgres, others.valkey)


@contextmanager
def build(lab: RotationLab, *, database_role: str | None = None) -> Iterator[Clients]:
    """Build the clients with a cache that soon needs Vault again."""
    token = lab.vault.token(policies=["rotation"])
    with (
        VaultClient(lab.vault.url, token, cache_ttl=0.2, environ={}) as vault,
        build_clients(vault=vault, database_role=database_role) as clients,
    ):
        yield clients


@pytest.mark.parametrize("outage", [pytest.param("sealed", marks=pytest.mark.slow), "stopped"])
def test_without_vault_running_clients_go_on_and_connect_anew(
    lab: RotationLab, sealable: SealableOpenBao, outage: str
) -> None:
    """Neither old nor new connections need Vault while the credential that it gave works."""
    with build(lab) as clients:
        if outage == "sealed":
            sealable.seal()
        else:
            sealable.stop()
        with MixedLoad(clients) as load:
            for _ in range(6):
                time.sleep(0.3)
                connect_anew(clients)
        report = clients.health_check()

    assert load.failures == []
    assert load.slower_than(2.0) == []
    assert (report.vault.healthy, report.postgres.healthy, report.valkey.healthy) == (
        False,
        True,
        True,
    )
    assert isinstance(report.vault.error, VaultConnectionError)


def test_what_really_needs_vault_says_so(lab: RotationLab, sealable: SealableOpenBao) -> None:
    """A password that changed while Vault was sealed: the error tells both, then it heals."""
    with build(lab) as clients:
        time.sleep(0.3)
        sealable.seal()
        password = lab.set_postgres()
        connect_anew(clients)
        with pytest.raises(
            PostgresConnectionError,
            match=r"password authentication failed.*no other credential can be had.*sealed",
        ) as caught:
            clients.postgres.execute("SELECT 1", user_id=uuid4())
        assert password not in str(caught.value)
        sealable.unseal()
        lab.store_postgres(password)

        assert clients.postgres.execute("SELECT 1 AS one", user_id=uuid4()) == [{"one": 1}]


@pytest.mark.slow
def test_a_lease_outlives_a_sealed_vault_in_the_connections_that_are_open(
    lab: RotationLab, sealable: SealableOpenBao
) -> None:
    """Past the end of the lease the pool goes on; with Vault back, a new user takes over."""
    role = lab.dynamic_role(ttl=2, max_ttl=60, revocation_statements=ENDING_SESSIONS)
    with build(lab, database_role=role) as clients:
        user = who(clients.postgres)
        sealable.seal()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert who(clients.postgres) == user
            time.sleep(0.05)
        life = clients.postgres.credential_life()
        assert (life.remaining, life.age > 4) == (0.0, True)
        # A new connection needs a credential that Vault alone can give.
        with superuser(lab.postgres) as conn:
            conn.execute(f'ALTER ROLE "{user}" NOLOGIN')
            kill_sessions(conn, user)
        with pytest.raises(
            PostgresConnectionError, match=r"(to log in|failed for user).*Vault is sealed"
        ):
            who(clients.postgres)
        sealable.unseal()
        wait_for(lambda: _works(clients))
        assert who(clients.postgres) != user


@pytest.mark.slow
def test_a_sealed_vault_is_asked_by_time_and_not_by_load(
    lab: RotationLab, sealable: SealableOpenBao
) -> None:
    """Nothing works without Vault: the failing calls of all threads repeat its last answer."""
    role = lab.dynamic_role(ttl=2, max_ttl=60)
    token = lab.vault.token(policies=["rotation"])
    with (
        HttpFaultProxy(sealable.port) as proxy,
        VaultClient(proxy.url, token, environ={}) as vault,
        build_clients(vault=vault, database_role=role) as clients,
    ):
        user = who(clients.postgres)
        sealable.seal()
        time.sleep(2)
        with superuser(lab.postgres) as conn:
            conn.execute(f'ALTER ROLE "{user}" NOLOGIN')
            kill_sessions(conn, user)
        wait_for(lambda: not _works(clients))
        proxy.forget()
        until, calls = time.monotonic() + 2, 0
        while time.monotonic() < until:
            assert not _works(clients)
            calls += 1
        assert proxy.count() < calls / 4
        sealable.unseal()
        wait_for(lambda: _works(clients))


@pytest.mark.slow
def test_a_vault_that_stalls_holds_nobody_up(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy
) -> None:
    """A lease is due and Vault does not answer: one call waits a second, the others go on."""
    lab = rotation_lab
    environ = lab.environ(lab.role(), vault_proxy.url)
    role = lab.dynamic_role(ttl=6, max_ttl=60)
    with build_clients(environ=environ, database_role=role) as clients:
        vault_proxy.plan(Fault(pause=5.0), times=3, path="/sys/leases/renew")
        with MixedLoad(clients) as load:
            time.sleep(4.6)

        assert load.failures == []
        assert load.slower_than(2.0) == []
        assert 1 <= vault_proxy.count("/sys/leases/renew") <= 3


def test_a_token_that_is_taken_away_stops_no_running_client(rotation_lab: RotationLab) -> None:
    """The caller's token is revoked: PostgreSQL and Valkey go on, the health check tells it."""
    lab = rotation_lab
    with build(lab) as clients:
        (token,) = clients.vault._options.secrets()
        lab.vault.admin.auth.token.revoke(token)
        time.sleep(0.3)
        with MixedLoad(clients) as load:
            for _ in range(3):
                time.sleep(0.2)
                connect_anew(clients)
        report = clients.health_check()

    assert load.failures == []
    assert not report.vault.healthy
    assert "authentication lost" in str(report.vault.error)


def _works(clients: Clients) -> bool:
    try:
        who(clients.postgres)
    except ClientError:
        return False
    return True
