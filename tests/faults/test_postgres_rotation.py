"""Passwords are rotated under a running client, or are wrong for good."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from psycopg import sql

from clients.errors import PostgresConnectionError, PostgresError, RlsContextError
from clients.postgres_client import PostgresClient
from clients.vault_client import VaultClient
from tests.postgres_faults import (
    USER,
    Load,
    all_places_can_be_used,
    at_most,
    kill_sessions,
    superuser,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.postgres_faults import NewClient
    from tests.rotation_lab import RotationLab
    from utils._stack.postgres import PostgresServer


class Vault:
    """Hands out the URL: from a cache that may be old, or afresh; counts how often.

    Args:
        server: Whose password it keeps.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.cached = self.actual = "secret"
        self.asked_afresh = 0
        self.pause = 0.0
        self._lock = threading.Lock()

    def url(self, *, use_cache: bool = True) -> str:
        """Return the URL."""
        if not use_cache:
            with self._lock:
                self.asked_afresh += 1
            time.sleep(self.pause)
            self.cached = self.actual
        return self.server.url("crm_user", self.cached)

    def rotate(self, password: str) -> None:
        """Change the password on the server and in the store, and end every session."""
        with superuser(self.server) as conn:
            conn.execute(sql.SQL("ALTER ROLE crm_user PASSWORD {}").format(sql.Literal(password)))
            self.actual = password
            kill_sessions(conn)


@pytest.fixture
def vault(server: PostgresServer) -> Iterator[Vault]:
    """A store of the password, which is the old one again after the test."""
    store = Vault(server)
    yield store
    store.rotate("secret")


def failed_logins(server: PostgresServer) -> int:
    """Count the refused logins in the server's own log."""
    return server.log.read_text().count('password authentication failed for user "crm_user"')


def test_a_rotation_costs_no_call_and_one_question(vault: Vault, new_client: NewClient) -> None:
    """Eight threads that are refused the old password ask once, and none of their calls fails."""
    client = new_client(vault.url, pool_size=8, min_size=8)
    vault.pause = 0.3
    together = threading.Barrier(8, timeout=10)

    def call(number: int) -> None:
        together.wait()
        write(client, uuid4(), ("execute", "connection")[number % 2])

    for turn in range(3):
        vault.rotate(f"rotated {turn}")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(call, range(8)))
        assert vault.asked_afresh == turn + 1
    all_places_can_be_used(client)


def test_a_rotation_under_load_fails_only_what_its_kill_met(
    server: PostgresServer, vault: Vault, new_client: NewClient
) -> None:
    """Without a kill in mid-statement a rotation under load is not noticed by anyone."""
    client = new_client(vault.url, pool_size=4)
    with Load(client, threads=8) as load:
        for turn in range(3):
            time.sleep(0.2)
            vault.rotate(f"under load {turn}")
        time.sleep(0.2)
    for call in load.failures:
        assert "password authentication failed" not in str(call.error)
    # Each kill meets at most the four sessions that there are.
    assert len(load.failures) <= 3 * 4
    load.assert_exactly_once(server)
    all_places_can_be_used(client)


def test_each_rotation_is_asked_for_anew(
    server: PostgresServer, vault: Vault, new_client: NewClient
) -> None:
    """The answer to an earlier refusal is never tried in place of a new question."""
    client = new_client(vault.url, pool_size=1, min_size=1)
    vault.rotate("second")
    write(client, uuid4(), "execute")
    # The cache moves on by itself, and is old again when the next rotation comes.
    vault.cached = "third"
    vault.rotate("fourth")
    before = failed_logins(server)
    write(client, uuid4(), "execute")
    assert vault.asked_afresh == 2
    assert failed_logins(server) == before + 1


def test_a_password_that_is_wrong_for_good_is_tried_once_for_each_value(
    server: PostgresServer, vault: Vault, new_client: NewClient
) -> None:
    """A value that was refused a moment ago is not tried again; no password is shown."""
    client = new_client(vault.url, pool_size=2, min_size=2)
    vault.rotate("unknown to the store")
    vault.actual = "wrong as well"
    for attempts in (2, 0):
        # The second call gets the cached value, and afresh the same one: no login at all.
        before = failed_logins(server)
        with at_most(2.0), pytest.raises(PostgresConnectionError) as caught:
            write(client, uuid4(), "execute")
        assert failed_logins(server) == before + attempts
        assert caught.value.reason == "login"
        assert "rotate the secret" in str(caught.value)
        assert "wrong as well" not in f"{caught.value!r} {caught.value.__cause__!r}"
    with ThreadPoolExecutor(8) as threads:
        before = failed_logins(server)

        def call(_: int) -> None:
            with pytest.raises(PostgresConnectionError):
                client.execute("SELECT 1", user_id=USER)

        list(threads.map(call, range(8)))
    assert failed_logins(server) - before <= 1
    # The store learns the right one: the next call works, with no back-off in its way.
    vault.actual = "unknown to the store"
    with at_most(1.0):
        write(client, uuid4(), "execute")


