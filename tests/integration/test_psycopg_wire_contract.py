"""How psycopg and the server behave on the wire, where we lean on more than their manuals say.

When one of these fails after an upgrade, read clients/_postgres/session.py and transaction_sql.py.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from utils.local_stack import StackEndpoints


@pytest.fixture(scope="module")
def conn(stack: StackEndpoints) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(stack.database_url, autocommit=True) as made:
        yield made


def read(pgconn: pq.abc.PGconn) -> pq.abc.PGresult | None:
    """Return the next result, waiting for it as the batch does."""
    while pgconn.is_busy():
        select.select([pgconn.socket], [], [], 10)
        pgconn.consume_input()
    return pgconn.get_result()


def test_a_flight_of_statements_is_sent_and_read(conn: psycopg.Connection[Any]) -> None:
    """Pipeline calls on pgconn: results in order, None between them, and a mark at the end."""
    pgconn = conn.pgconn
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(b"SELECT 1 AS a", None)
    pgconn.send_query_params(b"SELECT $1::int AS b", [b"2"])
    pgconn.pipeline_sync()
    while pgconn.flush():
        select.select([], [pgconn.socket], [], 10)
    results = [read(pgconn) for _ in range(5)]
    pgconn.exit_pipeline_mode()

    assert [None if one is None else one.status for one in results] == [
        ExecStatus.TUPLES_OK,
        None,
        ExecStatus.TUPLES_OK,
        None,
        ExecStatus.PIPELINE_SYNC,
    ]
    assert pgconn.transaction_status == pq.TransactionStatus.IDLE


def test_discard_all_can_lead_a_flight_and_end_it(conn: psycopg.Connection[Any]) -> None:
    """PostgreSQL refuses it in a transaction, and takes it before BEGIN and behind COMMIT."""
    pgconn = conn.pgconn
    pgconn.enter_pipeline_mode()
    statements = [b"DISCARD ALL", b"BEGIN", b"SELECT 1", b"COMMIT", b"DISCARD ALL"]
    for statement in statements:
        pgconn.send_query_params(statement, None)
    pgconn.pipeline_sync()
    while pgconn.flush():
        select.select([], [pgconn.socket], [], 10)
    tags = []
    while True:
        result = read(pgconn)
        if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
            break
        if result is not None:
            tags.append(result.command_status)
    pgconn.exit_pipeline_mode()

    assert tags == statements


def test_a_result_becomes_python_values(conn: psycopg.Connection[Any]) -> None:
    """Transformer loads the rows of a bare result through our own function."""
    result = conn.pgconn.exec_(b"SELECT 1 AS a, true AS b UNION ALL SELECT 2, NULL ORDER BY 1")
    transformer = Transformer(conn)
    transformer.set_pgresult(result)

    assert transformer.load_rows(0, result.ntuples, list) == [[1, True], [2, None]]
    assert transformer.encoding == "utf-8"
    assert [result.fname(i) for i in range(result.nfields)] == [b"a", b"b"]


def test_a_failed_result_becomes_psycopgs_error(conn: psycopg.Connection[Any]) -> None:
    """With the class, SQLSTATE and severity that we look at."""
    result = conn.pgconn.exec_(b"SELECT 1/0")
    error = error_from_result(result, encoding="utf-8")

    assert isinstance(error, psycopg.errors.DivisionByZero)
    assert (error.sqlstate, error.diag.severity_nonlocalized) == ("22012", "ERROR")
    assert error.diag.message_primary == "division by zero"


def test_the_server_reports_the_application_name(conn: psycopg.Connection[Any]) -> None:
    """Set locally, it changes back by itself at the end of its transaction, however that ends."""
    pgconn = conn.pgconn
    before = pgconn.parameter_status(b"application_name")
    for end in ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN"):
        conn.execute("BEGIN")
        conn.execute("SELECT set_config('application_name', 'marked', true)")
        assert pgconn.parameter_status(b"application_name") == b"marked"
        conn.execute(end.encode())
        assert pgconn.parameter_status(b"application_name") == before
        conn.execute("ROLLBACK")


def test_a_transaction_object_does_nothing_by_itself(conn: psycopg.Connection[Any]) -> None:
    """Unlike conn.transaction(), one that is dropped in mid-block sends nothing."""
    conn.execute("BEGIN")
    transaction = psycopg.Transaction(conn, None, False)  # noqa: FBT003 - as we call it
    transaction.__enter__()
    conn.execute("SET LOCAL app.probe = 'set'")
    del transaction
    row = conn.execute("SELECT current_setting('app.probe')").fetchone()
    conn.execute("ROLLBACK")

    assert row == ("set",)
    conn._num_transactions = 0
