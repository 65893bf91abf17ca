"""A test for your own suite: no user can read or change the rows of another.

Copy it as ``tests/test_isolation.py``, run it on a database with your schema, and add the
``identity=`` of your application where it has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clients import PostgresClient, build_clients, prove_isolation

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["postgres", "test_no_policy_leaks", "test_no_user_reaches_the_rows_of_another"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresClient]:
    """The client of the application, with the administrator's URL from its secret."""
    with build_clients() as clients:
        yield clients.postgres


def test_no_user_reaches_the_rows_of_another(postgres: PostgresClient) -> None:
    """Everything is tried for real and rolled back; a failure shows the statements that leak."""
    proof = prove_isolation(postgres)

    assert proof.leaks == []
    assert proof.untried == {}


def test_no_policy_leaks(postgres: PostgresClient) -> None:
    """Policies are evaluated over rows that do not exist; a failure shows the row and the fix."""
    assert [str(finding) for finding in postgres.check_rls()] == []
