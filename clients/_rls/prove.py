"""Try to break the isolation of two users for real, in a transaction that is rolled back.

As an administrator, rows of two users are added to every table of users' rows. Then, as the
application's role, one user tries everything to see, change, remove or forge the other's: SELECT,
INSERT, UPDATE, DELETE, TRUNCATE, upsert, and each view and function that the role may use; reading
too as each role that SET ROLE reaches, with other settings that the policies read, and after each
function that changes a setting of the identity. What succeeds is a leak, reported as statements
that anybody can run.

What PostgreSQL does outside of transactions stays: sequences go on, and functions that call out of
the database, or write files, have done so. Run it where that does no harm.
"""

from __future__ import annotations

import itertools
import json
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid5

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import Identifier, Literal

from .check import Check
from .constants import literals, other_settings
from .finding import Leak, Proof
from .identity import universes
from .worlds import domain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .identity import Person, Universe

__all__ = ["prove"]

_MARK: Final = "row of another user"
_NAMESPACE: Final = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
_MAX_CALLS: Final = 16
_MAX_SETTINGS: Final = 8
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Outcome(NamedTuple):
    """What a statement returned, how many rows it touched, and the SQLSTATE that it failed with."""

    rows: list[Any]
    touched: int
    error: str | None


@dataclass
class _Row:
    """A row that was added for somebody: where it is, and its values."""

    table: str
    person: Person
    values: dict[str, Any]
    key: str


def prove(
    application: psycopg.Connection[Any],
    admin: psycopg.Connection[Any],
    identity: str | Mapping[str, Any] | None,
    *,
    role: str | None = None,
) -> Proof:
    """Try everything, and return what succeeded.

    Args:
        application: A connection of the application's role, in autocommit mode: it reads the
            catalogue.
        admin: A connection of a role that row-level security does not bind, and that may take the
            application's role.
        identity: The client's settings, or one setting's name.
        role: The role that the application takes with ``SET ROLE``, if any.

    Raises:
        psycopg.Error: The administrator may not do what is needed.
    """
    return _Attempt(admin, _Schema(Check(application, identity, role))).run()


