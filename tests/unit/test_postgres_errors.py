"""Every error of psycopg has one of ours, and nothing in it shows a password."""

from __future__ import annotations

import inspect
import re
from typing import Any

import psycopg
import pytest

from clients._postgres import errors, startup
from clients._postgres.errors import (
    connect_error,
    is_connection_loss,
    is_read_only,
    lost_error,
    statement_error,
    was_terminated_by_server,
)
from clients._postgres.settings import Target
from clients._postgres.startup import StartupError
from clients._shared.secrecy import Masked
from clients.errors import PostgresConnectionError, PostgresError

TARGET = Target("db.example:5432/crm as u", Masked("hunter2"))


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
        connect_error(StartupError(str(error)), TARGET, 1.0),
    ]

    assert all("hunter2" not in str(one) for one in ours)
    assert all("no route to" in str(one) for one in ours)


def test_an_error_without_words_says_its_class() -> None:
    """No message is empty."""
    assert "OperationalError" in str(statement_error(psycopg.OperationalError(), "x", TARGET))
    assert "StartupError" in str(connect_error(StartupError(), TARGET, 1.0))


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("login", "check the user and the password"),
        ("refused", "check that the server runs"),
        ("lost", "check that the server runs"),
        ("timeout", "raise connect_timeout"),
        ("database", "check the name of the database"),
        ("exhausted", "lower pool_size"),
        ("resources", "file descriptors"),
        ("tls", "sslpassword"),
    ],
)
def test_a_failed_connect_says_how_to_fix_it(reason: str, fix: str) -> None:
    """By its reason, whatever the words are."""
    ours = connect_error(StartupError("Unfug", reason, "00XXX"), TARGET, 1.234)

    assert str(ours).startswith(
        "cannot connect to PostgreSQL at db.example:5432/crm as u after 1.23 s: Unfug; "
    )
    assert fix in str(ours)
    assert (ours.reason, ours.sqlstate) == (reason, "00XXX")


def test_an_error_of_a_session_that_goes_on_is_no_loss() -> None:
    """A foreign server that a statement could not reach is not this one."""
    foreign = psycopg.errors.SqlclientUnableToEstablishSqlconnection
    fields: Any = {ord("C"): b"08001", ord("M"): b"Unfug", ord("V"): b"ERROR"}
    goes_on = foreign("Unfug", info=fields)
    ended = foreign("Unfug", info={**fields, ord("V"): b"FATAL"})

    assert not is_connection_loss(goes_on)
    assert is_connection_loss(ended)
    assert is_connection_loss(foreign("Unfug"))


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


def test_every_reason_of_a_failed_connection_is_documented() -> None:
    """The set is closed: a program may compare with it."""
    told = set(re.findall(r"``(\w+)``", PostgresConnectionError.__doc__ or ""))
    used = {*errors._FIXES, *startup._LEAST_TELLING, "settings", "server", "session"}
    used |= {reason for _, reason in startup._REASONS}

    assert told - {"reason", "sqlstate"} == used


def test_the_kinds_are_told_apart() -> None:
    """By class and SQLSTATE."""
    assert is_read_only(psycopg.errors.ReadOnlySqlTransaction())
    assert not is_read_only(psycopg.errors.DivisionByZero())
    assert is_connection_loss(psycopg.OperationalError("gone"))
    assert not is_connection_loss(psycopg.ProgrammingError("mistake"))


def test_a_farewell_that_names_no_function_of_the_server_is_a_poolers() -> None:
    """A pooler may say the server's words while the answer to a statement that ran is lost."""
    assert not was_terminated_by_server(psycopg.errors.AdminShutdown("terminating connection"))
