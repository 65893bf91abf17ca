"""A block that a generator has entered is its own code's: who reads from it writes elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.postgres_helpers import client_that_loses_nothing, contact_names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from clients.postgres_client import PostgresClient
    from utils.local_stack import StackEndpoints

INSERT = "INSERT INTO contacts (user_id, name) VALUES (%s, %s)"


@pytest.fixture(scope="module")
def client(stack: StackEndpoints) -> Iterator[PostgresClient]:
    # As many as the longest plan below opens, and one for the consumer.
    with client_that_loses_nothing(stack.database_url, 9, pool_timeout=5) as made:
        yield made


def in_a_call(client: PostgresClient, user: UUID, name: str) -> None:
    client.execute(INSERT, (user, name), user)


def in_many(client: PostgresClient, user: UUID, name: str) -> None:
    client.execute_many(INSERT, [(user, name)], user)


def in_bulk(client: PostgresClient, user: UUID, name: str) -> None:
    client.bulk_insert("contacts", ["user_id", "name"], [(user, name)], user)


def in_a_block(client: PostgresClient, user: UUID, name: str) -> None:
    with client.connection(user) as conn:
        conn.execute(INSERT, (user, name))


WRITES: list[Callable[[PostgresClient, UUID, str], None]] = [
    in_a_call,
    in_many,
    in_bulk,
    in_a_block,
]


def steps(client: PostgresClient, user: UUID) -> Iterator[int]:
    """Write before, between and behind two yields, in one transaction."""
    with client.connection(user) as conn:
        conn.execute(INSERT, (user, "generator's 0"))
        for number in (1, 2):
            yield number
            # Its own code goes on in its own block.
            client.execute(INSERT, (user, f"generator's {number}"), user)


@pytest.mark.parametrize("write", WRITES)
def test_what_a_consumer_has_written_stays_when_it_leaves_the_generator(
    client: PostgresClient, user: UUID, write: Callable[[PostgresClient, UUID, str], None]
) -> None:
    """The generator's transaction is undone, and it alone."""
    for _ in steps(client, user):
        write(client, user, "consumer's")
        break

    assert contact_names(client, user) == ["consumer's"]


def test_a_consumer_may_be_another_user(client: PostgresClient, user: UUID) -> None:
    """The block of the generator is none of the consumer's; the whole of it is committed."""
    other = uuid4()
    for number in steps(client, user):
        in_a_call(client, other, f"consumer's {number}")

    assert contact_names(client, other) == ["consumer's 1", "consumer's 2"]
    assert contact_names(client, user) == ["generator's 0", "generator's 1", "generator's 2"]


def test_a_failing_generator_undoes_nothing_of_its_consumer(
    client: PostgresClient, user: UUID
) -> None:
    """Its own error, and one that is thrown into it."""

    def failing() -> Iterator[None]:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "generator's"))
            yield
            raise KeyError

    one = failing()
    next(one)
    in_a_call(client, user, "first")
    with pytest.raises(KeyError):
        next(one)
    other = steps(client, user)
    next(other)
    in_a_call(client, user, "second")
    with pytest.raises(ZeroDivisionError):
        other.throw(ZeroDivisionError())  # type: ignore[attr-defined]  # it is a generator

    assert contact_names(client, user) == ["first", "second"]


def test_an_async_generator_is_told_from_its_consumer_as_well(
    client: PostgresClient, user: UUID
) -> None:
    """They run in one task."""

    async def rows() -> AsyncIterator[int]:
        with client.connection(user) as conn:
            conn.execute(INSERT, (user, "generator's"))
            await asyncio.sleep(0)
            in_a_call(client, user, "generator's as well")
            yield 1

    async def main() -> None:
        opened: Any = rows()
        await anext(opened)
        in_a_call(client, user, "consumer's")
        await opened.aclose()

    asyncio.run(main())

    assert contact_names(client, user) == ["consumer's"]


def test_a_context_manager_made_of_a_generator_opens_the_block_for_its_with_body(
    client: PostgresClient, user: UUID
) -> None:
    """As before: its yield stands for the body, which joins."""

    @contextmanager
    def transaction() -> Iterator[None]:
        with client.connection(user):
            yield

    def write_and_fail() -> None:
        with transaction():
            in_a_call(client, user, "undone")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with transaction():
        in_a_call(client, user, "kept")

    assert contact_names(client, user) == ["kept"]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    plan=st.lists(st.sampled_from(["open", "next", "close", "fail", "write"]), max_size=8),
    in_block=st.booleans(),
)
def test_in_any_order_what_a_consumer_was_told_is_written_is_there(
    client: PostgresClient, plan: list[str], *, in_block: bool
) -> None:
    """Generators opened, read, closed and failed between the consumer's writes, also in its block.

    A generator in the consumer's block is a part of that: a failure of its own undoes what was
    written since it began, and is told; being closed is no failure.
    """
    user, told = uuid4(), []

    def consume() -> None:
        opened: list[Any] = []
        for number, step in enumerate(plan):
            if step == "open":
                opened.append(steps(client, user))
                next(opened[-1])
            elif step == "write":
                in_a_call(client, user, f"told {number}")
                told.append(f"told {number}")
            elif opened and step == "next":
                next(opened[-1], None)
            elif opened and (step == "close" or in_block):
                opened.pop().close()
            elif opened:
                with pytest.raises(ZeroDivisionError):
                    opened.pop().throw(ZeroDivisionError())
        while opened:
            opened.pop().close()

    if in_block:
        with client.connection(user):
            consume()
    else:
        consume()

    written = [name for name in contact_names(client, user) if name.startswith("told")]
    assert written == sorted(told)
