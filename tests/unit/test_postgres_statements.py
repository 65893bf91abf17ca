"""Which statements execute() refuses, and which only look like them."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import sql

from clients._postgres.statements import refuse_unsuitable
from clients.errors import PostgresError

REFUSED = {
    "BEGIN": "connection()",
    "begin;": "connection()",
    "START TRANSACTION READ ONLY": "connection()",
    "COMMIT": "connection()",
    "Commit And Chain": "connection()",
    "END": "connection()",
    "ABORT": "connection()",
    "ROLLBACK TO x": "connection()",
    "SAVEPOINT x": "connection()",
    "RELEASE x": "connection()",
    "PREPARE TRANSACTION 'x'": "connection()",
    "COPY t FROM STDIN": "execute_many()",
    "copy (select 1) to stdout": "conn.cursor().copy()",
    "VACUUM": "autocommit",
    "vacuum full t": "autocommit",
    "ALTER SYSTEM SET x = 1": "autocommit",
    "CREATE DATABASE x": "autocommit",
    "DROP  DATABASE\n x": "autocommit",
    "CREATE INDEX CONCURRENTLY i ON t (a)": "autocommit",
    "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)": "autocommit",
    "DROP INDEX CONCURRENTLY i": "autocommit",
    "REINDEX DATABASE x": "autocommit",
    "LISTEN ch": "session",
    "DISCARD ALL": "session",
    "-- a comment\nBEGIN": "connection()",
    "--\n--\n\t /* one */ /* two\nlines */ BEGIN": "connection()",
    "/**/COMMIT": "connection()",
    "ROLLBACK/* now */": "connection()",
    "/* a /* b */ c */ PREPARE TRANSACTION 'x'": "connection()",
    "/*/**/*//* x */; /*/*/**/*/*/ LISTEN ch": "session",
    "CREATE /* x */ INDEX -- y\n CONCURRENTLY i ON t (a)": "autocommit",
    ";; BEGIN": "connection()",
    "\ufeffBEGIN".lstrip("\ufeff"): "connection()",
}

SUITABLE = [
    "",
    "   ",
    "-- BEGIN",
    "/* COMMIT */",
    "/* COMMIT",
    "/* /* */ COMMIT",
    "SELECT 1",
    "select 'BEGIN'",
    "SELECT $$COMMIT$$",
    "beginning",
    "begin_work()",
    "committed",
    "WITH x AS (SELECT 1) SELECT * FROM x",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN (ANALYZE) DELETE FROM t",
    "(SELECT 1) UNION (SELECT 2)",
    "VALUES (1)",
    "TABLE t",
    "PREPARE p AS SELECT 1",
    "CREATE INDEX i ON t (a)",
    "CREATE INDEX concurrently_made ON t (a)",
    'CREATE INDEX "concurrently" ON t (a)',
    "CREATE TABLE database (a int)",
    "DROP INDEX i",
    "ALTER TABLE t ADD a int",
    "SET LOCAL work_mem = '1MB'",
    "NOTIFY ch",
    "LOCK t",
    "DO $$ BEGIN PERFORM 1; END $$",
    "CALL p()",
    "INSERT INTO begin VALUES (1)",
]


@pytest.mark.parametrize("query", REFUSED)
@pytest.mark.parametrize("form", [str, str.encode, sql.SQL])
def test_refused_with_what_to_use(query: str, form: Any) -> None:
    """Whatever its case, comments and form; the message names the method and the mend."""
    with pytest.raises(PostgresError) as caught:
        refuse_unsuitable(form(query), "execute_one")

    assert "cannot run in execute_one(): " in str(caught.value)
    assert REFUSED[query] in str(caught.value)


@pytest.mark.parametrize("query", SUITABLE)
@pytest.mark.parametrize("form", [str, str.encode, sql.SQL])
def test_not_refused(query: str, form: Any) -> None:
    """What only looks like one of those runs."""
    refuse_unsuitable(form(query), "execute")


def test_bytes_in_another_encoding_are_looked_at_too() -> None:
    """A text that is no UTF-8 is the server's to judge, but not its first word."""
    refuse_unsuitable(b"SELECT '\xff'", "execute")
    with pytest.raises(PostgresError):
        refuse_unsuitable(b"/* \xff */ COMMIT", "execute")


@pytest.mark.parametrize("form", [str, str.encode, sql.SQL])
def test_a_nul_is_refused_anywhere(form: Any) -> None:
    """Libpq would cut the text there."""
    with pytest.raises(PostgresError, match="NUL"):
        refuse_unsuitable(form("SELECT 1\0"), "execute")


def test_long_texts_cost_little() -> None:
    """A large INSERT, many comments or an open comment is looked at once, from the front."""
    refuse_unsuitable("INSERT INTO t VALUES " + "(1)," * 1_000_000, "execute")
    refuse_unsuitable("/* x */ " * 100_000 + "SELECT 1", "execute")
    refuse_unsuitable("/*" + "*" * 1_000_000, "execute")
    refuse_unsuitable("-" * 1_000_000, "execute")
