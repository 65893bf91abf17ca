"""Find where row-level security does not hold, as the application role sees the database.

==============================  ===============================================================
rule                            what it finds
==============================  ===============================================================
rls-disabled                    a user's table without RLS, or with policies that are switched off
rls-not-forced                  RLS that does not bind the table's owner
no-policy                       RLS without a permissive policy for this role: it sees no row
policy-always-true              a policy that lets every row pass
policy-open-without-context     a policy that lets every row pass when no user is set
policy-ignores-setting          a policy that does not compare the row with our setting
cast-without-nullif             a cast that raises once the setting reads ``''``
evaluated-per-row               a setting read for each row instead of once for the statement
policy-column-without-index     a policy's column that no index serves
truncate-granted                TRUNCATE, which no policy restrains
partition-reachable             a partition or child that lets its parent's policies be passed by
view-without-security-invoker   a view that reads with its owner's rights
materialized-view               a copy of protected rows, which no policy restrains
security-definer                a function that reads with the rights of an owner RLS does not bind
==============================  ===============================================================

A user's table is one with a column ``user_id``, or with one that another table's policy compares
with the setting. What this role cannot reach, system schemas and extensions are left out.

It reads definitions and not their meaning, so it has limits: it does not see through a helper
function beyond whether it mentions the setting, nor into dynamic SQL. Of a function it looks for
names in the source. Expressions in a mend are printed for this role's ``search_path``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.rows import tuple_row
from psycopg.sql import Literal

from .catalogue import FACTS_QUERY
from .clause import Clause, Column, Scope, mend_casts
from .finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

__all__ = ["Finding", "check_rls"]

_WHY = {
    "policy-always-true": "lets every row pass, whoever asks",
    "policy-open-without-context": "lets every row pass when no user is set",
    "policy-ignores-setting": "does not compare the row with {setting}, so it tells no user's rows "
    "from another's",
    "cast-without-nullif": "casts {setting} without NULLIF: the setting reads '' on a used "
    "connection, and the cast then raises instead of finding nothing",
    "evaluated-per-row": "reads {setting} for each row: in a sub-select it is read once for the "
    "statement",
}
_OPENING = ("policy-always-true", "policy-open-without-context", "policy-ignores-setting")


class _Policy(NamedTuple):
    facts: dict[str, Any]
    clauses: dict[str, Clause]

    @property
    def commands(self) -> str:
        return "rawd" if self.facts["command"] == "*" else str(self.facts["command"])

    @property
    def sound(self) -> bool:
        """Whether each of its clauses ties the row to a user."""
        return bool(self.clauses) and not any(
            rule in _OPENING for clause in self.clauses.values() for rule in self.faults(clause)
        )

    def faults(self, clause: Clause) -> Iterator[str]:
        if clause.always_true:
            yield "policy-always-true"
        elif clause.open_without_context:
            yield "policy-open-without-context"
        elif clause.ignores_setting and not clause.never and not self.facts["leans_on_rls"]:
            yield "policy-ignores-setting"
        if clause.casts:
            yield "cast-without-nullif"
        if clause.per_row:
            yield "evaluated-per-row"


@dataclass(frozen=True)
class _Table:
    name: str
    facts: dict[str, Any]
    columns: dict[str, Column]
    policies: list[_Policy]

    @property
    def compared(self) -> list[Column]:
        """The columns that its policies compare with our setting."""
        clauses = [clause for policy in self.policies for clause in policy.clauses.values()]
        return [found.column for clause in clauses for found in clause.comparisons]


def check_rls(
    connection: psycopg.Connection[Any], setting: str = "app.current_user_id"
) -> list[Finding]:
    """Look for everything that makes row-level security leak, fail or crawl for this role.

    Needs no rights of its own, changes nothing, and takes one round trip in autocommit mode.

    Args:
        connection: A connection of the application role.
        setting: The setting that holds the user's id.

    Returns:
        The findings, by object and rule; empty when all is well.

    Raises:
        psycopg.Error: The query failed.
    """
    # Where the server has a compiler, it would take a hundred times as long as the query itself.
    # One message is one transaction, at whose end the setting goes.
    query = FACTS_QUERY.replace("$1", Literal(setting).as_string(connection))
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(f"SET LOCAL jit = off; {query}".encode())
        cursor.nextset()
        rows = cursor.fetchall()
    facts: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for kind, name, details in rows:
        facts[kind].append((name, details))
    tables = [_table(name, details, setting) for name, details in facts["table"]]
    scoped = {"user_id"} | {c.name for table in tables for c in table.compared if not c.key}
    found = [finding for table in tables for finding in _check_table(table, scoped, setting)]
    found += [_check_view(name, details) for name, details in facts["view"] if _leaks(details)]
    found += [_check_function(name, details) for name, details in facts["function"]]
    for name, details in facts["reader"]:
        if mended := mend_casts(details["definition"], setting):
            why = _WHY["cast-without-nullif"].format(setting=setting)
            found.append(Finding("cast-without-nullif", f"function {name}", why, f"{mended};"))
    return sorted(found, key=lambda finding: (finding.object, finding.rule))


def _table(name: str, facts: dict[str, Any], setting: str) -> _Table:
    wanted = [field.name for field in fields(Column)]
    columns = {c["name"]: Column(**{key: c[key] for key in wanted}) for c in facts["columns"]}
    policies = []
    for policy in facts["policies"]:
        scope = Scope(setting, facts["name"], columns, frozenset(policy["readers"]))
        texts = {"USING": policy["using"], "WITH CHECK": policy["check"]}
        clauses = {kind: Clause(text, scope) for kind, text in texts.items() if text is not None}
        policies.append(_Policy(policy, clauses))
    return _Table(name, facts, columns, policies)


def _check_table(table: _Table, scoped: set[str], setting: str) -> Iterator[Finding]:
    facts, name = table.facts, table.name
    column = _user_column(table, scoped)
    enable = f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;"
    force = f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY;"
    if not facts["rls"] and facts["protected_parent"]:
        why = f"lets this role pass by the policies of {facts['protected_parent']}"
        revoke = f"REVOKE ALL ON {name} FROM {facts['grantees']};"
        fix = revoke if facts["foreign"] else f"{enable} {force}"
        yield Finding("partition-reachable", name, why, fix)
    elif not facts["rls"] and facts["policy_names"]:
        why = "has policies that do nothing: RLS is not enabled"
        fix = enable if facts["forced"] else f"{enable} {force}"
        yield Finding("rls-disabled", name, why, fix)
    elif not facts["rls"] and column and not (facts["foreign"] or facts["parent_reachable"]):
        why = f"has a user's rows, by its column {column.quoted}, and shows them to every user"
        new = _new_policy(table, column, setting)
        yield Finding("rls-disabled", name, why, f"{enable} {force} {new}")
    elif facts["rls"] and not facts["forced"]:
        why = "does not bind its owner: whatever runs as the owner passes the policies by"
        yield Finding("rls-not-forced", name, why, force)
    if (facts["rls"] or facts["policy_names"]) and facts["truncate"]:
        why = "can be emptied by this role for every user: no policy restrains TRUNCATE"
        fix = f"REVOKE TRUNCATE ON {name} FROM {facts['grantees']};"
        yield Finding("truncate-granted", name, why, fix)
    permissive = any(policy.facts["permissive"] for policy in table.policies)
    # A partition without policies lets nothing pass but through its parent: that is the mend.
    if facts["rls"] and not permissive and not facts["protected_parent"]:
        why = "has no permissive policy for this role: it finds no row and may write none"
        fix = f"REVOKE ALL ON {name} FROM {facts['grantees']};"
        yield Finding(
            "no-policy", name, why, _new_policy(table, column, setting) if column else fix
        )
    for policy in table.policies:
        yield from _check_policy(table, policy, column, setting)
    yield from _check_indexes(table, setting)


def _user_column(table: _Table, scoped: set[str]) -> Column | None:
    """Return the column that tells whose the row is: what a new expression should compare."""
    candidates = list(table.compared)
    for policy in table.policies:
        # A policy on another setting, such as a misspelt one, still knows the column.
        scope = Scope(None, table.facts["name"], table.columns)
        for clause in policy.clauses.values():
            candidates += [found.column for found in Clause(clause.text, scope).comparisons]
    candidates += [column for name, column in table.columns.items() if name == "user_id"]
    candidates += [column for name, column in table.columns.items() if name in scoped]
    return candidates[0] if candidates else None


def _new_policy(table: _Table, column: Column, setting: str) -> str:
    taken, name, number = set(table.facts["policy_names"]), "user_isolation", 1
    while name in taken:
        number += 1
        name = f"user_isolation_{number}"
    expected = _expected(table, column, setting)
    policy = f"CREATE POLICY {name} ON {table.name} USING ({expected}) WITH CHECK ({expected});"
    return policy if column.indexed else f"{policy} {_new_index(table, column)}"


def _expected(table: _Table, column: Column, setting: str) -> str:
    scope = Scope(setting, table.facts["name"], table.columns)
    return f"{column.quoted} = {scope.expected(column, setting)}"


def _new_index(table: _Table, column: Column) -> str:
    return f"CREATE INDEX ON {table.name} ({column.quoted});"


def _check_policy(
    table: _Table, policy: _Policy, column: Column | None, setting: str
) -> Iterator[Finding]:
    clauses_by_rule: dict[str, list[str]] = defaultdict(list)
    for kind, clause in policy.clauses.items():
        for rule in policy.faults(clause):
            clauses_by_rule[rule].append(kind)
    # A restrictive policy only ever takes away, so a lax one opens nothing by itself.
    harmless = not policy.facts["permissive"] or _is_restrained(table, policy)
    for rule, kinds in clauses_by_rule.items():
        if rule in _OPENING and harmless:
            continue
        target = f"{policy.facts['quoted']} ON {table.name}"
        mends = {kind: policy.clauses[kind].mended(setting) for kind in kinds}
        if column:
            mends = {k: text or _expected(table, column, setting) for k, text in mends.items()}
        if None in mends.values():
            fix = f"DROP POLICY {target};"
        else:
            fix = f"ALTER POLICY {target} " + " ".join(f"{k} ({t})" for k, t in mends.items()) + ";"
        why = f"{_WHY[rule].format(setting=setting)} ({' and '.join(kinds)})"
        where = f"policy {policy.facts['quoted']} on {table.name}"
        yield Finding(rule, where, why, fix)


def _is_restrained(table: _Table, policy: _Policy) -> bool:
    """Whether sound restrictive policies stand behind every command of this one."""
    restrictive = [
        other for other in table.policies if not other.facts["permissive"] and other.sound
    ]
    return all(any(c in other.commands for other in restrictive) for c in policy.commands)


def _check_indexes(table: _Table, setting: str) -> Iterator[Finding]:
    rule = "policy-column-without-index"
    told = set()
    for policy in table.policies:
        for kind, clause in policy.clauses.items():
            for comparison in clause.comparisons:
                column = comparison.column
                if column.quoted in told:
                    continue
                if not comparison.bare and not table.facts["expression_index"]:
                    told.add(column.quoted)
                    why = f"casts {column.quoted} before it compares, so no index on it serves"
                    fix = f"ALTER POLICY {policy.facts['quoted']} ON {table.name} "
                    mended = clause.mended(setting) or _expected(table, column, setting)
                    index = "" if column.indexed else f" {_new_index(table, column)}"
                    where = f"policy {policy.facts['quoted']} on {table.name}"
                    yield Finding(rule, where, why, f"{fix}{kind} ({mended});{index}")
                elif comparison.bare and not column.indexed:
                    told.add(column.quoted)
                    why = f"has no index led by {column.quoted}: every query reads the whole table"
                    yield Finding(rule, table.name, why, _new_index(table, column))


def _leaks(view: dict[str, Any]) -> bool:
    return bool(view["materialized"] or not view["invoker"])


def _check_view(name: str, facts: dict[str, Any]) -> Finding:
    if facts["materialized"]:
        why = "is a copy of protected rows, and no policy restrains it"
        fix = f"REVOKE ALL ON {name} FROM {facts['grantees']};"
        return Finding("materialized-view", name, why, fix)
    why = "reads protected tables with its owner's rights instead of this role's"
    fix = f"ALTER VIEW {name} SET (security_invoker = true);"
    return Finding("view-without-security-invoker", name, why, fix)


def _check_function(name: str, facts: dict[str, Any]) -> Finding:
    why = f"runs with the rights of {facts['owner']}, whom RLS does not bind"
    fix = f"ALTER ROUTINE {name} SECURITY INVOKER;"
    return Finding("security-definer", f"function {name}", why, fix)
