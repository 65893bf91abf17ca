"""No behaviour depends on the words of a message: of the server, of libpq, or of the system.

The rotations, restarts and refusals of the other files run again here, on a server that speaks
German, on one that speaks nonsense, and in an application whose own locale is German.
"""

from __future__ import annotations

import locale
from typing import TYPE_CHECKING, Any

import pytest

from clients.errors import PostgresConnectionError
from clients.postgres_client import PostgresClient
from tests.faults.test_postgres_restart import (  # noqa: F401 - they run again here
    test_a_restart_costs_no_idle_client_a_failed_or_slow_call,
    test_a_server_that_is_down_gives_every_thread_a_clear_error_in_time,
    test_a_server_that_is_starting_up_is_waited_for,
    test_after_a_long_outage_the_next_call_works_at_once,
    test_pg_ctl_restart_costs_no_failed_call,
)
from tests.faults.test_postgres_rotation import (  # noqa: F401 - likewise
    test_a_password_that_is_wrong_for_good_is_tried_once_for_each_value,
    test_a_rotation_costs_no_call_and_one_question,
    test_a_rotation_to_another_user_leaves_the_dropped_one_behind,
    test_a_wrong_password_ends_the_constructor_at_once,
    test_each_rotation_is_asked_for_anew,
    vault,
)
from tests.postgres_faults import superuser
from tests.translating_proxy import ForeignServer, TranslatingProxy, german, nonsense

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils._stack.postgres import PostgresServer

_GERMAN = "de_DE.UTF-8"


@pytest.fixture(
    params=[
        "a German server",
        pytest.param("a server of nonsense", marks=pytest.mark.slow),
        pytest.param("a German application", marks=[pytest.mark.german, pytest.mark.slow]),
    ]
)
def server(request: pytest.FixtureRequest, fault_server: PostgresServer) -> Iterator[Any]:
    """The fault tests' server, with words that say nothing to an English reader."""
    if request.param == "a German application":
        before = locale.setlocale(locale.LC_ALL)
        locale.setlocale(locale.LC_ALL, _GERMAN)
        try:
            yield fault_server
        finally:
            locale.setlocale(locale.LC_ALL, before)
    else:
        translate = german if "German" in request.param else nonsense
        with TranslatingProxy(fault_server.port, translate) as proxy:
            yield ForeignServer(fault_server, proxy.port)
    if not fault_server.running:
        fault_server.start()


@pytest.fixture
def roles(fault_server: PostgresServer) -> Iterator[None]:
    """Roles and a database that cannot be logged in to, each for a reason of its own."""
    with superuser(fault_server) as conn:
        conn.execute("CREATE ROLE full_up LOGIN PASSWORD 'secret' CONNECTION LIMIT 0")
        conn.execute("CREATE ROLE locked_out NOLOGIN PASSWORD 'secret'")
        conn.execute("CREATE DATABASE closed")
        conn.execute("REVOKE CONNECT ON DATABASE closed FROM public")
        yield
        conn.execute("DROP DATABASE closed")
        conn.execute("DROP ROLE full_up, locked_out")


@pytest.mark.parametrize(
    ("user", "password", "dbname", "reason", "code"),
    [
        ("crm_user", "wrong", "crm", "login", "28P01"),
        ("nobody", "secret", "crm", "login", "28P01"),
        ("locked_out", "secret", "crm", "login", "28000"),
        ("crm_user", "secret", "nosuch", "database", "3D000"),
        ("crm_user", "secret", "closed", "database", "42501"),
        ("full_up", "secret", "crm", "exhausted", "53300"),
    ],
)
def test_a_refused_connection_has_its_code_and_reason(
    server: PostgresServer,
    roles: None,
    user: str,
    password: str,
    dbname: str,
    reason: str,
    code: str,
) -> None:
    """The SQLSTATE is the server's, and what it means does not come from the words."""
    with pytest.raises(PostgresConnectionError) as caught:
        PostgresClient(server.url(user, password, dbname))

    assert (caught.value.reason, caught.value.sqlstate) == (reason, code)


def test_the_words_are_still_the_servers(fault_server: PostgresServer) -> None:
    """They are for people: nothing is cut from them, and no code is mixed in."""
    with (
        TranslatingProxy(fault_server.port, german) as proxy,
        pytest.raises(PostgresConnectionError) as caught,
    ):
        PostgresClient(ForeignServer(fault_server, proxy.port).url("crm_user", "wrong"))

    assert "FATAL: Passwort-Authentifizierung für Benutzer »crm_user« fehl" in str(caught.value)
    assert proxy.translated >= 1
