"""What a policy's form costs: a user's 500 rows out of 500,000."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.benchmarks._board import compare
from tests.benchmarks._pairs import take_turns
from tests.rls_databases import scratch_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks._board import Board
    from tests.rls_databases import Scratch
    from utils._stack.postgres import PostgresServer

pytestmark = pytest.mark.bench

_USER = "00000000-0000-0000-0000-0000000004d2"
_ROWS, _OWN = 500_000, 500
_SETTING = "current_setting('app.current_user_id', true)"
_OURS = "the policy of sql/"
_WHERE = "WHERE, no policy"
#: The role that each form binds, and the form; the last one is on a table without an index.
_FORMS = {
    _OURS: ("form_ours", f"user_id = (SELECT NULLIF({_SETTING}, '')::uuid)", "indexed"),
    "setting not in a sub-select": (
        "form_per_row", f"user_id = NULLIF({_SETTING}, '')::uuid", "indexed"),
    "setting in a plpgsql function": ("form_function", "user_id = bench_user()", "indexed"),
    "the column cast to text": ("form_text", f"user_id::text = (SELECT {_SETTING})", "indexed"),
    "the policy of sql/, no index": (
        "form_no_index", f"user_id = (SELECT NULLIF({_SETTING}, '')::uuid)", "unindexed"),
}  # fmt: skip
#: These take a thousand times longer, and need fewer rounds to show it.
_SLOW = [name for name in _FORMS if name not in {_OURS, "setting not in a sub-select"}]


def fill(database: Scratch) -> None:
    """Make the tables, with one policy for each role; 1,000 users own 500 rows each."""
    database.run(
        "CREATE TABLE indexed (id uuid DEFAULT gen_random_uuid(), user_id uuid NOT NULL, name text)"
    )
    database.run(
        "INSERT INTO indexed (user_id, name) "
        "SELECT lpad(to_hex(1234 + i % 1000), 32, '0')::uuid, 'contact ' || i "
        f"FROM generate_series(0, {_ROWS - 1}) AS i"
    )
    database.run("CREATE TABLE unindexed AS TABLE indexed")
    database.run("CREATE INDEX ON indexed (user_id)")
    database.run(
        "CREATE FUNCTION bench_user() RETURNS uuid LANGUAGE plpgsql AS "
        f"$$ BEGIN RETURN NULLIF({_SETTING}, '')::uuid; END $$"
    )
    for role, form, table in _FORMS.values():
        database.make_role(role)
        database.run(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        database.run(f"CREATE POLICY {role} ON {table} TO {role} USING ({form})")
        database.run(f"GRANT SELECT ON {table} TO {role}")
    database.run("VACUUM ANALYZE")


def open_ways(database: Scratch, opened: ExitStack) -> dict[str, Callable[[], int]]:
    """Connect each role, with the user set; return what counts the rows it sees.

    The server counts: to read 500 rows would cost all alike, and hide most of the difference.
    """

    def way(role: str, rest: str) -> Callable[[], int]:
        connection: Any = opened.enter_context(database.connect(role))
        connection.execute("SELECT set_config('app.current_user_id', %s, false)", (_USER,))
        # Not count(*), which an index alone could answer.
        query = f"SELECT count(name) FROM {rest}"
        return lambda: int(connection.execute(query).fetchone()[0])

    ways = {name: way(role, table) for name, (role, _, table) in _FORMS.items()}
    database.make_role("form_none", "BYPASSRLS")
    database.run("GRANT SELECT ON indexed TO form_none")
    ways[_WHERE] = way("form_none", f"indexed WHERE user_id = '{_USER}'")
    return ways


def test_the_form_of_a_policy(own_postgres: PostgresServer, board: Board) -> None:
    """The project's own form costs what an explicit WHERE costs; usual mistakes cost far more."""
    with scratch_database(own_postgres, "policy_forms") as database, ExitStack() as opened:
        fill(database)
        ways = open_ways(database, opened)
        assert {name: way() for name, way in ways.items()} == dict.fromkeys(ways, _OWN)
        quick = {name: way for name, way in ways.items() if name not in _SLOW}
        times = take_turns(quick, rounds=41, calls=10)
        slow = take_turns({name: ways[name] for name in (_OURS, *_SLOW)}, rounds=5, calls=1)
    what = f"{_OURS}, {_OWN} of {_ROWS:,} rows"
    rows = [
        *compare("PostgreSQL", what, times, _OURS, promises={_WHERE: "policy"}),
        *compare("PostgreSQL", what, slow, _OURS),
    ]
    assert board.add(*rows) == []
