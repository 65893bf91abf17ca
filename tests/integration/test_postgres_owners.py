"""A block belongs to a thread together with its asyncio task or greenlet, as it is when entered."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import greenlet
import pytest
import trio
import trio.testing
from fastapi import Depends, FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.errors import PostgresConnectionError, PostgresError, RlsContextError
from clients.postgres_client import PostgresClient
from tests.postgres_helpers import client_that_loses_nothing, contact_names, one_session_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from utils.local_stack import StackEndpoints

INSERT = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"
NAMES = "SELECT name FROM contacts ORDER BY name"


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    with client_that_loses_nothing(stack.database_url, 6, pool_timeout=5) as made:
        yield made


def test_a_failing_task_undoes_nothing_of_another_task(client: PostgresClient, user: UUID) -> None:
    """Two writers that take turns inside one block each have a transaction of their own."""

    async def write(name: str, *, fails: bool) -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, name))
            await asyncio.sleep(0.02)
            if fails:
                raise ZeroDivisionError

    async def main() -> tuple[object, object]:
        with client.connection(user):
            return await asyncio.gather(
                write("undone", fails=True), write("kept", fails=False), return_exceptions=True
            )

    failed, succeeded = asyncio.run(main())

    assert isinstance(failed, ZeroDivisionError)
    assert succeeded is None
    assert contact_names(client, user) == ["kept"]


def test_a_task_for_another_user_runs_inside_a_block(client: PostgresClient, user: UUID) -> None:
    """A fire-and-forget task inherits the context of the block, and not its transaction."""

    async def audit(other: UUID) -> None:
        client.execute(INSERT, (other, "audit"), other)

    async def main(other: UUID) -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "mine"))
            await asyncio.create_task(audit(other))
            # In the task itself, one transaction belongs to one user.
            with pytest.raises(RlsContextError):
                client.execute("SELECT 1", user_id=other)

    other = uuid4()
    asyncio.run(main(other))

    assert (contact_names(client, user), contact_names(client, other)) == (["mine"], ["audit"])


def test_calls_of_one_task_join_its_block_at_every_depth(
    client: PostgresClient, user: UUID
) -> None:
    """Awaited coroutines belong to the task that awaits them."""

    async def inner(conn_names: list[str]) -> None:
        await asyncio.sleep(0)
        client.execute(INSERT, (user, "inner"), user)
        with client.connection(user) as conn:
            conn_names.extend(row["name"] for row in conn.execute(NAMES).fetchall())

    async def main() -> list[str]:
        seen: list[str] = []
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "outer"))
            await inner(seen)
        return seen

    assert asyncio.run(main()) == ["inner", "outer"]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    plan=st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 3)), min_size=1, max_size=4
    )
)
def test_what_a_task_reports_is_what_the_table_has(
    client: PostgresClient, plan: list[tuple[int, bool, int]]
) -> None:
    """Tasks of any users, inside one block, yielding anywhere: each commits its own, or nothing."""
    users = [uuid4() for _ in range(3)]
    reported: list[tuple[UUID, str]] = []

    async def work(number: int, of: int, fails: bool, turns: int) -> None:  # noqa: FBT001 - drawn
        user, name = users[of], f"task {number}"
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, name))
            for _ in range(turns):
                await asyncio.sleep(0)
                client.execute_many(INSERT, [(user, f"{name} more")], user)
            if fails:
                raise ZeroDivisionError
        reported.extend([(user, name), *[(user, f"{name} more")] * turns])

    async def main() -> None:
        with client.connection(users[0]):
            await asyncio.gather(
                *(work(number, *step) for number, step in enumerate(plan)), return_exceptions=True
            )

    asyncio.run(main())

    for user in users:
        told = sorted(name for owner, name in reported if owner == user)
        assert contact_names(client, user) == told


def test_a_greenlet_is_an_owner_of_its_own(client: PostgresClient, user: UUID) -> None:
    """A block that one greenlet left open is not joined by the next one that runs."""

    def write() -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "undone"))
            greenlet.getcurrent().parent.switch()
            raise ZeroDivisionError

    first = greenlet.greenlet(write)
    first.gr_context = copy_context()
    first.switch()
    client.execute(INSERT, (user, "main"), user)
    second = greenlet.greenlet(lambda: client.execute(INSERT, (user, "second"), user))
    # As a framework starts one: with the context of the greenlet that starts it.
    second.gr_context = first.gr_context.copy()
    second.switch()
    with pytest.raises(ZeroDivisionError):
        first.switch()

    assert contact_names(client, user) == ["main", "second"]


def test_tasks_of_trio_share_no_transaction(client: PostgresClient, user: UUID) -> None:
    """What fails undoes its own, another user's task runs inside a block, and one's own joins."""
    other = uuid4()

    async def write(name: str, *, fails: bool) -> None:
        with suppress(ZeroDivisionError), client.connection(user) as conn:
            conn.execute(INSERT, (user, name))
            await trio.sleep(0.02)
            client.execute(INSERT, (user, f"{name}, joined"), user)
            if fails:
                raise ZeroDivisionError

    async def audit() -> None:
        client.execute(INSERT, (other, "audit"), other)

    async def main() -> None:
        with client.connection(user):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(write, "undone", fails=True))
                nursery.start_soon(partial(write, "kept", fails=False))
                nursery.start_soon(audit)

    trio.run(main)

    assert contact_names(client, user) == ["kept", "kept, joined"]
    assert contact_names(client, other) == ["audit"]


def test_a_task_of_trio_is_named_where_it_holds_a_connection(
    stack: StackEndpoints, user: UUID
) -> None:
    """Who waits in the same thread waits for nothing: no task runs meanwhile."""

    async def hold(client: PostgresClient) -> None:
        with client.connection(user):
            await trio.sleep_forever()

    async def main(client: PostgresClient) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, client, name="the holder")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(PostgresConnectionError, match="held by: task the holder of Main"):
                client.execute("SELECT 1", user_id=user)
            nursery.cancel_scope.cancel()

    with one_session_client(stack, pool_timeout=60) as client:
        trio.run(main, client)


def test_blocks_that_were_made_before_are_entered_later(client: PostgresClient, user: UUID) -> None:
    """Whether a block joins another one is decided when it is entered, and not when it is made."""
    blocks = [client.connection(user) for _ in range(3)]
    with ExitStack() as entered:
        connections = [entered.enter_context(block) for block in blocks]
        connections[0].execute(INSERT, (user, "joined"))
        pids = {
            conn.execute("SELECT pg_backend_pid() AS pid").fetchone()["pid"] for conn in connections
        }

        assert len(pids) == 1
    made_inside = None
    with client.connection(user):
        made_inside = client.connection(user)
    with made_inside as conn:
        assert [row["name"] for row in conn.execute(NAMES).fetchall()] == ["joined"]


def test_a_block_is_entered_once(client: PostgresClient, user: UUID) -> None:
    """A second time is refused, also for a joined one, and an end without an entry as well."""
    with client.connection(user):
        joined = client.connection(user)
        with joined:
            pass
        with pytest.raises(PostgresError, match="entered once"):
            joined.__enter__()
    with pytest.raises(PostgresError, match="is not open"):
        client.connection(user).__exit__(None, None, None)


def test_a_block_entered_in_a_thread_pool_for_somebody_else_is_waited_for(
    stack: StackEndpoints, user: UUID
) -> None:
    """FastAPI's way with a sync dependency: six requests on a pool of two all succeed."""
    with PostgresClient(stack.database_url, pool_size=2, pool_timeout=20) as client:

        def connection() -> Iterator[Any]:
            with client.connection(user) as conn:
                yield conn

        def names(conn: Any = Depends(connection)) -> int:  # noqa: B008 - a local name
            time.sleep(0.1)
            return int(conn.execute("SELECT 1 AS one").fetchone()["one"])

        app = FastAPI()
        app.add_api_route("/", names)

        async def requests() -> list[bytes]:
            return await asyncio.gather(*(answer_of(app) for _ in range(6)))

        assert asyncio.run(requests()) == [b"1"] * 6
        assert client.stats()["exhausted"] == 0


