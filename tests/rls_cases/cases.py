"""Schemas that leak, each with an attack that works, and schemas that do not.

A case is ``NN_name.sql``: a schema and rows of two users. A leaky one has ``NN_name.repair.sql``,
the smallest change that closes it, and an attack here; a safe one has attacks that do not work.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["CASES", "PEOPLE", "Case", "CaseDatabase", "CaseServer", "case_server"]

PEOPLE = ("11111111-1111-4111-8111-111111111111", "00000000-0000-4000-8000-00000000000b")
NOBODY = "00000000-0000-0000-0000-000000000000"
SETTING = "app.current_user_id"
PASSWORD = "secret"
_ROLES: tuple[tuple[str, LiteralString], ...] = (
    ("app_owner", "NOLOGIN"),
    ("app_user", "LOGIN PASSWORD 'secret'"),
    ("app_admin", "NOLOGIN"),
)


@contextlib.contextmanager
def case_server(url: str, dbname: str) -> Iterator[CaseServer]:
    """Make the cases' roles, and a database in which one case after the other is set up.

    Args:
        url: A superuser's URL.
        dbname: The name of the new database.
    """
    name = sql.Identifier(dbname)
    with psycopg.connect(url, autocommit=True) as conn:
        for role, attributes in _ROLES:
            conn.execute(sql.SQL("CREATE ROLE {} " + attributes).format(sql.Identifier(role)))
        conn.execute(sql.SQL("CREATE DATABASE {} OWNER app_owner").format(name))
        try:
            inside = psycopg.conninfo.make_conninfo(url, dbname=dbname)
            with psycopg.connect(inside, autocommit=True) as superuser:
                yield CaseServer(inside, superuser)
        finally:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
            for role, _ in _ROLES:
                conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@dataclass
class CaseServer:
    """A database for cases.

    Args:
        url: Its URL, as superuser.
        superuser: A connection to it.
    """

    url: str
    superuser: psycopg.Connection[tuple[Any, ...]]

    def run(self, statements: str) -> list[tuple[Any, ...]]:
        """Run statements as superuser, and return the rows of the last."""
        cursor = self.superuser.execute(statements.encode())
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []

    def reset(self) -> None:
        """Leave nothing but an empty schema."""
        self.run(
            "RESET ROLE; DROP SCHEMA public CASCADE;"
            "CREATE SCHEMA public AUTHORIZATION pg_database_owner;"
            "GRANT USAGE ON SCHEMA public TO PUBLIC"
        )


@dataclass
class CaseDatabase:
    """One case's schema, as superuser and as the application."""

    server: CaseServer
    case: Case

    @property
    def url(self) -> str:
        """The superuser's URL."""
        return self.server.url

    def run(self, statements: str) -> list[tuple[Any, ...]]:
        """Run statements as superuser, and return the rows of the last."""
        return self.server.run(statements)

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the application's role."""
        url = psycopg.conninfo.make_conninfo(self.url, user="app_user", password=PASSWORD)
        return psycopg.connect(url, autocommit=autocommit)

    @contextlib.contextmanager
    def user(
        self, user_id: str | None, settings: dict[str, str] | None = None
    ) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Yield one transaction of a user, or of nobody."""
        with self.connect(autocommit=False) as conn:
            values = {**self.case.settings, **(settings or {})}
            if user_id is not None:
                jwt = "jwt" in self.case.setting
                values[self.case.setting] = _claims(user_id) if jwt else user_id
            for name, value in values.items():
                conn.execute("SELECT set_config(%s, %s, true)", (name, value))
            yield conn


Attack = "Callable[[CaseDatabase], str | None]"
Keeps = "Callable[[CaseDatabase], None]"


def _claims(user_id: str) -> str:
    return json.dumps({"sub": user_id, "role": "authenticated"})


def _reads(
    query: LiteralString,
    user: int | str | None = 1,
    *,
    secret: str = "secret of A",
    settings: dict[str, str] | None = None,
    before: LiteralString | None = None,
) -> Callable[[CaseDatabase], str | None]:
    """Return an attack that reads another's secret with one query."""

    def attack(db: CaseDatabase) -> str | None:
        user_id = db.case.people[user] if isinstance(user, int) else user
        with db.user(user_id, settings) as conn:
            if before:
                conn.execute(before)
            rows = conn.execute(query).fetchall()
        return next((f"reads {v!r}" for row in rows for v in row if secret in str(v)), None)

    return attack


