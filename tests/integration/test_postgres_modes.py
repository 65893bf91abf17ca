"""Isolation, access, time-outs, retries and preparation of connections: asked for at the call."""

from __future__ import annotations

import enum
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row
from psycopg.types.enum import EnumInfo, register_enum

from clients import (
    PostgresClient,
    PostgresConfigurationError,
    PostgresConnectionError,
    PostgresError,
)
from tests.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients import GuardedConnection
    from utils._stack.postgres import PostgresServer

ADA = UUID(int=1, version=4)
SHOW = (
    "SELECT current_setting('transaction_isolation') AS isolation,"
    " current_setting('transaction_read_only') AS read_only,"
    " current_setting('statement_timeout') AS timeout"
)


@dataclass
class Settings:
    """What SHOW returns."""

    isolation: str
    read_only: str
    timeout: str


@pytest.fixture(scope="module")
def proxy(own_postgres: PostgresServer) -> Iterator[FaultProxy]:
    """A proxy that counts round trips."""
    with FaultProxy(own_postgres.port) as relay:
        yield relay


@pytest.fixture(scope="module")
def db(own_postgres: PostgresServer, proxy: FaultProxy) -> Iterator[PostgresClient]:
    """A client whose calls the proxy counts."""
    url = own_postgres.url("crm_user", "secret").replace(
        f":{own_postgres.port}/", f":{proxy.port}/"
    )
    with PostgresClient(url, 4, admin_url=own_postgres.url("crm_admin", "secret")) as client:
        yield client


def trips(proxy: FaultProxy, call: Callable[[], object]) -> int:
    """Return the round trips of the second of two calls."""
    call()
    proxy.reset_counts()
    call()
    return proxy.round_trips


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("read_only", [None, True, False])
def test_a_block_begins_as_it_is_asked_to(
    db: PostgresClient, proxy: FaultProxy, level: Any, *, read_only: bool | None
) -> None:
    """Isolation, access and time-out ride with BEGIN, and the next borrower has none of them."""
    seen: list[Any] = []

    def block() -> None:
        with db.connection(ADA, isolation=level, read_only=read_only, timeout=7.5) as conn:
            seen.append(conn.execute(SHOW).fetchone())

    count = trips(proxy, block)

    assert seen[-1] == {
        "isolation": level,
        "read_only": "on" if read_only else "off",
        "timeout": "7500ms",
    }
    assert count == 3
    assert db.execute(SHOW, (), ADA) == [
        {"isolation": "read committed", "read_only": "off", "timeout": "30s"}
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 1),
        ({"timeout": 5.0}, 1),
        ({"row_type": dict}, None),
        # Its columns have fitted once.
        ({"row_type": Settings}, 1),
        ({"row_type": Settings, "expect": 1}, 2),
        ({"expect": 1}, 2),
        ({"expect": 1, "timeout": 5.0}, 2),
    ],
)
def test_each_argument_costs_what_its_docstring_says(
    db: PostgresClient, proxy: FaultProxy, arguments: Any, expected: int | None
) -> None:
    """A time-out is free, and an expected count costs one more round trip."""
    if expected is None:
        with pytest.raises(PostgresConfigurationError):
            db.execute(SHOW, (), ADA, **arguments)
        return

    assert trips(proxy, lambda: db.execute(SHOW, (), ADA, **arguments)) == expected


def test_the_first_call_with_a_type_costs_one_more_round_trip(
    db: PostgresClient, proxy: FaultProxy
) -> None:
    """Columns that do not fit shall commit nothing; once they have fitted they need no look."""
    fresh = make_dataclass("Fresh", ["isolation", "read_only", "timeout"])
    counts = []
    for _ in range(3):
        proxy.reset_counts()
        db.execute(SHOW, (), ADA, row_type=fresh)
        counts.append(proxy.round_trips)

    assert counts == [2, 1, 1]


def test_a_bulk_insert_is_eight_round_trips_for_any_number_of_rows(
    db: PostgresClient, proxy: FaultProxy
) -> None:
    """Rows stream, and nothing is waited for between them; a time-out costs none."""

    def insert(number: int, **arguments: Any) -> int:
        rows = [(ADA, f"{uuid.uuid4()}") for _ in range(number)]
        return trips(
            proxy, lambda: db.bulk_insert("contacts", ("user_id", "name"), rows, ADA, **arguments)
        )

    assert [insert(1), insert(5000), insert(1, timeout=20.0), insert(1, on_conflict="nothing")] == [
        8
    ] * 4


