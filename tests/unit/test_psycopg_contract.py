"""The parts of psycopg that we lean on and that its manual does not promise.

When one of these fails after an upgrade, read clients/_postgres/execute.py.
"""

from __future__ import annotations

import inspect

import psycopg
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer


def test_a_query_is_converted_without_a_connection() -> None:
    """Placeholders become $1; params, types and formats have one entry each."""
    query = PostgresQuery(Transformer())
    query.convert("SELECT %s, %(b)s".replace("%(b)s", "%s"), [7, "x"])

    assert query.query == b"SELECT $1, $2"
    assert [bytes(value or b"") for value in query.params or ()][1] == b"x"
    assert len(query.types) == len(query.formats or ()) == 2


def test_without_parameters_nothing_is_converted() -> None:
    """None leaves the percent sign alone and sends no parameters."""
    query = PostgresQuery(Transformer())
    query.convert("SELECT '%'", None)

    assert query.query == b"SELECT '%'"
    assert (query.params, query.types, query.formats) == (None, (), None)


def test_a_converted_query_takes_the_next_row() -> None:
    """dump() replaces the parameters, and says their types anew."""
    query = PostgresQuery(Transformer())
    query.convert("SELECT %(n)s", {"n": 1})
    first = query.types
    query.dump({"n": "text"})

    assert [bytes(value or b"") for value in query.params or ()] == [b"text"]
    assert query.types != first


def test_the_methods_that_we_override_exist() -> None:
    """convert() calls dump(), and both take what we pass."""
    assert list(inspect.signature(PostgresQuery.convert).parameters) == ["self", "query", "vars"]
    assert list(inspect.signature(PostgresQuery.dump).parameters) == ["self", "vars"]
    assert "self.dump(" in inspect.getsource(PostgresQuery.convert)


def test_a_client_cursor_fetches_from_memory() -> None:
    """Only a server-side cursor is a ServerCursor: it alone sends when it fetches."""
    assert not issubclass(psycopg.Cursor, psycopg.ServerCursor)
    assert not issubclass(psycopg.ClientCursor, psycopg.ServerCursor)


def test_a_cursor_sends_in_one_method_and_takes_results_in_another() -> None:
    """The first statement of a transaction is sent in that method's place."""
    send = inspect.signature(psycopg.Cursor._maybe_prepare_gen).parameters

    assert list(send) == ["self", "pgq", "prepare", "binary"]
    assert "self._maybe_prepare_gen(pgq" in inspect.getsource(psycopg.Cursor._execute_gen)
    assert list(inspect.signature(psycopg.Cursor._set_results).parameters) == ["self", "results"]
