"""Evaluate policies' expressions on the server, over rows and lookup tables that do not exist.

``pg_get_expr`` prints an expression so that it can be evaluated over a made-up row: with
``jsonb_populate_record(NULL::docs, ...) AS docs``, column names, whole-row references and functions
over the row type resolve as in the policy. A table that a sub-select reads is replaced by a common
table expression of its name, so that memberships can be made up as well.

All of it runs in one transaction that is read-only and rolled back, in blocks of PL/pgSQL, because
one expression that raises must not end the others. Nothing is written, and no right is needed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["EVALUATION_SECONDS", "MAX_EVALUATIONS", "MAX_MESSAGES", "Job", "Shadow", "evaluate"]

#: One check evaluates for at most this many seconds; what is left by then is undecided.
EVALUATION_SECONDS: Final = 20.0
#: The expressions of one table are evaluated at most this many times: one for each combination of
#: a row, a lookup table's content and the values of the settings. What exceeds it is sampled.
MAX_EVALUATIONS: Final = 100_000
#: One check sends at most this many messages beside the one for the catalogue.
MAX_MESSAGES: Final = 24
_JOBS_IN_A_MESSAGE: Final = 16
# Single rows that are tried again after an expression raised over all of them.
_MAX_SINGLES: Final = 400

_RESULT = "clients_rls.result"

# A function of the user's may raise any SQLSTATE. What cannot be told is what the made-up rows, the
# read-only transaction or the server's limits are the reason of.
_LETTER: Final = (
    "CASE WHEN left(SQLSTATE, 2) IN ('0A', '25', '40', '42', '53', '54', '55', '57', '58', 'XX') "
    "AND SQLSTATE NOT IN ('42704', '42501', '42P17') THEN 'u' ELSE 'e' END"
)

# A value of one letter for each row and each content of the lookup tables: t, f, n for NULL,
# e where the expression raises (PostgreSQL then shows and changes nothing), u where it cannot be
# told: a time-out, a write, or a name that does not resolve over a made-up row.
_BLOCK: Final = rf"""
DECLARE
    job jsonb;
    state jsonb;
    pair jsonb;
    query text;
    cells text;
    one text;
    singles int;
    total int;
    results jsonb := '[]';
    answers jsonb;
    letter text;
    worlds jsonb;
    records jsonb;
    probe int;
    uniform boolean;
BEGIN
    FOR job IN SELECT * FROM jsonb_array_elements(jobs) LOOP
        answers := '[]';
        records := job -> 'rows';
        worlds := job -> 'worlds';
        total := jsonb_array_length(records) * jsonb_array_length(worlds);
        singles := 0;
        FOR state IN SELECT * FROM jsonb_array_elements(job -> 'states') LOOP
            FOR query IN SELECT * FROM jsonb_array_elements_text(
                job -> CASE WHEN state ->> 'unset' = 'true' THEN 'unset' ELSE 'queries' END
            ) LOOP
                cells := '';
                BEGIN
                    FOR pair IN SELECT * FROM jsonb_array_elements(state -> 'settings') LOOP
                        PERFORM set_config(pair ->> 0, pair ->> 1, true);
                    END LOOP;
                    EXECUTE query INTO cells USING records, worlds;
                EXCEPTION WHEN OTHERS THEN
                    letter := {_LETTER};
                    FOR pair IN SELECT * FROM jsonb_array_elements(state -> 'settings') LOOP
                        PERFORM set_config(pair ->> 0, pair ->> 1, true);
                    END LOOP;
                    -- Where it raises for cells all over, the settings make it raise.
                    uniform := total > 12;
                    IF uniform THEN
                        FOR probe IN 0..7 LOOP
                            one := NULL;
                            BEGIN
                                EXECUTE query INTO one USING
                                    jsonb_build_array(records -> (
                                        probe * (jsonb_array_length(records) - 1) / 7)),
                                    jsonb_build_array(worlds -> (
                                        probe * (jsonb_array_length(worlds) - 1) / 7));
                                uniform := false;
                            EXCEPTION WHEN OTHERS THEN
                                NULL;
                            END;
                            EXIT WHEN NOT uniform;
                        END LOOP;
                    END IF;
                    IF uniform OR letter = 'u' THEN
                        cells := repeat(letter, total);
                    ELSE
                        FOR w IN 0..jsonb_array_length(worlds) - 1 LOOP
                            FOR r IN 0..jsonb_array_length(records) - 1 LOOP
                                singles := singles + 1;
                                IF singles > max_singles THEN
                                    one := 'u';
                                ELSE
                                    BEGIN
                                        EXECUTE query INTO one USING
                                            jsonb_build_array(records -> r),
                                            jsonb_build_array(worlds -> w);
                                    EXCEPTION WHEN OTHERS THEN
                                        one := {_LETTER};
                                    END;
                                END IF;
                                cells := cells || one;
                            END LOOP;
                        END LOOP;
                    END IF;
                END;
                answers := answers || to_jsonb(cells);
            END LOOP;
        END LOOP;
        results := results || jsonb_build_array(answers);
    END LOOP;
    PERFORM set_config('clients_rls.result', results::text, true);
END
"""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A lookup table whose rows are made up.

    Args:
        name: Its quoted name, without a schema: what the expression calls it.
        type: Its qualified name, which is also its row type.
        key: Where its rows stand in each world.
        condition: What a role's policies let it see of the table; None for all.
        row: What that condition calls a row, where it is not the name.
    """

    name: str
    type: str
    key: str
    condition: str | None = None
    row: str | None = None

    def sql(self) -> str:
        """Return it as a common table expression."""
        where = f" WHERE ({self.condition})" if self.condition else ""
        row = self.row or self.name
        return (
            f"{self.name} AS (SELECT {row}.* FROM jsonb_populate_recordset("
            f"NULL::{self.type}, clients_rls_w.j -> '{self.key}') AS {row}{where})"
        )