def test_a_lost_reply_is_never_followed_by_another_attempt(
    own_postgres: PostgresServer,
) -> None:
    """Nobody knows whether the COMMIT was done, so the error says it, and work ran once."""
    name, calls = f"{uuid.uuid4()}", 0

    def work(conn: GuardedConnection) -> None:
        nonlocal calls
        calls += 1
        conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, %s)", (ADA, name))

    with FaultProxy(own_postgres.port) as own:
        url = own_postgres.url("crm_user", "secret").replace(
            f":{own_postgres.port}/", f":{own.port}/"
        )
        with PostgresClient(url, 1, min_size=1) as client:
            client.run_transaction(lambda conn: conn.execute("SELECT 1"), ADA)
            own.cut_after = b"COMMIT"
            with pytest.raises(PostgresConnectionError) as caught:
                client.run_transaction(work, ADA, attempts=5)
            stored = client.execute("SELECT name FROM contacts WHERE name = %s", (name,), ADA)

    assert (calls, caught.value.maybe_applied) == (1, True)
    assert stored == [{"name": name}]


def test_a_time_out_of_one_call_ends_that_statement_alone(db: PostgresClient) -> None:
    """The server ends it; other calls keep the client's limit."""
    with pytest.raises(PostgresError) as caught:
        db.execute("SELECT pg_sleep(60)", (), ADA, timeout=0.05)

    assert caught.value.sqlstate == "57014"
    assert db.execute_one(SHOW, (), ADA) == {
        "isolation": "read committed",
        "read_only": "off",
        "timeout": "30s",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"isolation": "serialisable"},
        {"isolation": "SERIALIZABLE"},
        {"read_only": 1},
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": True},
        {"timeout": float("nan")},
    ],
)
def test_an_unusable_demand_is_refused_before_a_connection_is_taken(
    db: PostgresClient, arguments: Any
) -> None:
    """By name."""
    before = db.stats()["checkouts"]

    with pytest.raises(PostgresConfigurationError, match=next(iter(arguments))):
        db.connection(ADA, **arguments)

    assert db.stats()["checkouts"] == before


@pytest.mark.parametrize(
    "arguments", [{"isolation": "serializable"}, {"read_only": True}, {"timeout": 1.0}]
)
def test_a_part_of_a_block_cannot_ask_for_another_transaction(
    db: PostgresClient, arguments: Any
) -> None:
    """The same demands join, others are refused, and the block goes on."""
    with db.connection(ADA) as conn:
        with (
            pytest.raises(PostgresError, match=next(iter(arguments))),
            db.connection(ADA, **arguments),
        ):
            pass
        assert conn.execute("SELECT 1").fetchone()
    with db.connection(ADA, **arguments), db.connection(ADA, **arguments) as conn:
        assert conn.execute("SELECT 1").fetchone()


def test_a_read_only_block_writes_nothing(db: PostgresClient) -> None:
    """The server refuses, and no connection is given up for it."""
    connects = db.stats()["connects"]
    with (
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        db.connection(ADA, read_only=True) as conn,
    ):
        conn.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'x')", (ADA,))
    with pytest.raises(PostgresError, match="25006"), db.connection(ADA, read_only=True):
        db.bulk_insert("contacts", ["user_id", "name"], [(ADA, "x")], ADA)
    db.execute("SELECT 1", (), ADA)

    assert db.stats()["connects"] == connects
    assert db.execute("INSERT INTO contacts (user_id, name) VALUES (%s, 'x')", (ADA,), ADA) == []


def transfer(conn: GuardedConnection) -> None:
    """Move one ticket from open to closed, if the sum of both says that it may."""
    rows = conn.execute("SELECT status, count(*) AS n FROM tickets GROUP BY status").fetchall()
    counts = {row["status"]: row["n"] for row in rows}
    status = "closed" if counts.get("closed", 0) <= counts.get("open", 0) else "open"
    conn.execute(
        "INSERT INTO tickets (user_id, subject, status) VALUES (%s, 's', %s)", (ADA, status)
    )


def write_skew(db: PostgresClient, threads: int, each: int) -> dict[str, int]:
    """Run transfers that are right one after the other and wrong side by side."""
    db.execute_admin("DELETE FROM tickets")

    def work(_: int) -> None:
        for _ in range(each):
            db.run_transaction(transfer, ADA, isolation="serializable", attempts=100)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    rows = db.execute("SELECT status, count(*) AS n FROM tickets GROUP BY status", (), ADA)
    return {row["status"]: row["n"] for row in rows}