async def answer_of(app: FastAPI) -> bytes:
    """Send GET / to *app* as an ASGI server does, and return the body of its answer."""
    sent: list[Any] = []
    finished = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if sent:
            await finished.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    return b"".join(message.get("body", b"") for message in sent[1:])


def test_one_worker_thread_that_went_back_to_its_pool_may_wait_for_its_own_block(
    stack: StackEndpoints, user: UUID
) -> None:
    """It entered the block in another context, and another thread ends it."""
    with (
        one_session_client(stack, pool_timeout=20) as client,
        ThreadPoolExecutor(1) as worker,
    ):
        block = client.connection(user)
        worker.submit(copy_context().run, block.__enter__).result()
        waiting = worker.submit(
            copy_context().run, lambda: client.execute_scalar("SELECT 7", user_id=user)
        )
        time.sleep(0.2)

        assert not waiting.done()

        block.__exit__(None, None, None)

        assert waiting.result() == 7


@pytest.mark.parametrize("kind", ["block", "rows", "task", "loop in a block"])
def test_who_waits_for_what_its_own_thread_holds_is_told_at_once(
    stack: StackEndpoints, user: UUID, kind: str
) -> None:
    """A block, a call whose rows ask for more, and another task: none can end while we wait."""
    client = one_session_client(stack, pool_timeout=60)

    def ask() -> None:
        with pytest.raises(PostgresConnectionError, match="this thread holds them all"):
            client.execute("SELECT 1", user_id=uuid4())

    def rows() -> Iterator[tuple[UUID, str]]:
        yield (user, "first")
        # The first batch is gathered before a session is taken.
        yield from ((user, "row") for _ in range(1000))
        ask()

    async def hold(entered: asyncio.Event, leave: asyncio.Event) -> None:
        with client.connection(user):
            entered.set()
            await leave.wait()

    async def tasks() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(hold(entered, leave), name="the holder")
        await entered.wait()
        with pytest.raises(PostgresConnectionError, match="held by: task the holder of MainThread"):
            client.execute("SELECT 1", user_id=user)
        ask()
        leave.set()
        await holder

    async def only_ask() -> None:
        ask()

    with client:
        started = time.monotonic()
        if kind == "block":
            with client.admin_connection():
                ask()
        elif kind == "rows":
            client.execute_many(INSERT, rows(), user)
        elif kind == "task":
            asyncio.run(tasks())
        else:
            with client.connection(user):
                asyncio.run(only_ask())

        assert time.monotonic() - started < 30
        assert client.execute_scalar("SELECT 1", user_id=user) == 1


def test_a_thread_is_named_by_itself_also_after_its_end(stack: StackEndpoints, user: UUID) -> None:
    """The holder's name is the thread's; one that has ended is called so."""
    with one_session_client(stack, pool_timeout=0.2) as client:
        block = client.connection(user)
        entered, leave = threading.Event(), threading.Event()

        def enter() -> None:
            block.__enter__()
            entered.set()
            leave.wait()

        holder = threading.Thread(target=enter, name="the-holder")
        holder.start()
        entered.wait()
        with pytest.raises(PostgresConnectionError, match="the-holder for"):
            client.execute("SELECT 1", user_id=user)
        leave.set()
        holder.join()
        with pytest.raises(PostgresConnectionError, match="ended thread"):
            client.execute("SELECT 1", user_id=user)
        block.__exit__(None, None, None)


def test_a_thread_started_in_a_block_is_another_owner(client: PostgresClient, user: UUID) -> None:
    """Also with the context copied, as asyncio.to_thread copies it."""

    async def main(work: Callable[[], Awaitable[object]]) -> None:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "undone"))
            await work()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(
            main(lambda: asyncio.to_thread(client.execute, INSERT, (user, "thread's"), user))
        )

    assert contact_names(client, user) == ["thread's"]