@pytest.mark.parametrize("callable_url", [True, False], ids=["callable", "text"])
def test_a_wrong_password_ends_the_constructor_at_once(
    server: PostgresServer, *, callable_url: bool
) -> None:
    """One value means one login, whether it is a text or a callable that has no other."""
    url = server.url("crm_user", "no such password")
    before = failed_logins(server)
    with at_most(2.0), pytest.raises(PostgresConnectionError) as caught:
        PostgresClient((lambda: url) if callable_url else url)
    assert failed_logins(server) == before + 1
    assert "no such password" not in str(caught.value)


def test_a_role_that_bypasses_rls_is_refused_when_a_callable_returns_it_later(
    server: PostgresServer, new_client: NewClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at construction alone: no call runs as it, and the right role is served again."""
    role = "crm_user"
    query = "SELECT current_user AS role"
    client = new_client(lambda: server.url(role, "secret"), pool_size=2)
    lenient = new_client(
        lambda: server.url(role, "secret"), pool_size=3, min_size=1, on_rls_bypass="warn"
    )
    role = "crm_admin"
    with superuser(server) as conn:
        kill_sessions(conn)

    for _ in range(3):
        with pytest.raises(RlsContextError, match="crm_admin has BYPASSRLS; fix it with"):
            client.execute(query, user_id=USER)
        with pytest.raises(RlsContextError, match="crm_admin has BYPASSRLS; fix it with"):
            client.connection(USER).__enter__()
    assert client.stats()["size"] == 0
    assert lenient.execute(query, user_id=USER) == [{"role": "crm_admin"}]
    # Once for all connections of that role: no later one pays for the question.
    all_places_can_be_used(lenient)
    # The first session of another user lets all that are older go, and itself with them.
    assert lenient.stats()["connects"] == 5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    role = "crm_user"
    assert client.execute(query, user_id=USER) == [{"role": "crm_user"}]
    all_places_can_be_used(client)


def test_a_rotation_to_another_user_leaves_the_dropped_one_behind(
    server: PostgresServer, new_client: NewClient
) -> None:
    """A dropped user's sessions go on without rights: one call tells, the next has the new user."""
    users = {"stored": "app_a"}

    def url(*, use_cache: bool = True) -> str:
        del use_cache
        return server.url(users["stored"], "secret")

    with superuser(server) as conn:
        for user in ("app_a", "app_b"):
            conn.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'secret' IN ROLE crm_user")
        try:
            client = new_client(url, pool_size=4, min_size=4)
            write(client, uuid4(), "execute")
            users["stored"] = "app_b"
            conn.execute("DROP ROLE app_a")
            with pytest.raises(PostgresError) as caught:
                write(client, uuid4(), "execute")
            assert caught.value.sqlstate in {"42501", "42704"}

            write(client, uuid4(), "execute")
            assert client.execute_scalar("SELECT session_user::text", user_id=USER) == "app_b"
            client.close()
        finally:
            conn.execute("DROP ROLE IF EXISTS app_a")
            conn.execute("DROP ROLE IF EXISTS app_b")


@pytest.mark.parametrize(
    "url_from",
    [
        lambda vault: lambda: vault.get_database_url(path="crm/database"),
        lambda vault: lambda: vault.get_secret("crm/database")["url"],
        lambda vault: lambda **_: vault.get_database_url(),
        lambda vault: vault.get_database_url,
    ],
    ids=["plain", "of a secret", "passes nothing on", "the method"],
)
def test_a_callable_of_any_shape_follows_a_rotation(
    rotation_lab: RotationLab, url_from: Callable[[VaultClient], Callable[..., str]]
) -> None:
    """What it reads after a refused login is read past the cache of secrets."""
    lab = rotation_lab
    with (
        VaultClient(environ=lab.environ(lab.role())) as secrets,
        PostgresClient(url_from(secrets), 1, min_size=1) as client,
    ):
        before = secrets.cache_stats()["misses"]
        lab.store_postgres(lab.set_postgres())
        with superuser(lab.postgres) as conn:
            kill_sessions(conn)

        assert client.execute_scalar("SELECT 1", user_id=uuid4()) == 1
        assert secrets.cache_stats()["misses"] == before + 1
        # From here on the cache holds the new one, and is read again.
        assert secrets.get_database_url()
        assert secrets.cache_stats()["misses"] == before + 1