def _changes(statement: str, witness: str) -> Callable[[CaseDatabase], str | None]:
    """Return an attack that changes another's row with one statement."""

    def attack(db: CaseDatabase) -> str | None:
        owner, other = (f"'{person}'" for person in db.case.people)
        with db.user(db.case.people[1]) as conn:
            conn.execute(statement.replace(":A", owner).replace(":B", other).encode())
        changed = db.run(witness.replace(":A", owner).replace(":B", other))[0][0]
        return "changed another's row" if changed else None

    return attack


def _keeps(
    table: str = "docs", column: str = "user_id", text: str = "title", *, write: bool = True
) -> Callable[[CaseDatabase], None]:
    """Return a check that the owner reads, adds, changes and removes rows of their own."""

    def keeps(db: CaseDatabase) -> None:
        name, key, body = (sql.Identifier(part) for part in (table, column, text))
        with db.user(db.case.people[0]) as conn:
            rows = conn.execute(sql.SQL("SELECT {} FROM {}").format(body, name)).fetchall()
            assert ("secret of A",) in rows
            if write:
                for statement in (
                    sql.SQL("INSERT INTO {} ({}, {}) VALUES ({}, 'kept')").format(
                        name, key, body, db.case.people[0]
                    ),
                    sql.SQL("UPDATE {0} SET {1} = 'kept too' WHERE {1} = 'kept'").format(
                        name, body
                    ),
                    sql.SQL("DELETE FROM {} WHERE {} = 'kept too'").format(name, body),
                ):
                    assert conn.execute(statement).rowcount == 1

    return keeps


def _cross(table: str = "docs", column: str = "user_id") -> Callable[[CaseDatabase], str | None]:
    """Return the usual attacks on one table; evidence of the first that works."""

    def attack(db: CaseDatabase) -> str | None:
        owner, other = db.case.people
        name, key = sql.Identifier(table).as_string(), sql.Identifier(column).as_string()
        state = (
            "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) "
            f"FROM {name} t WHERE {key}::text = '{owner}'"
        )
        before = db.run(state)
        for user in (other, None, ""):
            with contextlib.suppress(psycopg.Error), db.user(user) as conn:
                rows = conn.execute(f"SELECT * FROM {name}".encode()).fetchall()
                if any("secret of A" in str(value) for row in rows for value in row):
                    return f"reads as {user!r}"
        for statement in (
            f"INSERT INTO {name} ({key}, title) VALUES ('{owner}', 'forged')",
            f"UPDATE {name} SET title = 'defaced'",
            f"UPDATE {name} SET {key} = '{owner}'",
            f"DELETE FROM {name}",
            f"TRUNCATE {name} CASCADE",
        ):
            with contextlib.suppress(psycopg.Error), db.user(other) as conn:
                conn.execute(statement.encode())
        return None if db.run(state) == before else "changed another's rows"

    return attack


def _any(
    *attacks: Callable[[CaseDatabase], str | None],
) -> Callable[[CaseDatabase], str | None]:
    return lambda db: next((found for attack in attacks if (found := attack(db))), None)


def _all(*checks: Callable[[CaseDatabase], None]) -> Callable[[CaseDatabase], None]:
    def keeps(db: CaseDatabase) -> None:
        for check in checks:
            check(db)

    return keeps


def _one_plan_for_two_users(db: CaseDatabase) -> str | None:
    with db.connect() as conn:
        switch = "SELECT set_config('app.current_user_id', %s, false)"
        conn.execute(switch, (db.case.people[0],))
        conn.execute("PREPARE q AS SELECT title FROM docs")
        conn.execute("EXECUTE q").fetchall()
        conn.execute(switch, (db.case.people[1],))
        return (
            "one user's plan serves another"
            if ("secret of A",) in conn.execute("EXECUTE q").fetchall()
            else None
        )


def _notice(db: CaseDatabase) -> str | None:
    seen: list[str] = []
    with db.user(db.case.people[1]) as conn:
        conn.add_notice_handler(lambda notice: seen.append(notice.message_primary or ""))
        conn.execute("SET LOCAL enable_indexscan = off")
        conn.execute("SET LOCAL enable_bitmapscan = off")
        conn.execute("SELECT title FROM docs WHERE looks_odd(title)").fetchall()
    return next((text for text in seen if "secret of A" in text), None)


