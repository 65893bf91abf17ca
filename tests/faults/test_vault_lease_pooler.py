"""Users that come and go, behind a pooler that knows none of them beforehand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from clients import build_clients
from tests.pgbouncer_server import PgBouncerServer
from tests.postgres_faults import superuser, wait_for

if TYPE_CHECKING:
    from tests.rotation_lab import RotationLab


@pytest.mark.slow
@pytest.mark.pgbouncer
def test_leased_users_follow_one_another_through_a_pooler(rotation_lab: RotationLab) -> None:
    """PgBouncer asks the server for each of them; no call fails, and none sees another's row."""
    lab, seen = rotation_lab, set()
    role = lab.dynamic_role(ttl=2, max_ttl=3)
    with superuser(lab.postgres) as conn:
        conn.execute("ALTER ROLE crm_user PASSWORD 'secret'")  # as the pooler knows it
    with PgBouncerServer(lab.postgres) as pooler:
        lab.vault.write("crm/database", {"url": pooler.url()})
        with build_clients(environ=lab.environ(lab.role()), database_role=role) as clients:
            ends_at = time.monotonic() + 8
            while time.monotonic() < ends_at:
                user = uuid4()
                with clients.postgres.connection(user) as conn:
                    conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'Ada')", (user,))
                rows = clients.postgres.execute(
                    "SELECT user_id, session_user AS login FROM contacts", user_id=user
                )
                assert [row["user_id"] for row in rows] == [user]
                seen |= {row["login"] for row in rows}

    assert len(seen) > 1
    wait_for(lambda: lab.database_users() == set())
