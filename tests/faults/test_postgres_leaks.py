"""Leaks that random schedules found, each as small as it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import psycopg
import pytest

from clients.errors import PostgresError, RlsContextError
from tests.postgres_faults import times_applied

if TYPE_CHECKING:
    from clients.postgres_client import PostgresClient
    from tests.postgres_faults import NewClient
    from utils._postgres_server import PostgresServer

ALICE, BOB = UUID(int=20, version=4), UUID(int=21, version=4)


def leave_behind(client: PostgresClient, user: UUID, path: str = "public") -> None:
    """Set the user and the search path for the session, as a careless function would."""
    query = (
        "SELECT set_config('app.current_user_id', %s, false) AS a,"
        " set_config('search_path', %s, false) AS b"
    )
    client.execute(query, (str(user), path), user)


@pytest.mark.parametrize("text", ["ROLLBACK", "ROLLBACK AND CHAIN", "ROLLBACK; BEGIN", "COMMIT"])
def test_a_rollback_in_sql_text_does_not_bring_back_what_another_user_left(
    server: PostgresServer, new_client: NewClient, text: str
) -> None:
    """Nothing that ran before the block can come back in it, in the same text included."""
    client = new_client(pool_size=1)
    leave_behind(client, ALICE)
    token = uuid4()
    # Bob's text writes a row of Alice's: with her context come back, it would be committed.
    insert = f"INSERT INTO ledger VALUES ('{token}', '{ALICE}')"
    refused = pytest.raises((psycopg.errors.InsufficientPrivilege, RlsContextError))
    with refused, client.connection(BOB) as conn:
        conn.execute(f"{text}; {insert}; COMMIT")
    assert times_applied(server, token) == 0


@pytest.mark.parametrize("text", ["ROLLBACK AND CHAIN", "COMMIT AND CHAIN", "ROLLBACK; BEGIN"])
def test_a_session_that_looks_like_the_context_is_not_the_context(
    new_client: NewClient, text: str
) -> None:
    """The same user's id in the session's settings does not pass for a transaction that ended."""
    client = new_client(pool_size=1)
    leave_behind(client, BOB, "pg_temp")
    lost = pytest.raises(RlsContextError)
    with lost, client.connection(BOB) as conn:
        conn.execute("SELECT set_config('app.current_user_id', %s, false)", (str(BOB),))
        conn.execute(text)
        conn.execute("SELECT 1")


def test_a_block_may_change_its_application_name(new_client: NewClient) -> None:
    """What tells a lost context can be changed by the block itself, which loses nothing."""
    client = new_client(pool_size=1)
    with client.connection(BOB) as conn:
        for name in ("one", "two"):
            conn.execute(f"SET application_name = {name}; SET TimeZone = 'Asia/Tokyo'")
            row = conn.execute("SELECT current_setting('app.current_user_id') AS who").fetchone()
            assert row == {"who": str(BOB)}
            with pytest.raises(RlsContextError), client.connection(ALICE):
                pass


def test_a_stream_raises_on_every_use_after_its_block(new_client: NewClient) -> None:
    """A second try after the error is no empty result, and buffered rows are gone as well."""
    client = new_client(pool_size=1)
    with client.stream("SELECT generate_series(1, 9) AS n", user_id=BOB, batch_size=4) as rows:
        assert next(rows) == {"n": 1}
    for _ in range(3):
        with pytest.raises(PostgresError, match="has ended"):
            list(rows)