def _points_at_anothers_row(db: CaseDatabase) -> str | None:
    owner, other = db.case.people
    doc = db.run(f"SELECT id FROM docs WHERE user_id = '{owner}'")[0][0]
    with db.user(other) as conn:
        conn.execute(
            "INSERT INTO comments (user_id, doc_id, body) VALUES (%s, %s, 'of B')", (other, doc)
        )
    try:
        with db.user(owner) as conn:
            conn.execute("DELETE FROM docs")
    except psycopg.errors.ForeignKeyViolation:
        return "the owner cannot delete their own row"
    return None


def _is_taken(db: CaseDatabase) -> str | None:
    def taken(value: str) -> bool:
        other = db.case.people[1]
        try:
            with db.user(other) as conn:
                insert = "INSERT INTO docs (user_id, title, email) VALUES (%s, 'probe', %s)"
                conn.execute(insert, (other, value))
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation):
            return True
        return False

    return "tells what another has" if taken("a@x.org") and not taken("nobody@x.org") else None


def _hears(db: CaseDatabase) -> str | None:
    owner = db.case.people[0]
    with db.connect() as conn:
        conn.execute("LISTEN docs")
        with db.user(owner) as other:
            other.execute("INSERT INTO docs (user_id, title) VALUES (%s, 'secret of A')", (owner,))
        # The notice is there once the server has answered anything at all.
        conn.execute("SELECT 1")
        heard = [notice.payload for notice in conn.notifies(timeout=0)]
    return next((payload for payload in heard if "secret of A" in payload), None)


@dataclass(frozen=True)
class Case:
    """One schema.

    Args:
        kind: ``"leaky"`` or ``"safe"``.
        name: The name of its files.
        attack: Returns evidence that one user reads or changes another's rows, or None.
        keeps: Fails when the owner lost the access to their own rows.
    """

    kind: str
    name: str
    attack: Callable[[CaseDatabase], str | None]
    keeps: Callable[[CaseDatabase], None] = field(default_factory=_keeps)
    people: Sequence[str] = PEOPLE
    setting: str = SETTING
    settings: dict[str, str] = field(default_factory=dict)
    before: LiteralString = ""
    after: LiteralString = ""

    def text(self, suffix: str = ".sql") -> str:
        """Return one of its files."""
        return (Path(__file__).parent / self.kind / f"{self.name}{suffix}").read_text()

    @contextlib.contextmanager
    def database(self, server: CaseServer, change: str = "") -> Iterator[CaseDatabase]:
        """Set it up, with a change; gone at the end, and its roles with it."""
        if self.before:
            server.run(self.before)
        try:
            server.run(self.text())
            if change:
                server.run(change)
            yield CaseDatabase(server, self)
        finally:
            server.reset()
            if self.after:
                server.run(self.after)


_DOCS = _reads("SELECT title FROM docs")
_TEAM = _reads("SELECT title FROM team_docs")
_ALL_DOCS = _reads("SELECT title FROM all_docs()")
_DELETES = _changes("DELETE FROM docs", "SELECT NOT EXISTS (SELECT FROM docs WHERE user_id = :A)")
_FORGES = _changes(
    "INSERT INTO docs (user_id, title) VALUES (:A, 'forged')",
    "SELECT EXISTS (SELECT FROM docs WHERE user_id = :A AND title = 'forged')",
)
_READS_TEAM = _keeps("team_docs", write=False)


def _reads_own_claims(db: CaseDatabase) -> None:
    with db.user(db.case.people[0]) as conn:
        assert conn.execute("SELECT title FROM docs").fetchall() == [("secret of A",)]


