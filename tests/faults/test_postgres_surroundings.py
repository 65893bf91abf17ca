"""What the server, the role, the environment and the process have set around a client."""

from __future__ import annotations

import json
import os
import resource
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from clients.errors import ClientError, PostgresConnectionError, PostgresError
from clients.postgres_client import PostgresClient
from tests.postgres_faults import USER, superuser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

_SHOW = "SELECT current_setting('statement_timeout')"


def timeouts(client: PostgresClient, **settings: Any) -> list[str]:
    """Return the time-out that each kind of call runs under."""
    found = [
        client.execute_scalar(_SHOW, user_id=USER, **settings),
        client.execute_scalar(_SHOW, user_id=USER, **settings),  # the second one is prepared
        client.execute(f"{_SHOW} AS it", admin=True, **settings)[0]["it"],
    ]
    with client.connection(USER, **settings) as conn:
        found.append(conn.execute(f"{_SHOW} AS it").fetchone()["it"])
    with client.stream(f"{_SHOW} AS it", user_id=USER, **settings) as rows:
        found += [row["it"] for row in rows]
    return found


def test_a_stricter_statement_timeout_of_the_role_is_not_loosened(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Every way in keeps it; a stricter one of the client's still counts."""
    with superuser(server) as conn:
        conn.execute("ALTER ROLE crm_user SET statement_timeout = '300ms'")
        try:
            assert set(timeouts(new_client())) == {"300ms"}
            assert set(timeouts(new_client(statement_timeout=0))) == {"300ms"}
            assert set(timeouts(new_client(statement_timeout=0.2))) == {"200ms"}
            assert set(timeouts(new_client(), timeout=0.1)) == {"100ms"}
            assert set(timeouts(new_client(), timeout=9.0)) == {"300ms"}
            with pytest.raises(PostgresError) as caught:
                new_client().execute("SELECT pg_sleep(5)", user_id=USER)
            assert caught.value.sqlstate == "57014"
        finally:
            conn.execute("ALTER ROLE crm_user RESET statement_timeout")


def test_a_stricter_statement_timeout_of_the_url_is_not_loosened(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Given as an option of libpq's."""
    url = server.url("crm_user", "secret") + "?options=-c%20statement_timeout%3D250"
    assert set(timeouts(new_client(url))) == {"250ms"}
    assert set(timeouts(new_client())) == {"30s"}


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_text_of_a_database_in_another_encoding_is_text(
    server: PostgresServer, encoding: str
) -> None:
    """What Python can say and the database can hold comes back as it went; the rest is refused."""
    with superuser(server) as conn:
        conn.execute(
            f"CREATE DATABASE other ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc"
            " TEMPLATE template0"
        )
        try:
            with PostgresClient(server.url("crm_user", "secret", "other"), 1) as client:
                words = "zu spät: naïve Gäste"
                assert client.execute_scalar("SELECT %s::text", (words,), USER) == words
                assert client.execute_scalar(f"SELECT '{words}'", user_id=USER) == words
                as_text = partial(json.dumps, ensure_ascii=False)
                nested = {"wörter": [words]}
                row = client.execute_scalar(
                    "SELECT %s::jsonb", (Jsonb(nested, dumps=as_text),), USER
                )
                assert row == nested
                with client.connection(USER) as block:
                    assert block.execute(f"SELECT '{words}' AS it").fetchone() == {"it": words}
                if encoding == "LATIN1":
                    with pytest.raises(PostgresError):
                        client.execute("SELECT %s::text || ''", ("\u4e2d\u6587",), USER)
                assert client.execute_scalar("SELECT 1", user_id=USER) == 1
                assert client.stats()["connects"] == 1
        finally:
            conn.execute("DROP DATABASE other WITH (FORCE)")


@pytest.fixture
def no_descriptors() -> Iterator[Any]:
    """A function that leaves this process so many file descriptors, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def leave(count: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        for _ in range(count):
            os.close(taken.pop())

    yield leave
    for number in taken:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("left", range(4))
def test_without_descriptors_a_connection_fails_as_ours(
    server: PostgresServer, new_client: NewClient, no_descriptors: Any, left: int
) -> None:
    """It says so, and the next call connects when there are some again."""
    client = new_client(pool_size=1, min_size=1, connect_timeout=2.0)
    client._pool.drain()
    # Files that are opened late, such as the modules of a first error, are opened before.
    with pytest.raises(ClientError):
        PostgresClient("postgresql://u@127.0.0.1:1/d")
    no_descriptors(left)
    failures: list[PostgresConnectionError] = []
    try:
        client.execute("SELECT 1", user_id=USER)
    except PostgresConnectionError as error:
        failures.append(error)
    assert left or failures
    assert all(error.reason == "resources" for error in failures)
    assert all("file descriptors" in str(error) for error in failures)


def test_a_foreign_servers_loss_is_not_the_sessions(new_client: NewClient) -> None:
    """A statement that could not reach another server fails as itself, and its session stays."""
    client = new_client(pool_size=1, min_size=1)
    unreachable = (
        "DO $$ BEGIN RAISE EXCEPTION 'could not connect to server \"shop\"'"
        " USING ERRCODE = '08001'; END $$"
    )
    calls: list[Callable[[], object]] = [
        lambda: client.execute(unreachable, user_id=USER),
        lambda: client.execute_admin(unreachable),
    ]
    for call in calls:
        with pytest.raises(PostgresError) as caught:
            call()
        assert not isinstance(caught.value, PostgresConnectionError)
        assert (caught.value.sqlstate, caught.value.maybe_applied) == ("08001", False)
    with client.connection(USER) as conn:
        with pytest.raises(psycopg.Error), conn.transaction():
            conn.execute(unreachable)
        conn.execute("SELECT 1")
    assert client.stats()["connects"] == 1


def test_a_newline_behind_the_url_is_not_a_part_of_it(
    server: PostgresServer, new_client: NewClient
) -> None:
    """Secrets are often written with an editor, or by echo."""
    url = server.url("crm_user", "secret")
    for form in (f"{url}\n", f" {url}\r\n", lambda: f"{url}\n"):
        assert new_client(form, pool_size=1).execute_scalar("SELECT 1", user_id=USER) == 1


@pytest.fixture
def nobody() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_messages_name_the_server_that_libpq_went_to(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nobody: int
) -> None:
    """Of the environment, of a service file, and the one of several hosts."""
    expected = f"127.0.0.1:{server.port}/crm as crm_user"
    services = tmp_path / "services"
    services.write_text(
        f"[crm]\nhost=127.0.0.1\nport={server.port}\ndbname=crm\nuser=crm_user\npassword=secret\n"
        f"[away]\nhost=127.0.0.1\nport={nobody}\ndbname=crm\nuser=crm_user\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    two = f"postgresql://crm_user:secret@127.0.0.1:{nobody},127.0.0.1:{server.port}/crm"
    for url in ("service=crm", two):
        with PostgresClient(url, 1) as client:
            assert client.server == expected
            with pytest.raises(PostgresError, match="SQLSTATE"):
                client.execute("SELECT 1/0", user_id=USER)
    with pytest.raises(PostgresConnectionError, match=f"127.0.0.1:{nobody}/crm as crm_user"):
        PostgresClient("service=away")
    with monkeypatch.context() as environment:
        for name, value in {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGDATABASE": "crm",
            "PGUSER": "crm_user",
            "PGPASSWORD": "wrong",
        }.items():
            environment.setenv(name, value)
        with pytest.raises(PostgresConnectionError, match=expected) as caught:
            PostgresClient("postgresql://")
        assert caught.value.reason == "login"
