"""The FastAPI recipes run: one traced, one on SQLAlchemy models and Alembic's migrations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from fastapi.testclient import TestClient
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.exc import ProgrammingError

from clients.postgres_client import PostgresClient
from clients.sqlalchemy_adapter import create_engine
from tests.examples.orm_api import Base, make_app, migrate

if TYPE_CHECKING:
    from utils._stack.postgres import PostgresServer
    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]
TRACE = """\
POST /contacts/{name}
  EVALSHA
  TRANSACTION crm
    crm: INSERT INTO contacts (user_id, name) VALUES (%s, %s)
    crm: SELECT count(*) FROM contacts
  SET
"""


def test_a_request_is_one_trace(stack: StackEndpoints) -> None:
    """Endpoint, block, statements and commands, each once, whatever instruments the drivers."""
    words = ["-W", "ignore::DeprecationWarning", "-m", "tests.examples.traced_api"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **stack.environment()},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert (done.returncode, done.stdout) == (0, TRACE), done.stderr


def test_models_migrations_and_endpoints(own_postgres: PostgresServer) -> None:
    """The owner migrates, the application's role serves two users, and neither sees the other's."""
    url = own_postgres.url("crm_user", "secret")
    ada, bob = ({"X-User": str(uuid4())} for _ in range(2))
    with PostgresClient(url, 2, admin_url=own_postgres.url()) as postgres:
        migrate(postgres)
        try:
            assert postgres.check_rls() == []
            with create_engine(postgres, admin=True).connect() as conn:
                known = MigrationContext.configure(conn, opts={"include_name": _is_ours})
                assert compare_metadata(known, Base.metadata) == []
            with TestClient(make_app(create_engine(postgres))) as client:
                for text in ("one", "two"):
                    assert client.post(f"/memos/{text}", headers=ada).status_code == 200
                assert client.get("/memos", headers=ada).json() == ["one", "two"]
                assert client.get("/memos", headers=bob).json() == []
            assert postgres.stats()["in_use"] == 0
        finally:
            migrate(postgres, "base")
            postgres.execute_admin("DROP TABLE alembic_version")
    # The application's role owns nothing, so it cannot migrate.
    with PostgresClient(url, 1) as alone, pytest.raises(ProgrammingError) as caught:
        migrate(alone)
    assert isinstance(caught.value.orig, InsufficientPrivilege)


def _is_ours(name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or name == "memos"
