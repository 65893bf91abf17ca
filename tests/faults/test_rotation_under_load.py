"""Credentials rotate under steady load, and no call notices."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from clients import build_clients
from tests.postgres_faults import superuser, wait_for
from tests.rotation_lab import MixedLoad, connect_anew

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients import Clients
    from tests.http_fault_proxy import HttpFaultProxy
    from tests.rotation_lab import RotationLab

_ROTATIONS = 20
_LEASED_SECONDS = 60
_LEASE = 5
_LONGEST_LEASE = 12


@contextmanager
def clean_load(clients: Clients) -> Iterator[MixedLoad]:
    """Put load on the clients; no call may fail, and none may take two seconds."""
    with MixedLoad(clients) as load:
        yield load
    assert [call for call in load.failures if call.error] == []
    assert load.slower_than(2.0) == []
    # There was a load: how many calls there are is the machine's pace.
    assert len(load.calls) > 4 * _ROTATIONS


def told_of(caplog: pytest.LogCaptureFixture, rotations: int) -> bool:
    """Return True when the log tells of this number of rotations."""
    return rotations == sum("was rotated" in one.getMessage() for one in caplog.records)


@pytest.mark.slow
def test_twenty_static_rotations_cost_no_call(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever half of a rotation comes first: no call fails, and each one is one line."""
    lab = rotation_lab
    environ = lab.environ(lab.role(), vault_proxy.url)
    caplog.set_level(logging.INFO, "clients")
    refusals = lab.postgres.log.read_text().count("password authentication failed")
    with build_clients(environ=environ, pool_size=8) as clients, clean_load(clients):
        started = time.monotonic()
        for turn in range(_ROTATIONS):
            if turn % 2:
                # The server first: until Vault has it, nobody can know the new password. Calls wait
                # for a second: most of it is left to a machine that stalls.
                postgres, valkey = lab.set_postgres(), lab.set_valkey()
                connect_anew(clients)
                time.sleep(0.1)
                lab.store_postgres(postgres)
                lab.store_valkey(valkey)
            else:
                # Vault first: the new password does not work yet.
                password = f"turn-{turn}"
                lab.store_postgres(password)
                lab.store_valkey(password)
                clients.vault.clear_cache()
                connect_anew(clients)
                time.sleep(0.1)
                with superuser(lab.postgres) as conn:
                    conn.execute(f"ALTER ROLE crm_user PASSWORD '{password}'")
                lab.use_valkey(password)
            connect_anew(clients)
            # The next rotation follows as soon as this one is known.
            wait_for(partial(told_of, caplog, 2 * (turn + 1)))
        took = time.monotonic() - started

    assert told_of(caplog, 2 * _ROTATIONS)
    # By time and not by load: a handful of reads for each rotation, for all threads together.
    assert vault_proxy.count("/login") == 1
    assert vault_proxy.count("/data/") < 20 * _ROTATIONS + 4 * took
    # At most each of the pool's places meets the old password once, and once the new one.
    seen = lab.postgres.log.read_text().count("password authentication failed") - refusals
    assert seen <= 2 * 8 * _ROTATIONS


@pytest.mark.slow
def test_leases_of_five_seconds_cost_no_call(
    rotation_lab: RotationLab, vault_proxy: HttpFaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A minute of short-lived users in PostgreSQL and Valkey: no failure, and none left over."""
    lab = rotation_lab
    environ = lab.environ(lab.role(), vault_proxy.url)
    caplog.set_level(logging.INFO, "clients")
    with build_clients(
        environ=environ,
        pool_size=8,
        database_role=lab.dynamic_role(ttl=_LEASE, max_ttl=_LONGEST_LEASE),
        valkey_role=lab.dynamic_cache_role(ttl=_LEASE, max_ttl=_LONGEST_LEASE),
    ) as clients:
        seen: set[str] = set()
        with clean_load(clients):
            ends_at = time.monotonic() + _LEASED_SECONDS
            while time.monotonic() < ends_at:
                seen |= lab.database_users()
                health = clients.health_check()
                assert health.healthy
                assert health.postgres.credential is not None
                # Vault's time begins when it makes the user, ours when we ask for one.
                assert 0 <= health.postgres.credential.age <= _LONGEST_LEASE + 1
                assert 0 < (health.postgres.credential.remaining or 0) <= _LEASE
                time.sleep(0.5)

    # The users come and go: each lives for its longest life at most.
    assert len(seen) >= _LEASED_SECONDS / _LONGEST_LEASE
    wait_for(lambda: lab.database_users() == set())
    wait_for(lambda: lab.cache_users() == set())
    made = vault_proxy.count("/creds/")
    assert told_of(caplog, made - 2)
    # Two leases, and each is looked after at 0.6 of five seconds at the earliest.
    assert made + vault_proxy.count("/leases/renew") <= 2 * (_LEASED_SECONDS / 1.0 + 2)
    assert made <= 2 * (_LEASED_SECONDS / (0.6 * _LEASE) + 2)
    assert vault_proxy.count("/login") == 1