@dataclass(frozen=True, slots=True)
class Job:
    """The expressions of one table, with everything that they are evaluated over.

    Args:
        name: The table's quoted name, without a schema.
        type: Its qualified name.
        expressions: What to evaluate.
        rows: The made-up rows.
        worlds: What each lookup table holds, by `Shadow.key`.
        shadows: The lookup tables.
        states: The values of the settings; None for a setting that was never set.
    """

    name: str
    type: str
    expressions: Sequence[str]
    rows: Sequence[dict[str, Any]]
    worlds: Sequence[dict[str, list[dict[str, Any]]]]
    shadows: Sequence[Shadow]
    states: Sequence[dict[str, str | None]]
    #: For each state and expression: a letter for each world and row. Empty: undecided.
    answers: list[list[str]] = field(default_factory=list)

    def query(self, expression: str) -> str:
        """Return the query that evaluates one expression over all rows and worlds."""
        tables = ", ".join(shadow.sql() for shadow in self.shadows)
        value = f"(WITH {tables} SELECT ({expression}))" if tables else f"({expression})"
        return (
            "SELECT string_agg(CASE WHEN v THEN 't' WHEN NOT v THEN 'f' ELSE 'n' END, '' "
            "ORDER BY clients_rls_w.n, clients_rls_r.n) "
            "FROM jsonb_array_elements($2) WITH ORDINALITY AS clients_rls_w(j, n) "
            "CROSS JOIN jsonb_array_elements($1) WITH ORDINALITY AS clients_rls_r(j, n) "
            f"CROSS JOIN LATERAL (SELECT {value} AS v "
            f"FROM jsonb_populate_record(NULL::{self.type}, clients_rls_r.j) AS {self.name}) AS x"
        )

    def message(self) -> dict[str, Any]:
        """Return what the server's block is given."""
        names = sorted({name for state in self.states for name in state})
        return {
            "rows": self.rows,
            "worlds": self.worlds,
            "queries": [self.query(text) for text in self.expressions],
            "unset": [self.query(_never_set(text, names)) for text in self.expressions],
            "states": [
                {
                    "unset": str(None in state.values()).lower(),
                    "settings": [[name, value or ""] for name, value in state.items()],
                }
                for state in self.states
            ],
        }


def _never_set(expression: str, settings: Iterable[str]) -> str:
    """Return the expression reading settings of other names, which no session ever set."""
    for name in settings:
        literal = Literal(name).as_string(None)
        expression = expression.replace(literal, Literal(f"{name}_never_set").as_string(None))
    return expression


def evaluate(
    connection: psycopg.Connection[Any], jobs: Sequence[Job], search_path: str, role: str | None
) -> None:
    """Fill in the answers of each job; what cannot be told in time stays without.

    Args:
        connection: A connection of the application role, in autocommit mode.
        jobs: What to evaluate.
        search_path: The one for which the expressions were printed.
        role: The role to evaluate as, where it is not the login's.

    Raises:
        psycopg.Error: The connection was lost.
    """
    deadline = time.monotonic() + EVALUATION_SECONDS
    waiting = [
        list(jobs[i : i + _JOBS_IN_A_MESSAGE]) for i in range(0, len(jobs), _JOBS_IN_A_MESSAGE)
    ]
    for _ in range(MAX_MESSAGES):
        left = deadline - time.monotonic()
        if not waiting or left <= 0:
            return
        batch = waiting.pop(0)
        # Where one of them takes too long, time is left for the others.
        seconds = left / (len(waiting) + 1) / (2 if len(batch) > 1 else 1)
        try:
            answers = _send(connection, batch, search_path, role, seconds)
        except psycopg.Error:
            if connection.closed:
                raise
            # One of them takes too long or cannot be evaluated at all: the others still can.
            if len(batch) > 1:
                middle = len(batch) // 2
                waiting = [batch[:middle], batch[middle:], *waiting]
            continue
        for job, flat in zip(batch, answers, strict=True):
            width = len(job.expressions)
            job.answers.extend(flat[i : i + width] for i in range(0, len(flat), width))


def _send(
    connection: psycopg.Connection[Any],
    jobs: Sequence[Job],
    search_path: str,
    role: str | None,
    seconds: float,
) -> list[list[str]]:
    declared = f"DECLARE jobs jsonb := {{}}; max_singles int := {_MAX_SINGLES};"
    messages = Literal(json.dumps([job.message() for job in jobs])).as_string(connection)
    body = _BLOCK.replace("DECLARE", declared.format(messages + "::jsonb"), 1)
    block = Literal(body).as_string(connection)
    statements = [
        "BEGIN READ ONLY",
        f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}",
        "SET LOCAL jit = off",
        *([f"SET LOCAL ROLE {role}"] if role else []),
        f"SET LOCAL search_path = {search_path}",
        f"DO LANGUAGE plpgsql {block}",
        f"SELECT current_setting('{_RESULT}')",
        "ROLLBACK",
    ]
    try:
        with connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute("; ".join(statements).encode())
            while cursor.description is None and cursor.nextset():
                pass
            row = cursor.fetchone()
    except psycopg.Error:
        if not connection.closed:
            connection.rollback()
        raise
    answers: list[list[str]] = json.loads(row[0]) if row else []
    return answers
