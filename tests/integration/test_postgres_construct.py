"""Construction: a client that works, or the real reason at once, with nothing left behind."""

from __future__ import annotations

import logging
import pickle
import re
import socket
import time
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest

from clients.errors import (
    ConfigurationError,
    PostgresConnectionError,
    PostgresError,
    RlsContextError,
    VaultError,
)
from clients.postgres_client import PostgresClient
from tests.postgres_helpers import nothing_left_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from utils._stack.postgres import PostgresServer
    from utils.local_stack import StackEndpoints

PASSWORD = "hunter2-geheim"


def fails(
    caplog: pytest.LogCaptureFixture, kind: type[Exception], url: Any, **settings: Any
) -> tuple[PostgresError, float]:
    """Return the error that construction ends with and its duration; check what it leaves."""
    with nothing_left_behind(caplog):
        started = time.monotonic()
        with pytest.raises(kind) as caught:
            PostgresClient(url, **settings)
        waited = time.monotonic() - started
        assert isinstance(caught.value, PostgresError)
        shown = "".join(traceback.format_exception(caught.value))
        if kind is PostgresConnectionError:  # error reporters collect local variables
            told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            shown += "".join(frame for frame in told.format() if __file__ not in frame)
        shown += repr(caught.value) + str(pickle.dumps(caught.value)) + repr(vars(caught.value))
        for form in (PASSWORD, quote(PASSWORD, safe="")):
            assert form not in shown
    # The error is still held here, with its cause: not even that keeps a socket open.
    return caught.value, waited


@contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield listener.getsockname()[1]


def test_a_refused_port_fails_at_once(caplog: pytest.LogCaptureFixture, closed_port: int) -> None:
    """Within a second, with libpq's words and the address."""
    error, waited = fails(
        caplog, PostgresConnectionError, f"postgresql://u:{PASSWORD}@127.0.0.1:{closed_port}/crm"
    )

    assert "Connection refused" in str(error)
    assert f"127.0.0.1:{closed_port}/crm as u" in str(error)
    assert "check that the server runs" in str(error)
    assert isinstance(error.__cause__, psycopg.OperationalError)
    assert waited < 1


def test_a_wrong_password_fails_at_once(
    own_postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Within a second, with the server's words, after one attempt: more could lock the account."""
    error, waited = fails(
        caplog, PostgresConnectionError, own_postgres.url("crm_user", PASSWORD), min_size=4
    )

    assert "password authentication failed" in str(error)
    assert "check the user and the password" in str(error)
    assert waited < 1


@pytest.mark.parametrize(
    ("user", "dbname", "words"),
    [
        ("crm_user", "nodb", 'database "nodb" does not exist'),
        ("nobody", "crm", "password authentication failed"),
    ],
)
def test_a_wrong_name_fails_with_the_servers_words(
    own_postgres: PostgresServer,
    caplog: pytest.LogCaptureFixture,
    user: str,
    dbname: str,
    words: str,
) -> None:
    """Database and user are told apart as the server tells them."""
    error, waited = fails(caplog, PostgresConnectionError, own_postgres.url(user, "secret", dbname))

    assert words in str(error)
    assert waited < 1


def test_an_unknown_host_fails_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """The resolver's reason is in the message."""
    error, _ = fails(
        caplog, PostgresConnectionError, f"postgresql://u:{PASSWORD}@nosuch.invalid/crm"
    )

    assert "nosuch.invalid" in str(error)
    assert "resolve" in str(error) or "translate" in str(error)


@pytest.mark.parametrize("min_size", [1, 4])
def test_a_server_that_never_answers_costs_connect_timeout(
    caplog: pytest.LogCaptureFixture, min_size: int
) -> None:
    """Not less, not much more, and not once for each connection of the pool."""
    with black_hole() as port:
        error, waited = fails(
            caplog,
            PostgresConnectionError,
            f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/crm",
            connect_timeout=2.0,
            min_size=min_size,
        )

    assert "timeout" in str(error)
    assert "raise connect_timeout" in str(error)
    assert 1.9 <= waited < 4


def test_a_server_of_another_protocol_is_named(
    stack: StackEndpoints, caplog: pytest.LogCaptureFixture
) -> None:
    """A Valkey or Vault at the address is a connection error, not a hang."""
    port = stack.valkey_url.rpartition(":")[2].split("/")[0]
    error, waited = fails(
        caplog,
        PostgresConnectionError,
        f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/crm",
        connect_timeout=2.0,
    )

    assert f"127.0.0.1:{port}" in str(error)
    assert waited < 4


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        None,
        7,
        b"postgresql://u@h/d",
        "http://u:{p}@h/d",
        "postgresql+psycopg://u:{p}@h/d",
        "postgresql://u:{p}@x@127.0.0.1/d",
        "postgresql://u:{p}/x@127.0.0.1/d",
        "postgresql://u:{p}?x@127.0.0.1/d",
        "postgresql://u:{p}#x@127.0.0.1/d",
        "postgresql://u:{p} x@127.0.0.1/d",
        "postgresql://u:{p}%zz@127.0.0.1/d",
        "postgresql://u:{p}@127.0.0.1:{p}/d",
        "postgresql://u:{p}@[127.0.0.1/d",
        "host=127.0.0.1 password={p} x",
        "{p}",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(
    caplog: pytest.LogCaptureFixture, closed_port: int, url: Any
) -> None:
    """Before anything is opened, as a ConfigurationError that names the parameter."""
    given = url.replace("{p}", PASSWORD) if isinstance(url, str) else url
    for settings in ({}, {"admin_url": given}):
        target = given if not settings else f"postgresql://u@127.0.0.1:{closed_port}/d"
        if not settings or given is not None:
            error, waited = fails(
                caplog,
                ConfigurationError if not settings else PostgresError,
                target,
                **settings,
            )
            assert waited < 1
    error, _ = fails(caplog, ConfigurationError, given)

    assert "connection_url" in str(error)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("pool_size", [0, -1, 1.5, True, "10", None]),
        ("min_size", [-1, 0.5, False, "2", None]),
        ("connect_timeout", [0, -1, float("nan"), float("inf"), "5", True, None]),
        ("pool_timeout", [-0.1, float("nan"), "5", None]),
        ("statement_timeout", [-1, float("inf"), "30", None]),
        ("on_rls_bypass", ["", "Error", None, True]),
    ],
)
def test_unusable_numbers_are_refused_by_name(
    caplog: pytest.LogCaptureFixture, closed_port: int, name: str, bad: list[Any]
) -> None:
    """The message has the name and the value, and nothing is opened."""
    for value in bad:
        error, _ = fails(
            caplog, ConfigurationError, f"postgresql://u@127.0.0.1:{closed_port}/d", **{name: value}
        )

        assert f"{name} is {value!r}" in str(error)


