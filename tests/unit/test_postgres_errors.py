"""Every error of psycopg has one of ours, and nothing in it shows a password."""

from __future__ import annotations

import inspect

import psycopg
import pytest

from clients._postgres.errors import (
    connect_error,
    is_connection_loss,
    is_login_refusal,
    is_read_only,
    is_refused,
    is_starting,
    lost_error,
    statement_error,
    was_terminated_by_server,
)
from clients._postgres.settings import Target
from clients.errors import PostgresConnectionError, PostgresError

TARGET = Target("db.example:5432/crm as u", "hunter2")


def all_errors() -> list[type[psycopg.Error]]:
    """Return psycopg's base classes and its class for each SQLSTATE."""
    return [
        value
        for value in vars(psycopg.errors).values()
        if inspect.isclass(value) and issubclass(value, psycopg.Error)
    ] + list(psycopg.errors._sqlcodes.values())


# https://www.postgresql.org/docs/18/errcodes-appendix.html: the session is gone after these.
LOST = {"57P01", "57P02", "57P03", "57P05", "25P03", "25P04"}


def test_the_mapping_is_total() -> None:
    """Each class maps to PostgresError with its SQLSTATE; a lost session to its subclass."""
    for kind in all_errors():
        _is_mapped(kind)


def _is_mapped(kind: type[psycopg.Error]) -> None:
    error = kind("server's words")
    ours = statement_error(error, "execute()", TARGET)

    assert type(ours) in {PostgresError, PostgresConnectionError}
    assert ours.sqlstate == error.sqlstate
    assert "execute() failed: server's words" in str(ours)
    state = error.sqlstate
    if state is not None:
        assert f"(SQLSTATE {state})" in str(ours)
        lost = state in LOST or state.startswith("08")
        assert isinstance(ours, PostgresConnectionError) is lost
    else:
        assert isinstance(ours, PostgresConnectionError) is issubclass(
            kind, psycopg.OperationalError
        )


def test_there_are_many_of_them() -> None:
    """The walk sees psycopg's whole table."""
    states = {kind.sqlstate for kind in all_errors()}

    assert len(states) > 250
    assert states >= LOST


def test_no_text_shows_the_password() -> None:
    """Neither the password itself nor a URL that holds it."""
    error = psycopg.OperationalError(
        "no route to postgresql://u:hunter2@db.example/crm (hunter2, password=hunter2)"
    )
    ours = [
        statement_error(error, "execute()", TARGET),
        lost_error(error, "execute()", TARGET, maybe_applied=True),
        connect_error(error, TARGET, 1.0),
    ]

    assert all("hunter2" not in str(one) for one in ours)
    assert all("no route to" in str(one) for one in ours)


def test_an_error_without_words_says_its_class() -> None:
    """No message is empty."""
    assert "OperationalError" in str(statement_error(psycopg.OperationalError(), "x", TARGET))
    assert "OperationalError" in str(connect_error(psycopg.OperationalError(), TARGET, 1.0))


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ('FATAL:  password authentication failed for user "u"', "check the user and the password"),
        ("fe_sendauth: no password supplied", "check the user and the password"),
        ('FATAL:  role "u" is not permitted to log in', "check the user and the password"),
        ('FATAL:  role "u" does not exist', "check the user and the password"),
        ("connection refused: Connection refused", "check that the server runs"),
    ],
)
def test_a_failed_connect_says_what_to_mend(words: str, mend: str) -> None:
    """The server's words, the address, the time, and what to look at."""
    ours = connect_error(psycopg.OperationalError(words), TARGET, 1.234)

    assert str(ours).startswith(
        "cannot connect to PostgreSQL at db.example:5432/crm as u after 1.2"
    )
    assert mend in str(ours)


def test_a_time_out_names_its_setting() -> None:
    """Nothing answered: the address, or the limit."""
    ours = connect_error(psycopg.errors.ConnectionTimeout("timeout expired"), TARGET, 5.0)

    assert "raise connect_timeout" in str(ours)


def test_lost_says_whether_anybody_knows() -> None:
    """A statement whose answer is lost may have run: no invitation to repeat it."""
    gone = psycopg.OperationalError("gone")
    sent = lost_error(gone, "execute()", TARGET, maybe_applied=True)
    unsent = lost_error(gone, "execute()", TARGET, maybe_applied=False)

    assert isinstance(sent, PostgresConnectionError)
    assert "may or may not have taken effect" in str(sent)
    assert "Nothing was committed" in str(unsent)
    assert (sent.maybe_applied, unsent.maybe_applied) == (True, False)
    assert sent.reason == "lost"


def test_the_kinds_are_told_apart() -> None:
    """One text is one kind."""
    refused = psycopg.OperationalError("Connection refused")
    starting = psycopg.OperationalError("FATAL:  the database system is starting up")
    login = psycopg.OperationalError("FATAL:  password authentication failed")
    missing = psycopg.OperationalError('FATAL:  database "x" does not exist')
    kinds = [
        (is_refused(one), is_starting(one), is_login_refusal(one))
        for one in (refused, starting, login, missing)
    ]

    assert kinds == [(True, False, False), (False, True, False), (False, False, True), (False,) * 3]
    assert is_read_only(psycopg.errors.ReadOnlySqlTransaction())
    assert not is_read_only(psycopg.errors.DivisionByZero())
    assert is_connection_loss(psycopg.OperationalError("gone"))
    assert not is_connection_loss(psycopg.ProgrammingError("mistake"))


def test_a_farewell_that_names_no_function_of_the_server_is_a_poolers() -> None:
    """A pooler may say the server's words while the answer to a statement that ran is lost."""
    assert not was_terminated_by_server(psycopg.errors.AdminShutdown("terminating connection"))