def test_serializable_transactions_are_run_again_until_they_are_right(db: PostgresClient) -> None:
    """Each of them sees the others: the two counts never differ by more than one."""
    counts = write_skew(db, 3, 6)

    assert sum(counts.values()) == 18
    assert counts["open"] == counts["closed"]


@pytest.mark.slow
def test_a_thousand_transfers_of_eight_threads_have_right_totals(
    own_postgres: PostgresServer,
) -> None:
    """The same at length."""
    with PostgresClient(
        own_postgres.url("crm_user", "secret"),
        8,
        admin_url=own_postgres.url("crm_admin", "secret"),
    ) as client:
        counts = write_skew(client, 8, 125)

    assert sum(counts.values()) == 1000
    assert counts["open"] == counts["closed"]


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_only_what_the_server_asks_to_repeat_is_repeated(db: PostgresClient, sqlstate: str) -> None:
    """The last error says how many attempts there were; work got a live connection each time."""
    seen: list[GuardedConnection] = []

    def work(conn: GuardedConnection) -> None:
        assert not conn.closed
        seen.append(conn)
        conn.execute(f"DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '{sqlstate}'; END $$")

    with pytest.raises(PostgresError, match="3 attempts") as caught:
        db.run_transaction(work, ADA)

    assert caught.value.sqlstate == sqlstate
    assert len({id(conn) for conn in seen}) == 3
    assert all(conn.closed for conn in seen)


@pytest.mark.parametrize("failure", [ValueError("mine"), KeyboardInterrupt()])
def test_what_work_raises_comes_out_and_is_not_repeated(
    db: PostgresClient, failure: BaseException
) -> None:
    """The same object, after one attempt."""
    calls: list[object] = []

    def work(conn: GuardedConnection) -> None:
        calls.append(conn)
        raise failure

    with pytest.raises(type(failure)) as caught:
        db.run_transaction(work, ADA)

    assert caught.value is failure
    assert len(calls) == 1


def test_another_sql_error_is_not_repeated(db: PostgresClient) -> None:
    """A violated constraint stays one."""
    calls: list[object] = []

    def work(conn: GuardedConnection) -> None:
        calls.append(conn)
        conn.execute("SELECT 1/0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        db.run_transaction(work, ADA)

    assert len(calls) == 1


AGAIN = "DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$"


@pytest.mark.parametrize(
    "ending",
    [
        "COMMIT",
        "END",
        "COMMIT; BEGIN",
        "END TRANSACTION; START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "COMMIT AND CHAIN",
        "COMMIT; ROLLBACK; BEGIN",
        "SAVEPOINT s; COMMIT; RESET ALL; BEGIN; SAVEPOINT s",
    ],
)
@pytest.mark.parametrize("way", ["at once", "in a savepoint", "swallowed"])
def test_what_sql_has_committed_is_not_repeated(db: PostgresClient, ending: str, way: str) -> None:
    """A COMMIT in the text ends the transaction, and the failure is another one's."""
    db.execute("DELETE FROM contacts", (), ADA)
    runs: list[int] = []
    query = f"INSERT INTO contacts (user_id, name) VALUES ('{ADA}', 'once'); {ending}; {AGAIN}"

    def work(conn: GuardedConnection) -> None:
        runs.append(1)
        if way == "swallowed":
            with suppress(psycopg.errors.SerializationFailure):
                conn.execute(query)
        else:
            with conn.transaction() if way == "in a savepoint" else nullcontext():
                conn.execute(query)

    with pytest.raises((psycopg.Error, PostgresError)):
        db.run_transaction(work, ADA)

    stored = db.execute("SELECT 1 FROM contacts WHERE name = 'once'", (), ADA)
    assert (len(runs), stored.rowcount) == (1, 1)


@pytest.mark.parametrize("ending", ["ROLLBACK; BEGIN", "ROLLBACK AND CHAIN", "SELECT 1"])
def test_what_sql_has_not_committed_is_repeated(db: PostgresClient, ending: str) -> None:
    """A ROLLBACK in the text stores nothing, so that another attempt does nothing twice."""
    runs: list[int] = []
    query = f"INSERT INTO contacts (user_id, name) VALUES ('{ADA}', 'never'); {ending}; {AGAIN}"

    def work(conn: GuardedConnection) -> None:
        runs.append(1)
        conn.execute(query)

    with pytest.raises(PostgresError, match="3 attempts"):
        db.run_transaction(work, ADA)

    assert len(runs) == 3
    assert db.execute("SELECT 1 FROM contacts WHERE name = 'never'", (), ADA) == []


def test_a_failure_at_the_commit_is_repeated_too(db: PostgresClient) -> None:
    """A write skew that the server notices at COMMIT alone."""
    db.execute_admin("DELETE FROM tickets")
    attempts: list[int] = []
    barrier = threading.Barrier(2, timeout=30)

    def work(conn: GuardedConnection) -> int:
        n: int = conn.execute("SELECT count(*) AS n FROM tickets").fetchone()["n"]
        attempts.append(n)
        conn.execute("INSERT INTO tickets (user_id, subject) VALUES (%s, 's')", (ADA,))
        if len(attempts) <= 2:
            barrier.wait()
        return n

    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(db.run_transaction, work, ADA, isolation="serializable") for _ in range(2)
        ]
        results = sorted(job.result() for job in jobs)

    assert results == [0, 1]
    assert len(attempts) == 3