@pytest.mark.parametrize("which", ["superuser", "bypassing role"])
def test_a_bypassing_role_is_refused(
    own_postgres: PostgresServer, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    """The connections made for the check are closed again; the mend is in the message."""
    url = own_postgres.url() if which == "superuser" else own_postgres.url("crm_admin", "secret")
    error, _ = fails(caplog, RlsContextError, url, min_size=3)

    assert "row-level security does not bind" in str(error)
    assert "fix it with" in str(error)
    assert re.search(r"\w; or connect as another role$", str(error))


@pytest.mark.parametrize(("choice", "lines"), [("warn", 1), ("ignore", 0)])
def test_a_bypassing_role_can_be_let_through(
    own_postgres: PostgresServer, caplog: pytest.LogCaptureFixture, choice: Any, lines: int
) -> None:
    """With one line in the log, or none."""
    url = own_postgres.url("crm_admin", "secret")
    with (
        caplog.at_level(logging.DEBUG, "clients"),
        PostgresClient(url, 1, on_rls_bypass=choice) as client,
    ):
        assert client.health_check()

    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == lines
    assert all("crm_admin" in message and "secret" not in message for message in messages)


def test_a_wrong_admin_url_closes_the_rest(
    own_postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The application's connections do not stay when the administrator's cannot be had."""
    error, _ = fails(
        caplog,
        PostgresConnectionError,
        own_postgres.url("crm_user", "secret"),
        admin_url=own_postgres.url("crm_admin", PASSWORD),
        min_size=3,
    )

    assert "as crm_admin" in str(error)


def test_min_size_connections_are_there_from_the_start(stack: StackEndpoints) -> None:
    """They are made at construction, no more than pool_size, and closed again by close()."""
    for pool_size, min_size, expected in ((4, 3, 3), (2, 5, 2), (3, 0, 1)):
        with PostgresClient(stack.database_url, pool_size, min_size=min_size) as client:
            stats = client.stats()
            assert (stats["size"], stats["idle"], stats["connects"]) == (expected,) * 3
        assert client.stats()["size"] == 0


def test_a_client_leaves_nothing_when_it_closes(
    stack: StackEndpoints, caplog: pytest.LogCaptureFixture
) -> None:
    """No thread, no socket, no log line; neither after work nor after none."""
    with (
        nothing_left_behind(caplog),
        PostgresClient(stack.database_url, admin_url=stack.admin_url) as client,
    ):
        client.execute("SELECT 1", user_id=uuid4())
        client.execute_admin("SELECT 1")


def test_a_callable_url_is_asked_for_each_connection(stack: StackEndpoints) -> None:
    """Rotated credentials reach the next connection."""
    asked: list[str] = []

    def url() -> str:
        asked.append("url")
        return stack.database_url

    with PostgresClient(url, 3, min_size=1) as client:
        with client.connection(uuid4()), client.admin_connection():
            pass
        client.execute("SELECT 1", user_id=uuid4())

    assert len(asked) == 2


@pytest.mark.parametrize("takes_use_cache", [True, False])
def test_a_callable_url_is_asked_again_when_the_login_is_refused(
    own_postgres: PostgresServer, *, takes_use_cache: bool
) -> None:
    """Once, past its cache where it has one; what it gives then is used."""
    stale, fresh = own_postgres.url("crm_user", "old"), own_postgres.url("crm_user", "secret")
    calls: list[Any] = []

    def cached(use_cache: bool = True) -> str:  # noqa: FBT001, FBT002 - as callers write it
        calls.append(use_cache)
        return stale if use_cache else fresh

    def plain() -> str:
        calls.append(None)
        return stale if len(calls) == 1 else fresh

    with PostgresClient(cached if takes_use_cache else plain, 1) as client:
        assert client.execute_scalar("SELECT 1", user_id=uuid4()) == 1
    assert calls == ([True, False] if takes_use_cache else [None, None])


def test_a_callable_url_that_has_nothing_better_fails_with_the_reason(
    own_postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The refused credential is not tried twice."""
    calls = []

    def url(use_cache: bool = True) -> str:  # noqa: FBT001, FBT002 - as callers write it
        calls.append(use_cache)
        return own_postgres.url("crm_user", PASSWORD)

    error, _ = fails(caplog, PostgresConnectionError, url)

    assert "password authentication failed" in str(error)
    assert calls == [True, False]


@pytest.mark.parametrize("answer", [None, 7, "", "http://x", str, lambda: "x"])
def test_a_callable_url_that_returns_no_url_is_a_configuration_error(
    caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    """None is an answer for admin_url alone."""
    error, _ = fails(caplog, ConfigurationError, lambda: answer)

    assert "connection_url" in str(error)


def test_a_callable_urls_own_error_comes_out(stack: StackEndpoints) -> None:
    """A Vault that is sealed is reported by Vault's error, not covered by ours."""

    def url() -> str:
        raise VaultError("sealed")

    makers: list[Callable[[], object]] = [
        lambda: PostgresClient(url),
        lambda: PostgresClient(stack.database_url, admin_url=url),
    ]
    for make in makers:
        with pytest.raises(VaultError, match="sealed"):
            make()


def test_an_admin_url_that_is_none_means_the_same_role(stack: StackEndpoints) -> None:
    """Given as None, or by a callable that returns None."""
    for admin_url in (None, lambda: None):
        with PostgresClient(stack.database_url, 1, admin_url=admin_url) as client:
            who = client.execute_admin("SELECT current_user::text AS who")
            assert who == client.execute("SELECT current_user::text AS who", user_id=uuid4())


def test_a_client_shows_no_password_and_cannot_be_pickled(own_postgres: PostgresServer) -> None:
    """Its repr says where it goes, and a copy would share sockets."""
    with PostgresClient(own_postgres.url("crm_user", "secret"), 1) as client:
        assert "crm_user" in repr(client)
        assert "secret" not in repr(client) + str(client)
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(client)


def test_an_awkward_application_name_still_marks_the_block(stack: StackEndpoints) -> None:
    """Quotes, backslashes and more characters than the server keeps."""
    url = stack.database_url
    for name in ('it\'s \\ "odd"', "x" * 90, "\u00e4\u4e16", ""):
        named = f"{url}{'&' if '?' in url else '?'}application_name={quote(name, safe='')}"
        with (
            PostgresClient(named, 1) as client,
            client.connection(uuid4()) as conn,
        ):
            assert conn.execute("SELECT 1 AS a").fetchall() == [{"a": 1}]
            marker = conn._use.state.session.pgconn.parameter_status(b"application_name")
            assert (marker or b"").endswith(b"[failfast block]")
