"""Static roles: a user that stays, and whose password Vault rotates."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from clients import ClientError, PostgresClient, PostgresError, VaultClient, build_clients
from tests.postgres_faults import superuser, wait_for
from tests.rotation_lab import who

if TYPE_CHECKING:
    from tests.rotation_lab import RotationLab

_USER = uuid4()


def test_a_static_role_in_trouble_makes_no_user(rotation_lab: RotationLab) -> None:
    """It is read again, its user stays, and it has no lease to revoke."""
    lab = rotation_lab
    path = lab.static_role(period=600)
    with VaultClient(lab.vault.url, lab.vault.token(policies=["rotation"]), environ={}) as vault:
        url = vault.leased_url(path, lab.postgres.url)
        first = url()
        time.sleep(1.1)
        assert url(use_cache=False) == first
        lab.vault.admin.adapter.post(f"/v1/{path.replace('static-creds', 'rotate-role')}")
        second = url(use_cache=False)
        assert second != first
        assert url.life().age < 5
        url.close()


def test_a_static_roles_user_that_was_made_anew_gets_new_sessions(
    rotation_lab: RotationLab,
) -> None:
    """Its name is the same, and the old sessions have no rights: one call tells."""
    lab = rotation_lab
    path = lab.static_role(period=600)
    name = path.rpartition("/")[2]
    with build_clients(environ=lab.environ(lab.role()), database_role=path) as clients:
        assert who(clients.postgres) == name
        with superuser(lab.postgres) as conn:
            conn.execute(f"DROP ROLE {name}")
            conn.execute(f"CREATE ROLE {name} LOGIN IN ROLE crm_user")
        lab.vault.admin.adapter.post(f"/v1/{path.replace('static-creds', 'rotate-role')}")
        with pytest.raises(PostgresError, match=r"permission denied|role OID"):
            clients.postgres.execute("SELECT name FROM contacts", user_id=_USER)

        wait_for(lambda: _works(clients.postgres))
        connects = clients.postgres.stats()["connects"]
        for _ in range(3):  # and a statement that stays denied makes no storm of logins
            time.sleep(0.4)
            with pytest.raises(PostgresError, match="permission denied"):
                clients.postgres.execute("SELECT rolpassword FROM pg_authid", user_id=_USER)
        assert clients.postgres.stats()["connects"] == connects


def _works(client: PostgresClient) -> bool:
    try:
        return client.execute("SELECT name FROM contacts", user_id=_USER) == []
    except ClientError:
        return False