def test_a_transaction_that_is_open_already_cannot_be_run_again(db: PostgresClient) -> None:
    """It is said, and the block goes on."""
    with db.connection(ADA) as conn:
        with pytest.raises(PostgresError, match="open"):
            db.run_transaction(lambda inner: inner.execute("SELECT 1"), ADA)
        assert conn.execute("SELECT 1").fetchone()


async def _later(conn: GuardedConnection) -> None:
    conn.execute("SELECT 1")


def _bit_by_bit(conn: GuardedConnection) -> Iterator[object]:
    yield conn.execute("SELECT 1")


@pytest.mark.parametrize(
    ("work", "words"),
    [(7, "work is int"), (_later, "plain function"), (_bit_by_bit, "plain function")],
)
def test_work_that_does_nothing_is_refused_before_a_connection_is_taken(
    db: PostgresClient, work: Any, words: str
) -> None:
    """What cannot be called, or would run after the transaction."""
    before = db.stats()["checkouts"]
    with pytest.raises(PostgresConfigurationError, match=words):
        db.run_transaction(work, ADA)

    assert db.stats()["checkouts"] == before


class Mood(enum.Enum):
    """An enum of the database."""

    ok = "ok"
    bad = "bad"


@pytest.fixture(scope="module")
def mood_url(own_postgres: PostgresServer) -> str:
    """A database with an enum type."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as conn:
        conn.execute("DROP TYPE IF EXISTS mood")
        conn.execute("CREATE TYPE mood AS ENUM ('ok', 'bad')")
    return own_postgres.url("crm_user", "secret")


def test_what_configure_registers_every_connection_knows(mood_url: str) -> None:
    """A type is read alike whichever connection answers."""

    def configure(conn: psycopg.Connection[Any]) -> None:
        info = EnumInfo.fetch(conn, "mood")
        assert info is not None
        register_enum(info, conn, Mood)

    with PostgresClient(mood_url, 3, configure=configure) as client:
        barrier = threading.Barrier(3, timeout=30)

        def read(_: int) -> Any:
            with client.connection(uuid4()) as conn:
                barrier.wait()
                row = conn.execute("SELECT 'ok'::mood AS mood").fetchone()
            return row["mood"], client.execute_scalar("SELECT %s::mood", (Mood.bad,), uuid4())

        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(read, range(3)))

    assert answers == [(Mood.ok, Mood.bad)] * 3


def test_what_is_registered_later_no_connection_knows(
    mood_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answer alike: those that were there before, and those that come afterwards."""
    registered = AdaptersMap(psycopg.adapters)
    monkeypatch.setattr(psycopg, "adapters", registered)
    monkeypatch.setattr(psycopg.postgres, "adapters", registered)
    with psycopg.connect(mood_url) as conn:
        info = EnumInfo.fetch(conn, "mood")
    assert info is not None
    with PostgresClient(mood_url, 3, min_size=1) as client:
        register_enum(info, None, Mood)
        barrier = threading.Barrier(3, timeout=30)

        def read(_: int) -> Any:
            with client.connection(uuid4()) as conn:
                barrier.wait()
                row = conn.execute("SELECT 'ok'::mood AS mood").fetchone()
            return row["mood"], client.execute_scalar("SELECT 'ok'::mood", (), uuid4())

        with ThreadPoolExecutor(3) as pool:
            answers = set(pool.map(read, range(3)))
        with PostgresClient(mood_url, 1) as newer:
            known = newer.execute_scalar("SELECT 'ok'::mood", (), uuid4())

    assert answers == {("ok", "ok")}
    assert known is Mood.ok


def _raises(_: object) -> None:
    raise LookupError("no such type")


def _leaves_open(conn: psycopg.Connection[Any]) -> None:
    conn.execute("BEGIN")