CASES: list[Case] = [
    Case("leaky", "01_not_equal", _DOCS),
    Case("leaky", "03_greater_equal", _DOCS),
    Case("leaky", "05_check_forgets_user", _FORGES),
    Case(
        "leaky",
        "07_other_setting_bypass",
        _reads("SELECT title FROM docs", settings={"app.bypass": "on"}),
    ),
    Case("leaky", "09_permissive_soft_delete", _DOCS),
    Case("leaky", "11_coalesce_open", _reads("SELECT title FROM docs", None)),
    Case("leaky", "13_name_capture", _TEAM, _READS_TEAM),
    Case("leaky", "15_tautology", _DOCS),
    Case("leaky", "17_folded_compare", _DOCS, people=("Ann", "ann")),
    Case("leaky", "19_insert_check_true", _FORGES),
    Case("leaky", "21_delete_using_true", _DELETES),
    Case("leaky", "23_restrictive_select_only", _DELETES),
    Case("leaky", "25_current_user_owner", _DOCS),
    Case("leaky", "27_literal_backdoor", _reads("SELECT title FROM docs", NOBODY)),
    Case(
        "leaky",
        "29_shared_with_writable",
        _changes(
            "UPDATE docs SET user_id = :B WHERE user_id = :A",
            "SELECT NOT EXISTS (SELECT FROM docs WHERE user_id = :A)",
        ),
    ),
    Case("leaky", "31_case_else_true", _DOCS),
    Case("leaky", "33_immutable_plpgsql", _one_plan_for_two_users),
    Case("leaky", "35_definer_not_forced", _ALL_DOCS),
    Case(
        "leaky",
        "37_definer_policy_owner",
        _ALL_DOCS,
        before="CREATE ROLE case_reporter NOLOGIN",
        after="DROP ROLE case_reporter",
    ),
    Case("leaky", "39_function_set_clause", _reads("SELECT title FROM my_docs()")),
    Case("leaky", "41_leakproof_function", _notice),
    Case("leaky", "43_view_nested", _reads("SELECT title FROM doc_outer")),
    Case("leaky", "45_partition_granted", _reads("SELECT title FROM docs_eu")),
    Case(
        "leaky",
        "47_rls_missing",
        _reads("SELECT body FROM notes"),
        _all(_keeps(), _keeps("notes", text="body")),
    ),
    Case("leaky", "49_rls_dormant", _DOCS),
    Case(
        "leaky",
        "51_rewrite_rule",
        _changes(
            "UPDATE docs SET title = 'X-1'",
            "SELECT NOT EXISTS (SELECT FROM tickets WHERE user_id = :A)",
        ),
    ),
    Case("leaky", "53_fk_blocks_delete", _points_at_anothers_row),
    Case("leaky", "55_exclusion_oracle", _is_taken),
    Case(
        "leaky",
        "57_role_default",
        _reads("SELECT title FROM docs", None),
        after="ALTER ROLE app_user RESET ALL",
    ),
    Case(
        "leaky",
        "59_member_bypassrls",
        _reads("SELECT title FROM docs", before="SET ROLE case_bypass"),
        before="CREATE ROLE case_bypass NOLOGIN BYPASSRLS;"
        "GRANT case_bypass TO app_user WITH INHERIT TRUE, SET TRUE",
        after="DROP ROLE case_bypass",
    ),
    Case(
        "leaky",
        "61_truncate_granted",
        _changes("TRUNCATE docs", "SELECT NOT EXISTS (SELECT FROM docs WHERE user_id = :A)"),
    ),
    Case(
        "leaky",
        "63_set_role_policy",
        _reads("SELECT title FROM docs", before="SET ROLE case_staff_set"),
        before="CREATE ROLE case_staff_set NOLOGIN;"
        "GRANT case_staff_set TO app_user WITH INHERIT FALSE, SET TRUE",
        after="DROP ROLE case_staff_set",
    ),
    Case(
        "leaky",
        "65_self_promotion",
        _reads("SELECT title FROM docs", before="UPDATE users SET is_admin = true"),
    ),
    Case("leaky", "67_notify_payload", _hears),
    Case("safe", "01_canonical", _cross()),
    Case("safe", "03_tenant_and_user", _cross(), settings={"app.tenant_id": "1"}),
    Case("safe", "05_membership_exists", _TEAM, _READS_TEAM),
    Case(
        "safe",
        "07_membership_definer",
        _any(_TEAM, _reads("SELECT my_teams()", secret="1")),
        _READS_TEAM,
    ),
    Case("safe", "09_admin_role", _cross()),
    Case("safe", "11_lookup_table", _cross()),
    Case("safe", "13_partitioned_forced", _any(_cross(), _reads("SELECT title FROM docs_eu"))),
    Case(
        "safe",
        "15_bound_owner_view",
        _any(_cross(), _reads("SELECT title FROM doc_titles")),
        _all(_keeps(), _keeps("doc_titles", write=False)),
    ),
    Case("safe", "17_per_command", _cross()),
    Case("safe", "19_shared_read_only", _cross()),
    Case("safe", "21_composite_fk", _cross()),
    Case(
        "safe",
        "23_bigint_tenant",
        _cross(column="tenant_id"),
        _keeps(column="tenant_id"),
        people=("7", "8"),
        setting="app.tenant_id",
    ),
    Case("safe", "25_jwt_claims", _cross(), _reads_own_claims, setting="request.jwt.claims"),
    Case("safe", "27_bound_definer", _any(_cross(), _reads("SELECT doc_count()", secret="2"))),
    Case("safe", "29_outbox", _cross()),
    Case("safe", "31_raising_form", _cross()),
    Case("safe", "33_two_owners", _cross()),
]