class _Schema:
    """What is to be tried: the tables of users' rows, the views and the functions."""

    def __init__(self, check: Check) -> None:
        self.check, self.tables, self.relations = check, check.tables, check.relations
        self.role = check.roles[0]
        texts = [text for text in check.catalogue.expressions.values() if isinstance(text, str)]
        policies = [
            t
            for r in self.relations.values()
            for p in r.policies
            for t in (p.using, p.check)
            if t is not None
        ]
        sources = check.functions.sources(set(check.functions.facts))
        kinds = universes(check.identity, [*policies, *texts, *sources], frozenset())
        self.universe: Universe = kinds[0]
        self.other_roles: list[str] = check.catalogue.facts["role"][0][1]["settable"]
        self._texts = [*policies, *sources]
        self._references = [key for _, key in check.catalogue.facts.get("reference", [])]

    def owners(self, name: str) -> dict[str, str]:
        """Return the columns that tell whose a row is, each with its setting."""
        return self.check.owner_settings(name)

    def isolated(self) -> list[str]:
        """Return the tables of users' rows, those that others refer to first."""
        names = [
            name for name, facts in self.tables.items()
            if facts["reachable"] and not facts["foreign"] and self.owners(name)
            and not facts["parent_reachable"]
        ]  # fmt: skip
        ordered: list[str] = []
        while len(ordered) < len(names):
            left = [name for name in names if name not in ordered]
            free = [
                name
                for name in left
                if not any(
                    key["on"] == name and key["to"] in left and key["to"] != name
                    for key in self._references
                )
            ]
            ordered += free or left
        return ordered

    def parent(self, name: str, column: str) -> tuple[str, str] | None:
        """Return the table and column that a column refers to."""
        for key in self._references:
            if key["on"] == name and column in key["columns"]:
                return key["to"], key["keys"][key["columns"].index(column)]
        return None

    def insertable(self, name: str) -> list[str]:
        """Return the columns that the role may give values for."""
        return [c["name"] for c in self.tables[name]["columns"] if c["insert"]]

    def readable_views(self) -> list[str]:
        """Return the views and copies that the role may read."""
        views = self.check.views
        others = [
            n
            for n, t in self.tables.items()
            if t["reachable"] and t["select"] and (not self.owners(n) or t["parent_reachable"])
        ]
        return [*(n for n, v in views.items() if v["usable"] and v["granted"]), *others]

    def is_ownerless(self, name: str) -> bool:
        """Return whether policies tell users apart in a table, and no column tells whose a row is.

        Args:
            name: The table's name.
        """
        told = [verdict for _, verdict in self.check.verdicts.get((name, None), [])]
        return not self.owners(name) and any(v.isolated or v.undecided for v in told)

    def views_of(self, role: str) -> list[str]:
        """Return the views that a role may read, if it has its own grants."""
        return [n for n, v in self.check.views.items() if role in v["readers"]]

    def other_settings(self) -> Iterator[tuple[str, str]]:
        """Yield settings that are none of the identity's and that policies read, with values."""
        names = other_settings(self._texts, self.universe.owner.settings)
        words = [word for word in literals(self._texts) if word and word not in names]
        for name in names[:_MAX_SETTINGS]:
            for value in dict.fromkeys(["on", "true", "1", "admin", *words[:_MAX_SETTINGS]]):
                yield name, value

    def calls(
        self, arguments: Callable[[Sequence[str]], Iterator[tuple[str, ...]]]
    ) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield the functions that the role may call, each with calls of it."""
        for facts in self.check.functions.facts.values():
            plain = facts["kind"] in ("f", "p") and facts["returns"] not in (
                "trigger", "event_trigger", "internal", "cstring",
            )  # fmt: skip
            if facts["callable"] and plain:
                start = "CALL" if facts["kind"] == "p" else "SELECT * FROM"
                types = [argument["type"] for argument in facts["arguments"]]
                yield (
                    facts["object"],
                    (
                        f"{start} {facts['qualified']}({', '.join(values)})"
                        for values in arguments(types)
                    ),
                )


@dataclass
class _Attempt:
    admin: psycopg.Connection[Any]
    schema: _Schema
    leaks: list[Leak] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    untried: dict[str, str] = field(default_factory=dict)
    rows: list[_Row] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def run(self) -> Proof:
        """Try all objects, and leave nothing behind."""
        universe = self.schema.universe
        self.owner, self.other = universe.owner, universe.others[1]
        self._execute("BEGIN")
        try:
            self._execute("SET LOCAL row_security = off")
            with self._undone():
                self._execute(f"SET LOCAL ROLE {Identifier(self.schema.role).as_string(None)}")
            # Where the administrator may, foreign keys and triggers do not stand in the way.
            with suppress(psycopg.errors.InsufficientPrivilege), self._undone(only_on_error=True):
                self._execute("SET LOCAL session_replication_role = replica")
            names = self.schema.isolated()
            for name in names:
                for person in (self.owner, self.other):
                    self._seed(name, person)
            with suppress(psycopg.errors.InsufficientPrivilege), self._undone(only_on_error=True):
                self._execute("SET LOCAL session_replication_role = origin")
            self._marks = self._marks_of(self.owner)
            self._try_all(names)
        finally:
            if not self.admin.closed:
                self.admin.execute("ROLLBACK")
        unique = {(leak.object, leak.what): leak for leak in reversed(self.leaks)}
        return Proof(list(reversed(unique.values())), self.tried, self.untried)

    def _try_all(self, names: Sequence[str]) -> None:
        for name in names:
            if any(row.table == name and row.person is self.owner for row in self.rows):
                self._try_table(name)
                self.tried.append(name)
        for name in self.schema.readable_views():
            self._try_reading(name, f"SELECT * FROM {name}", self.other)
            if name in self.schema.tables and self.schema.is_ownerless(name):
                self.untried[name] = "no column tells whose its rows are, so none could be added"
            else:
                self.tried.append(name)
        for name, calls in self.schema.calls(self._arguments):
            for call in itertools.islice(calls, _MAX_CALLS):
                self._try_calling(f"function {name}", call)
                self._try_becoming(f"function {name}", call, names)
            self.tried.append(f"function {name}")
        self._try_otherwise(names)

    def _try_otherwise(self, names: Sequence[str]) -> None:
        """Try to read as other roles, and with other values of settings that policies read."""
        for role in self.schema.other_roles:
            quoted = Identifier(role).as_string(None)
            for name in [*names, *self.schema.views_of(role)]:
                self._try_reading(
                    name, f"SELECT * FROM {name}", self.other, self._row_of(name),
                    before=(f"SET LOCAL ROLE {quoted}",), how=f", as role {quoted}",
                )  # fmt: skip
            self.tried.append(f"role {quoted}")
        for setting, value in self.schema.other_settings():
            line = f"SELECT set_config({_literal(setting)}, {_literal(value)}, true)"
            for name in names:
                self._try_reading(
                    name, f"SELECT * FROM {name}", self.other, self._row_of(name),
                    before=(line,), how=f", with another value of {setting}",
                )  # fmt: skip

    def _row_of(self, name: str) -> _Row | None:
        return next((r for r in self.rows if r.table == name and r.person is self.owner), None)

    def _try_becoming(self, name: str, call: str, tables: Sequence[str]) -> None:
        """Try whether a function changes who the user is, and what then shows."""
        settings = list(self.owner.settings)
        read = ", ".join(f"current_setting({_literal(setting)}, true)" for setting in settings)
        with self._undone():
            outcome = self._act(self.other, f"SELECT {read}", before=(call,))
        mine = [self.other.settings[setting] for setting in settings]
        if outcome.error is None and [*outcome.rows[0]] != mine:
            for table in tables:
                self._try_reading(
                    name, f"SELECT * FROM {table}", self.other, self._row_of(table),
                    before=(call,), how=f" of {table}, after calling it",
                )  # fmt: skip

    # -- rows of two users --

    def _seed(self, name: str, person: Person) -> None:
        values = self._values(name, person)
        statement = _insert(name, values)
        try:
            with self._undone(only_on_error=True):
                returned = f"{statement} RETURNING to_jsonb({self.schema.tables[name]['quoted']})"
                ((stored,),) = self._execute(returned)
        except psycopg.Error as error:
            self.untried[name] = f"no row could be added: {error.diag.message_primary}"
            return
        keys = [c["name"] for c in self.schema.tables[name]["columns"] if c["key"]][:1]
        known = [k for k, v in values.items() if not isinstance(v, (list, dict)) and v is not None]
        key = " AND ".join(
            f"{Identifier(k).as_string(None)} = {_literal(stored[k])}" for k in keys or known
        )
        self.rows.append(_Row(name, person, stored, key))
        self.log.append(f"{statement};")

    def _values(self, name: str, person: Person) -> dict[str, Any]:
        """Return a row for somebody: the owner's columns, and what has to be there."""
        relation, universe = self.schema.relations[name], self.schema.universe
        owners = self.schema.owners(name)
        values: dict[str, Any] = {}
        for column in relation.columns.values():
            own = owners.get(column["name"])
            token = min(person.tokens[own]) if own else None
            if token is not None:
                values[column["name"]] = token
            elif (
                column["identity"]
                or column["generated"]
                or (column["name"] in relation.defaults and not column["key"])
            ):
                continue
            elif (parent := self.schema.parent(name, column["name"])) and (
                row := next((r for r in self.rows
                             if r.table == parent[0] and r.person is person), None)
            ):  # fmt: skip
                values[column["name"]] = row.values[parent[1]]
            elif column["base"] in ("text", "character varying"):
                values[column["name"]] = f"{_MARK} {min(person.names)}"
            elif column["base"] == "uuid":
                seed = f"{name}.{column['name']}.{min(person.names)}"
                values[column["name"]] = str(uuid5(_NAMESPACE, seed))
            elif column["key"] and column["base"] in ("integer", "bigint"):
                values[column["name"]] = 2_000_000_000 + (person is self.owner)
            elif column["required"]:
                usual = [v for v in domain(column, [], universe).typical if v is not None]
                values[column["name"]] = usual[0] if usual else None
        return values

    def _marks_of(self, person: Person) -> list[str]:
        """Return the texts that stand in one user's rows alone."""
        marks = {f"{_MARK} {min(person.names)}"}
        for row in self.rows:
            if row.person is person:
                marks |= {str(v) for v in row.values.values() if _is_mark(v)}
        for row in self.rows:
            if row.person is not person:
                marks -= {str(v) for v in row.values.values()}
        return sorted(marks - person.names)

    # -- attempts --

    def _try_table(self, name: str) -> None:
        facts = self.schema.tables[name]
        row = next(r for r in self.rows if r.table == name and r.person is self.owner)
        for user in (self.other, None):
            self._try_reading(name, f"SELECT * FROM {name}", user, row)
        change = self._changeable(name)
        if change:
            # A constant: what reads a column is also held to the policies for SELECT.
            value = _literal(row.values[self._changeable_name(name)])
            self._try_change(name, row, f"UPDATE {name} SET {change} = {value}", "changes")
        if facts["delete"]:
            self._try_change(name, row, f"DELETE FROM {name}", "removes")
        if facts["truncate"]:
            self._try_change(name, row, f"TRUNCATE {name} CASCADE", "removes")
        if facts["insert"]:
            self._try_adding(name, row, change)
        for column in self.schema.owners(name):
            if facts["update"] and self.schema.relations[name].columns[column]["update"]:
                quoted, value = Identifier(column).as_string(None), _literal(row.values[column])
                statement = f"UPDATE {name} SET {quoted} = {value}"
                self._try_forging(name, statement, "hands over a row to another")

    def _changeable_name(self, name: str) -> str:
        """Return a column that the role may change, if possible no key and not an owner's."""
        columns = [
            c for c in self.schema.tables[name]["columns"] if c["update"] and not c["generated"]
        ]
        owners = self.schema.owners(name)
        columns.sort(key=lambda column: (column["name"] in owners, column["key"]))
        return columns[0]["name"] if columns else ""

    def _changeable(self, name: str) -> str | None:
        column = self._changeable_name(name)
        return Identifier(column).as_string(None) if column else None

    def _try_adding(self, name: str, row: _Row, change: str | None) -> None:
        facts, owners = self.schema.tables[name], self.schema.owners(name)
        allowed = self.schema.insertable(name)
        keys = [c for c in facts["columns"] if c["key"]]
        fresh = self._values(name, self.owner)
        for column in keys:
            if column["name"] in fresh and column["name"] not in owners:
                fresh[column["name"]] = _other_key(fresh[column["name"]])
        self._try_forging(name, _insert(name, fresh, allowed), "adds a row as another")
        if keys and change:
            taken = _insert(name, row.values, allowed)
            upsert = (
                f"{taken} ON CONFLICT ({keys[0]['quoted']}) "
                f"DO UPDATE SET {change} = excluded.{change}"
            )
            self._try_change(name, row, upsert, "changes, by an upsert,")

    def _try_reading(
        self,
        name: str,
        statement: str,
        user: Person | None,
        row: _Row | None = None,
        *,
        before: Sequence[str] = (),
        how: str = "",
    ) -> None:
        with self._undone():
            outcome = self._act(user, statement, before=before)
            text = json.dumps([[str(value) for value in line] for line in outcome.rows])
            shown = row is not None and any(self._is(line, row) for line in outcome.rows)
            if shown or any(mark in text for mark in self._marks):
                who = "nobody" if user is None else "another user"
                self._leak(name, f"{who} reads a user's row{how}", user, statement, before)

    def _try_calling(self, name: str, statement: str) -> None:
        self._try_reading(name, statement, self.other)
        with self._undone():
            before = [self._place(row) for row in self.rows if row.person is self.owner]
            outcome = self._act(self.other, statement)
            after = [self._place(row) for row in self.rows if row.person is self.owner]
            if outcome.error is None and before != after:
                self._leak(name, "another user changes a user's row", self.other, statement)

    def _try_change(self, name: str, row: _Row, statement: str, what: str) -> None:
        with self._undone():
            before = self._place(row)
            outcome = self._act(self.other, statement)
            if outcome.error is None and self._place(row) != before:
                self._leak(name, f"another user {what} a user's row", self.other, statement)

    def _try_forging(self, name: str, statement: str, what: str) -> None:
        with self._undone():
            outcome = self._act(self.other, statement)
            # Constraints are tested after the policies: such a row has passed those.
            # https://www.postgresql.org/docs/18/sql-createpolicy.html
            passed = (outcome.error or "").startswith("23")
            if passed or (outcome.error is None and outcome.touched):
                self._leak(name, f"a user {what} user", self.other, statement)

    def _place(self, row: _Row) -> list[Any]:
        """Return where a row is stored: each change stores it anew."""
        return self._execute(f"SELECT ctid::text FROM {row.table} WHERE {row.key}")

    def _is(self, line: Sequence[Any], row: _Row) -> bool:
        columns = [c["name"] for c in self.schema.tables[row.table]["columns"]]
        seen = dict(zip(columns, map(str, line), strict=False))
        owners = self.schema.owners(row.table)
        return bool(owners) and all(seen.get(name) == str(row.values[name]) for name in owners)

    def _arguments(self, types: Sequence[str]) -> Iterator[tuple[str, ...]]:
        choices = []
        for kind in types:
            column = {
                "base": kind,
                "element": None,
                "labels": None,
                "required": True,
                "generated": False,
            }
            values = domain(column, [], self.schema.universe).values
            keys = [v for r in self.rows if r.person is self.owner for v in r.values.values()]
            if kind == "uuid":
                values = [
                    *(k for k in keys if isinstance(k, str) and _UUID.fullmatch(k)),
                    *values,
                ]
            texts = [f"{_literal(v)}::{kind}" for v in values if v is not None]
            choices.append([*dict.fromkeys(texts)][:6] or [f"NULL::{kind}"])
        return itertools.product(*choices)

    # -- the connection --

    def _execute(self, statement: str) -> list[Any]:
        with self.admin.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(statement.encode(), prepare=False)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def _undone(self, *, only_on_error: bool = False) -> Iterator[None]:
        """Undo what the block does, or what it did until it failed."""
        self.admin.execute("SAVEPOINT attempt")
        try:
            yield
        except BaseException:
            if not self.admin.closed:
                self.admin.execute("ROLLBACK TO attempt")
            raise
        if not only_on_error:
            self.admin.execute("ROLLBACK TO attempt")
        self.admin.execute("RELEASE attempt")

    def _act(self, user: Person | None, statement: str, *, before: Sequence[str] = ()) -> _Outcome:
        """Run a statement as the application's role for a user, or for nobody."""
        try:
            with (
                self._undone(only_on_error=True),
                self.admin.cursor(row_factory=tuple_row) as cursor,
            ):
                for line in (*self._lines(user), *before):
                    cursor.execute(line.encode(), prepare=False)
                cursor.execute(statement.encode(), prepare=False)
                rows = cursor.fetchall() if cursor.description else []
                count = cursor.rowcount
                cursor.execute(b"RESET ROLE", prepare=False)
                cursor.execute(b"SET LOCAL row_security = off", prepare=False)
                return _Outcome(rows, count, None)
        except psycopg.Error as error:
            if self.admin.closed:
                raise
            return _Outcome([], 0, error.sqlstate or "?")

    def _lines(self, user: Person | None) -> list[str]:
        """Return the statements that make the session the application's, for a user."""
        settings = dict.fromkeys(self.owner.settings, "") if user is None else user.settings
        return [
            "SET LOCAL row_security = on",
            f"SET LOCAL ROLE {Identifier(self.schema.role).as_string(None)}",
            *(
                f"SELECT set_config({_literal(n)}, {_literal(v)}, true)"
                for n, v in settings.items()
            ),
        ]

    def _leak(
        self,
        name: str,
        what: str,
        user: Person | None,
        statement: str,
        before: Sequence[str] = (),
    ) -> None:
        tried = (*self._lines(user), *before, statement)
        lines = [*self.log, *(f"{line};" for line in tried)]
        text = "\n".join(["BEGIN;", *lines, "ROLLBACK;"])
        self.leaks.append(Leak(name, what, text))


def _insert(name: str, values: Mapping[str, Any], allowed: Sequence[str] | None = None) -> str:
    used = {k: v for k, v in values.items() if allowed is None or k in allowed}
    columns = ", ".join(Identifier(column).as_string(None) for column in used)
    return f"INSERT INTO {name} ({columns}) VALUES ({', '.join(map(_literal, used.values()))})"


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "'{" + ",".join(json.dumps(v) for v in value).replace("'", "''") + "}'"
    if isinstance(value, dict):
        return Literal(json.dumps(value)).as_string(None)
    return Literal(value if isinstance(value, (bool, int, type(None))) else str(value)).as_string(
        None
    )


def _is_mark(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith(_MARK) or bool(_UUID.fullmatch(value)))


def _other_key(value: Any) -> Any:
    if isinstance(value, int):
        return value + 10
    return str(uuid5(_NAMESPACE, value)) if _UUID.fullmatch(value) else f"{value} too"
