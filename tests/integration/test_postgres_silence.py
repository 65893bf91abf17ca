"""When a server that says nothing is asked whether it is still at work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, LiteralString

from psycopg.rows import dict_row

from clients._postgres.watchdog import SilenceWatch, WatchedConnection

if TYPE_CHECKING:
    from utils.local_stack import StackEndpoints

_LIMIT = 0.5


def questions(stack: StackEndpoints, query: LiteralString) -> tuple[int, float]:
    """Run *query*; return how often the server was asked, and how many limits that took."""
    asked = []

    def is_working(backend_pid: int) -> bool:
        asked.append(backend_pid)
        return True

    with WatchedConnection.connect(stack.database_url, row_factory=dict_row) as conn:
        conn.watch = SilenceWatch(_LIMIT, is_working)
        began = time.monotonic()
        conn.execute(query)
        return len(asked), (time.monotonic() - began) / _LIMIT


def test_a_silent_server_is_asked_once_in_each_limit(stack: StackEndpoints) -> None:
    """Each question costs a connection: a statement that works for hours must not cost many."""
    asked, limits = questions(stack, "SELECT pg_sleep(1.7)")

    assert 1 <= asked <= limits


def test_a_server_that_says_something_is_not_asked(stack: StackEndpoints) -> None:
    """A notice shows that it works. A machine that stalls may keep one back, but not each time."""
    talks = (
        "DO $$ BEGIN FOR i IN 1..5 LOOP RAISE NOTICE 'x'; PERFORM pg_sleep(0.2); END LOOP; END $$"
    )

    assert any(questions(stack, talks)[0] == 0 for _ in range(10))
