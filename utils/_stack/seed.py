"""Put into fresh servers what the application expects: roles, tables, policies, secrets.

The same code seeds embedded and Docker servers. Seeding twice does no harm.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import hvac
import hvac.exceptions
import psycopg
import requests
from psycopg import sql

from utils._stack.endpoints import StackEndpoints
from utils._stack.process import StackError

__all__ = ["apply_sql", "direct_client", "seed_stack", "sql_files"]

_POLICY = """
path "secret/*" { capabilities = ["read", "list"] }
"""
_KV_READY_TIMEOUT = 10.0


def direct_client(addr: str, token: str) -> hvac.Client:
    """Return the driver's client, without any proxy that the environment names.

    Args:
        addr: Vault's URL.
        token: The token to show.
    """
    session = requests.Session()
    session.trust_env = False
    return hvac.Client(url=addr, token=token, session=session)


def seed_stack(
    *, vault_addr: str, vault_root_token: str, superuser_url: str, valkey_url: str
) -> StackEndpoints:
    """Seed PostgreSQL and Vault.

    Args:
        vault_addr: Vault's URL.
        vault_root_token: Its root token.
        superuser_url: PostgreSQL as superuser, with the database ``crm``, made where missing.
        valkey_url: The URL to store for applications.

    Returns:
        How an application reaches the stack.
    """
    passwords = {role: secrets.token_urlsafe(16) for role in ("crm_user", "crm_admin")}
    apply_sql(superuser_url, passwords)
    urls = {role: _as_role(superuser_url, role, secret) for role, secret in passwords.items()}
    client = direct_client(vault_addr, vault_root_token)
    for path, data in _secrets(urls, passwords["crm_user"], valkey_url).items():
        _write_secret(client, path, data)
    role_id, secret_id = _enable_approle(client)
    token = client.auth.token.create(policies=["crm-app"], ttl="768h", display_name="crm-app")
    return StackEndpoints(
        vault_addr=vault_addr,
        vault_token=token["auth"]["client_token"],
        vault_root_token=vault_root_token,
        role_id=role_id,
        secret_id=secret_id,
        database_url=urls["crm_user"],
        admin_url=urls["crm_admin"],
        superuser_url=superuser_url,
        valkey_url=valkey_url,
    )


def sql_files() -> list[Path]:
    """Return the files of ``sql/`` in the order in which they are applied."""
    here = Path(__file__).parents[1]
    for folder in (here.parent / "sql", here / "sql"):
        if files := sorted(folder.glob("*.sql")):
            return files
    raise StackError(f"no SQL files in {here.parent / 'sql'} nor in {here / 'sql'}")


def apply_sql(superuser_url: str, passwords: dict[str, str]) -> None:
    """Apply ``sql/`` and set the passwords of its roles.

    Args:
        superuser_url: PostgreSQL as superuser; its database is made where missing.
        passwords: A password for each role name.

    Raises:
        StackError: The server refused a file; nothing of that file was applied.
    """
    dbname = urlsplit(superuser_url).path.lstrip("/")
    maintenance = urlunsplit(urlsplit(superuser_url)._replace(path="/postgres"))
    with psycopg.connect(maintenance, autocommit=True) as conn:
        if not conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (dbname,)).fetchone():
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))
    with psycopg.connect(superuser_url, autocommit=True) as conn:
        for path in sql_files():
            # Each file is sent as one text, that is in one transaction: a table without its
            # policy is never visible.
            try:
                conn.execute(path.read_bytes())
            except psycopg.Error as error:
                raise StackError(f"{path} cannot be applied: {error}") from error
        for role, password in passwords.items():
            # Send the verifier and not the password, which the server could log.
            verifier = conn.pgconn.encrypt_password(
                password.encode(), role.encode(), b"scram-sha-256"
            )
            conn.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(verifier.decode())
                )
            )


def _as_role(superuser_url: str, role: str, password: str) -> str:
    parts = urlsplit(superuser_url)
    netloc = f"{role}:{quote(password, safe='')}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc))


def _secrets(urls: dict[str, str], app_password: str, valkey_url: str) -> dict[str, dict[str, str]]:
    database = urlsplit(urls["crm_user"])
    return {
        "crm/database": {"url": urls["crm_user"], "admin_url": urls["crm_admin"]},
        "crm/valkey": {"url": valkey_url},
        "crm/email": {"api_key": "dev-email-key", "from_address": "noreply@example.com"},
        "bike-data-flow/production/database": {
            "username": "crm_user",
            "password": app_password,
            "host": database.hostname or "127.0.0.1",
            "port": str(database.port),
            "database": database.path.lstrip("/"),
        },
        "bike-data-flow/production/api-keys/openweather": {"api_key": "dev-openweather-key"},
        "bike-data-flow/production/api-keys/citybikes": {"api_key": "dev-citybikes-key"},
    }


def _write_secret(client: Any, path: str, data: dict[str, str]) -> None:
    deadline = time.monotonic() + _KV_READY_TIMEOUT
    while True:
        try:
            client.secrets.kv.v2.create_or_update_secret(path=path, secret=data)
        except hvac.exceptions.InvalidRequest as error:
            # A new KV engine refuses writes for a moment, while it upgrades itself to version 2.
            if "pgrad" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _enable_approle(client: Any) -> tuple[str, str]:
    client.sys.create_or_update_policy("crm-app", _POLICY)
    if "approle/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("approle")
    approle = client.auth.approle
    approle.create_or_update_approle(
        "crm-app",
        token_policies=["crm-app"],
        token_ttl="1h",  # noqa: S106 - a duration
        token_max_ttl="24h",  # noqa: S106
    )
    role_id = approle.read_role_id("crm-app")["data"]["role_id"]
    secret_id = approle.generate_secret_id("crm-app")["data"]["secret_id"]
    return role_id, secret_id
