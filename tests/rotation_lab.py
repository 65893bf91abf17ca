"""PostgreSQL, Valkey and Vault of the rotation tests' own, and load that notices every failure."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis
from psycopg import sql

from tests.postgres_faults import superuser
from tests.steady_load import SteadyLoad
from utils._stack.postgres import PostgresServer
from utils._stack.seed import apply_sql
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clients.factory import Clients
    from clients.postgres_client import PostgresClient
    from tests.vault_fixtures import Role, VaultLab

__all__ = ["ENDING_SESSIONS", "MixedLoad", "RotationLab", "connect_anew", "who"]

_POLICY = """
path "secret/data/crm/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
path "database/static-creds/*" { capabilities = ["read"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"""
_CREATE = (
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' "
    "IN ROLE crm_user"
)

#: Statements for a role whose revocation ends its users' sessions, as the README recommends.
ENDING_SESSIONS = [
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
    'DROP ROLE IF EXISTS "{{name}}"',
]


class RotationLab:
    """The servers, and what their administrators do to credentials.

    Args:
        vault: The tests' Vault.
        postgres: A server with the project's schema.
        valkey: A server; applications are its user ``app``.
    """

    def __init__(self, vault: VaultLab, postgres: PostgresServer, valkey: ValkeyServer) -> None:
        self.vault = vault
        self.postgres = postgres
        self.valkey = valkey
        self.valkey_admin: Any = redis.Redis.from_url(valkey.url, decode_responses=True)
        vault.admin.sys.create_or_update_policy("rotation", _POLICY)
        self._write("database/config/crm", {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "*",
            "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:"
            f"{postgres.port}/crm",
            "username": "postgres",
            "password": postgres.password,
        })  # fmt: skip
        self._write("database/config/cache", {
            "plugin_name": "valkey-database-plugin",
            "allowed_roles": "*",
            "host": "127.0.0.1",
            "port": valkey.port,
            "username": "default",
            "password": valkey.password,
        })  # fmt: skip

    def _write(self, path: str, data: dict[str, Any]) -> None:
        self.vault.admin.adapter.post(f"/v1/{path}", json=data)

    def set_postgres(self) -> str:
        """Give ``crm_user`` a new password on the server alone, and return it."""
        password = secrets.token_urlsafe(12)
        with superuser(self.postgres) as conn:
            conn.execute(sql.SQL("ALTER ROLE crm_user PASSWORD {}").format(sql.Literal(password)))
        return password

    def store_postgres(self, password: str) -> None:
        """Write the URL with *password* into Vault alone."""
        url = self.postgres.url("crm_user", password)
        self.vault.write("crm/database", {"url": url})

    def set_valkey(self) -> str:
        """Give the user ``app`` a new password on the server alone, and return it."""
        password = secrets.token_urlsafe(12)
        self.use_valkey(password)
        return password

    def use_valkey(self, password: str) -> None:
        """Give the user ``app`` *password* on the server alone."""
        self.valkey_admin.acl_setuser(
            "app", enabled=True, reset_passwords=True, passwords=[f"+{password}"],
            keys="*", channels="*", commands=["+@all"],
        )  # fmt: skip

    def store_valkey(self, password: str) -> None:
        """Write the URL with *password* into Vault alone."""
        self.vault.write(
            "crm/valkey", {"url": f"redis://app:{password}@127.0.0.1:{self.valkey.port}/0"}
        )

    def dynamic_role(self, *, ttl: int, max_ttl: int, **settings: Any) -> str:
        """Make a database role whose users live for *ttl* seconds, and return its name."""
        name = f"crm-{secrets.token_hex(4)}"
        self._write(f"database/roles/{name}", {
            "db_name": "crm",
            "creation_statements": [_CREATE],
            "default_ttl": f"{ttl}s",
            "max_ttl": f"{max_ttl}s",
            **settings,
        })  # fmt: skip
        return name

    def dynamic_cache_role(self, *, ttl: int, max_ttl: int) -> str:
        """The same for Valkey's ACL users."""
        return self.dynamic_role(
            ttl=ttl,
            max_ttl=max_ttl,
            db_name="cache",
            creation_statements='["~*", "&*", "+@all"]',
        )

    def static_role(self, *, period: int) -> str:
        """Have Vault rotate the password of a role of its own every *period* seconds."""
        user = f"static_{secrets.token_hex(4)}"
        with superuser(self.postgres) as conn:
            name = sql.Identifier(user)
            conn.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE crm_user").format(name))
        self._write(
            f"database/static-roles/{user}",
            {"db_name": "crm", "username": user, "rotation_period": period},
        )
        return f"database/static-creds/{user}"

    def role(self, **settings: Any) -> Role:
        """Make an AppRole that may read all of this."""
        return self.vault.role(token_policies=["rotation"], **settings)

    def environ(self, role: Role, addr: str | None = None) -> dict[str, str]:
        """Return the environment of an application that logs in as *role*."""
        return {
            "VAULT_ADDR": addr or self.vault.url,
            "VAULT_ROLE_ID": role.role_id,
            "VAULT_SECRET_ID": role.secret_id,
        }

    def database_users(self) -> set[str]:
        """Return the users that Vault has made in PostgreSQL and not removed yet."""
        with superuser(self.postgres) as conn:
            rows = conn.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'")
            return {row[0] for row in rows}

    def cache_users(self) -> set[str]:
        """Return the users that Vault has made in Valkey and not removed yet."""
        return {name for name in self.valkey_admin.acl_users() if name.startswith("V_")}


@pytest.fixture(scope="session")
def rotation_servers(vault_lab: VaultLab) -> Iterator[RotationLab]:
    """Servers whose credentials the tests may change."""
    vault_lab.admin.sys.enable_secrets_engine("database")
    with PostgresServer() as postgres, ValkeyServer() as valkey:
        apply_sql(postgres.url(), {"crm_user": "secret", "crm_admin": "secret"})
        lab = RotationLab(vault_lab, postgres, valkey)
        yield lab
        lab.valkey_admin.close()


@pytest.fixture
def rotation_lab(rotation_servers: RotationLab) -> RotationLab:
    """The same, with new passwords that Vault knows, whatever the test before has left."""
    rotation_servers.store_postgres(rotation_servers.set_postgres())
    rotation_servers.store_valkey(rotation_servers.set_valkey())
    return rotation_servers


def who(client: PostgresClient) -> str:
    """Return the database user of a call."""
    return str(client.execute_scalar("SELECT session_user::text", user_id=uuid4()))


def connect_anew(clients: Clients) -> None:
    """Have the next calls open connections, as a pool does that grows or grows old."""
    clients.postgres._pool.drain()
    clients.valkey.runner.link.pool.drop_idle()  # type: ignore[attr-defined]  # one server


@dataclass(frozen=True)
class Call:
    """One call that failed, or how long one took."""

    kind: str
    took: float
    error: Exception | None


class MixedLoad(SteadyLoad):
    """Threads that use PostgreSQL and Valkey until the block ends, or a limit of time.

    Args:
        clients: What they use.
    """

    def __init__(self, clients: Clients) -> None:
        super().__init__(8, limit=120.0, pause=0.005)
        self.calls: list[Call] = []
        self._clients = clients

    @property
    def failures(self) -> list[Call]:
        """The calls that raised."""
        return [call for call in self.calls if call.error is not None]

    def slower_than(self, seconds: float) -> list[Call]:
        """Return the calls that took longer."""
        return [call for call in self.calls if call.took > seconds]

    def take_turn(self, turn: int) -> None:
        """Make one call of the three kinds."""
        call = (self._execute, self._block, self._valkey)[turn % 3]
        started, error = time.monotonic(), None
        try:
            call()
        except Exception as failure:  # noqa: BLE001 - the test judges each of them
            error = failure
        self.calls.append(Call(call.__name__, time.monotonic() - started, error))

    def _execute(self) -> None:
        user = uuid4()
        assert self._clients.postgres.execute("SELECT name FROM contacts", user_id=user) == []

    def _block(self) -> None:
        user = uuid4()
        with self._clients.postgres.connection(user) as conn:
            conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'Ada')", (user,))
            rows = conn.execute("SELECT name FROM contacts").fetchall()
            assert rows == [{"name": "Ada"}]

    def _valkey(self) -> None:
        name = f"load:{uuid4()}"
        self._clients.valkey.set(name, "x", expire_seconds=60)
        assert self._clients.valkey.get(name) == "x"
