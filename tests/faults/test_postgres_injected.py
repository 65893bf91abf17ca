"""Whatever a call of the driver raises, a public method raises an error of ours that is true."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from clients._postgres.session import Session
from clients.errors import ClientError
from tests.postgres_faults import INSERT, USER, superuser, times_applied

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._stack.postgres import PostgresServer

OTHER = UUID(int=0xBEEF, version=4)
FAULTS: list[Callable[[], Exception]] = [
    lambda: OSError(errno.EMFILE, "no descriptors left"),
    lambda: AttributeError("module 'select' has no attribute 'poll'"),
    lambda: NotImplementedError("can't parse this"),
    lambda: RecursionError("maximum recursion depth exceeded"),
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    lambda: psycopg.OperationalError("injected"),
    lambda: psycopg.InternalError("injected"),
    MemoryError,
    lambda: RuntimeError("injected"),
]
# More calls than any of the methods makes.
MOST_CALLS = 150


class Plan:
    """Raises at the n-th call of the driver, before it or behind it."""

    def __init__(self) -> None:
        self.left = -1
        self.is_before = True
        self.fault: Callable[[], Exception] = FAULTS[0]

    def arm(self, calls: int, fault: Callable[[], Exception], *, is_before: bool) -> None:
        """Raise at the call behind so many others."""
        self.left, self.fault, self.is_before = calls, fault, is_before

    def disarm(self) -> bool:
        """Return whether it raised."""
        raised, self.left = self.left == -1, -1
        return raised

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return *call*, with the plan around it."""

        def planned(*args: Any, **kwargs: Any) -> Any:
            if self.left < 0:
                return call(*args, **kwargs)
            is_due, self.left = self.left == 0, self.left - 1
            if is_due and self.is_before:
                raise self.fault()
            result = call(*args, **kwargs)
            if is_due:
                raise self.fault()
            return result

        return planned

    def around_method(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a plain function, which becomes a method of the class that has it."""

        def planned(*args: Any, **kwargs: Any) -> Any:
            return self.around(method)(*args, **kwargs)

        return planned


class PlannedPgconn:
    """libpq's connection, whose methods go through the plan."""

    def __init__(self, pgconn: Any, plan: Plan) -> None:
        self._pgconn = pgconn
        self._plan = plan

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pgconn, name)
        return self._plan.around(found) if callable(found) else found


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Every driver call of every session goes through it."""
    made = Plan()
    initialise = Session.__init__

    def planned_init(self: Session, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self.pgconn = PlannedPgconn(self.pgconn, made)  # type: ignore[assignment]  # stands for it

    monkeypatch.setattr(Session, "__init__", planned_init)
    for owner, names in (
        (
            psycopg.Cursor,
            ("execute", "executemany", "fetchone", "fetchmany", "fetchall", "nextset"),
        ),
        (psycopg.ServerCursor, ("execute", "fetchmany", "close")),
        (psycopg.Transaction, ("__enter__", "__exit__")),
        (psycopg.Connection, ("execute", "cursor")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, made.around_method(getattr(owner, name)))
    return made


def in_block(client: PostgresClient, token: UUID) -> None:
    with client.connection(USER) as conn:
        conn.execute(INSERT, (token, USER))
        conn.execute("SELECT token FROM ledger").fetchall()


def joined(client: PostgresClient, token: UUID) -> None:
    with client.connection(USER):
        client.execute(INSERT, (token, USER), USER)
        with client.connection(USER) as inner, inner.transaction():
            inner.execute("SELECT 1").fetchone()


def streamed(client: PostgresClient, token: UUID) -> None:
    with client.connection(USER) as conn:
        conn.execute(INSERT, (token, USER))
        with client.stream("SELECT token FROM ledger LIMIT 3", user_id=USER) as rows:
            list(rows)
        list(conn.cursor().stream("SELECT token FROM ledger LIMIT 3"))


WAYS: dict[str, Callable[[PostgresClient, UUID], object]] = {
    "execute": lambda client, token: client.execute(INSERT, (token, USER), USER),
    "execute_one": lambda client, token: client.execute_one(
        f"{INSERT} RETURNING token", (token, USER), USER
    ),
    "execute_many": lambda client, token: client.execute_many(INSERT, [(token, USER)], USER),
    "connection": in_block,
    "joined": joined,
    "stream": streamed,
}
READS: dict[str, Callable[[PostgresClient, UUID], object]] = {
    "health_check": lambda client, _: client.health_check(),
    "server_version": lambda client, _: client.server_version(),
    "check_rls": lambda client, _: client.check_rls(),
    "execute_admin": lambda client, _: client.execute_admin("SELECT 1"),
}


@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", [*WAYS, *READS])
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 7], ids=["all", "some"])
def test_a_fault_at_any_call_of_the_driver_is_one_of_our_errors(
    server: PostgresServer, new_client: NewClient, plan: Plan, *, way: str, step: int
) -> None:
    """It says truly whether the statement was committed, and no session is lent dirty for it."""
    client = new_client(pool_size=1, min_size=1)
    run = {**WAYS, **READS}[way]
    for number in range(0, MOST_CALLS, step):
        for is_before in (True, False):
            token = uuid4()
            fault = FAULTS[number % len(FAULTS)]
            plan.arm(number, fault, is_before=is_before)
            outcome: Exception | None = None
            try:
                run(client, token)
            except (ClientError, psycopg.Error) as error:
                outcome = error
            raised = plan.disarm()
            what = (number, is_before, fault(), outcome)

            applied = times_applied(server, token)
            if outcome is None:
                assert way in READS or applied == 1, what
            elif not getattr(outcome, "maybe_applied", False):
                assert applied == 0, what
            assert client.stats()["in_use"] == 0, what
            context = "SELECT current_setting('app.current_user_id') AS u, pg_backend_pid()"
            assert client.execute_scalar(context, user_id=OTHER) == str(OTHER), what
        if not raised:
            break
    else:
        pytest.fail("there are more calls than the test makes")
    assert number >= 3
    with superuser(server) as conn:
        busy = (
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'crm_user' AND state <> 'idle'"
        )
        assert conn.execute(busy).fetchone() == (0,)