def _no_autocommit(conn: psycopg.Connection[Any]) -> None:
    conn.autocommit = False


def _running(*statements: str) -> Callable[[psycopg.Connection[Any]], None]:
    def configure(conn: psycopg.Connection[Any]) -> None:
        for statement in statements:
            conn.execute(statement)

    return configure


def _setting(name: str, *, value: object) -> Callable[[psycopg.Connection[Any]], None]:
    return lambda conn: setattr(conn, name, value)


def _sets_by_parameter(conn: psycopg.Connection[Any]) -> None:
    conn.cursor().execute("SELECT set_config(%s, %s, false)", ("shop.region", "eu"))


def test_what_configure_undoes_itself_is_no_mess(mood_url: str) -> None:
    """What is set for a transaction alone, or set back, is as it was."""

    def configure(conn: psycopg.Connection[Any]) -> None:
        with conn.transaction():
            conn.execute("SET LOCAL shop.region = 'eu'")
            conn.execute("SET LOCAL search_path = public")
            EnumInfo.fetch(conn, "public.mood")
        conn.execute("SET work_mem = '77MB'")
        conn.execute("RESET work_mem")
        conn.execute("SELECT pg_advisory_lock_shared(818)")
        conn.execute("SELECT pg_advisory_unlock_shared(818)")
        conn.execute("PREPARE mine AS SELECT 1")
        conn.execute("DEALLOCATE mine")

    with PostgresClient(mood_url, 2, configure=configure) as client:
        assert client.execute_scalar("SELECT 1", (), ADA) == 1


@pytest.mark.parametrize(
    ("configure", "words"),
    [
        (_raises, "no such type"),
        (_leaves_open, "transaction open"),
        (_no_autocommit, "autocommit"),
        (_running("SET work_mem = '77MB'"), "work_mem"),
        (_running("SET role crm_user"), "role"),
        (_running("SET shop.region = 'eu'"), "shop.region"),
        (_sets_by_parameter, "shop.region"),
        (_running("SET app.current_user_id = '1'"), "app.current_user_id"),
        (_running("CREATE TEMP TABLE notes (a int)"), "notes"),
        (_running("CREATE TEMP SEQUENCE numbers"), "the temporary sequence numbers"),
        (
            _running("CREATE FUNCTION pg_temp.one() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
            "the temporary function one",
        ),
        (_running("CREATE TYPE pg_temp.tone AS ENUM ('low')"), "the temporary type tone"),
        (_running("CREATE TYPE pg_temp.pair AS (a int, b int)"), "the temporary type pair"),
        (_running("CREATE DOMAIN pg_temp.small AS int"), "the temporary type small"),
        (_running("LISTEN news"), "news"),
        (_running("SELECT pg_advisory_lock(818)"), "an advisory lock"),
        (_running("DECLARE held CURSOR WITH HOLD FOR SELECT 1"), "the cursor held"),
        (_running("PREPARE mine AS SELECT 1"), "the prepared statement mine"),
        (_setting("prepare_threshold", value=0), "prepare_threshold"),
        (_setting("isolation_level", value=psycopg.IsolationLevel.SERIALIZABLE), "isolation_level"),
        (_setting("read_only", value=True), "read_only"),
        (_setting("row_factory", value=tuple_row), "row_factory"),
        (_setting("cursor_factory", value=psycopg.ClientCursor), "cursor_factory"),
        (psycopg.Connection.close, "closed"),
        ("register", "callable"),
    ],
)
def test_a_callback_that_leaves_a_mess_is_told_at_construction(
    mood_url: str, own_postgres: PostgresServer, configure: Any, words: str
) -> None:
    """And no connection of it stays."""
    with pytest.raises(PostgresConfigurationError, match=words):
        PostgresClient(mood_url, 2, configure=configure)

    with psycopg.connect(own_postgres.url(), autocommit=True) as conn:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'crm_user' AND query LIKE %s"
        assert conn.execute(query, ("%77MB%",)).fetchone() == (0,)


def test_the_errors_of_statements_in_work_are_psycopgs(db: PostgresClient) -> None:
    """As in a block: unchanged, and the documentation of the method says so."""
    with pytest.raises(psycopg.errors.DivisionByZero) as caught:
        db.run_transaction(lambda conn: conn.execute("SELECT 1 / 0"), ADA)

    assert not isinstance(caught.value, PostgresError)
    raises = (PostgresClient.run_transaction.__doc__ or "").partition("Raises:")[2]
    assert "psycopg.Error:" in raises
