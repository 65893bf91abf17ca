"""Find where row-level security does not hold, as the application role sees the database.

==============================  ===============================================================
rule                            what it finds
==============================  ===============================================================
role-bypasses-rls               a role that policies do not bind, or that can become one
rls-disabled                    a user's table without RLS, or with policies that are switched off
rls-not-forced                  RLS that does not bind the table's owner
no-policy                       RLS without a permissive policy for this role: it sees no row
policy-always-true              a policy that lets every row pass
policy-open-without-context     a policy that lets every row pass when no user is set
policy-default-user             a policy that takes nobody for a user that it names
policy-ignores-setting          a policy that does not compare the row with our settings
policy-passes-other-rows        a policy that lets another user's row pass
policy-uncorrelated             a sub-select that names the user, but not the row
policy-ownerless-rows           rows that name no owner, which every user may change
policy-partial-identity         one value of the identity is enough where it has several
policy-hidden-rows-shown        rows of others shown in a state that does not look meant for it
shared-row-writable             who may read a shared row may change it
self-enrolment                  a user may write the row that opens others' rows to them
policy-raises                   policies that raise an error for every user
policy-not-proven               a policy that could not be evaluated
setting-not-in-identity         a policy that reads a setting which the identity does not set
cast-without-nullif             a cast that raises once the setting reads ``''``
evaluated-per-row               a setting read for each row instead of once for the statement
policy-column-without-index     a policy's column that no index serves
truncate-granted                TRUNCATE, which no policy restrains
trigger-granted                 TRIGGER, with which this role's code runs when others write
partition-reachable             a partition or child that lets its parent's policies be passed by
view-without-security-invoker   a view that reads with its owner's rights
materialized-view               a copy of protected rows, which no policy restrains
history-table                   a table that holds copies of protected rows, without RLS
foreign-table                   a foreign table with users' rows, which no policy can restrain
large-object                    large objects of a protected table
security-definer                a function that reads with the rights of an owner RLS does not bind
trigger-definer                 a trigger that acts on other tables with such rights
notify-payload                  a trigger that sends rows to every listener
rewrite-rule                    a rule that acts with the rights of the table's owner
set-role                        a role that this one may take, for which policies are lax
immutable-function              a policy's function that is IMMUTABLE and reads a setting
policy-function-owned           a policy's function that this role owns, and may replace
identity-kept                   a domain, index or partition key that keeps who a user was
leakproof-function              a user's function that is LEAKPROOF
function-sets-identity          a function that sets a setting of ours
identity-default                a default of a setting of ours, at role or database
identity-not-signed             a policy that reads plain what others read signed
identity-key-granted            a key that signs identities, and that this role may read
unscoped-unique                 a unique or exclusion constraint across all users
foreign-key-crosses-users       a foreign key that lets a user's row point at another's
statistics-readable             samples of all users' values, which ANALYZE keeps
sequence-readable               a sequence that tells how many rows all users add
publication                     a publication of protected tables
role-attribute                  REPLICATION, CREATEROLE, or access to the server's files
server-version                  a release of PostgreSQL with a known hole in RLS
==============================  ===============================================================

A user's table is one with a column ``user_id``, with one that another table's policy compares with
a setting, or with a foreign key to a table of users' rows. What this role cannot reach, system
schemas and extensions are left out.

Policies are judged by evaluating them (`clients._rls.evaluate`, `clients._rls.judge`): what they
mean, and not how they are written. What cannot be evaluated is reported as not proven. Functions
are called as they are, over the rows that exist; what a function may reach is found by the names in
its source, and where its body is one query, that is evaluated too.

No leak is found that waits for a date, or in a table that refers to a protected one without a
foreign key.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from psycopg.sql import Identifier

from .bodies import Body, function_body
from .catalogue import read_catalogue
from .clause import Clause, Column, Scope, mend_casts
from .constants import other_settings
from .evaluate import evaluate
from .finding import Finding
from .identity import (
    DEFAULT_SETTING,
    INTEGER_TYPES,
    TEXT_TYPES,
    IdentitySetting,
    parse_identity,
    universes,
)
from .inline import definer_name, inline
from .judge import Policy, Relation, Trial, Verdict
from .kept import kept_identities
from .paths import Functions, Paths
from .policies import policy_findings
from .role import find_bypass
from .signed import SignedIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import psycopg

__all__ = ["MAX_OTHER_ROLES", "Check", "Finding", "check_rls"]

#: At most this many roles that SET ROLE reaches are checked as well.
MAX_OTHER_ROLES = 4

_LIKELY = ("user_id", "owner_id", "owner", "tenant_id", "account_id", "author_id", "created_by")


def check_rls(
    connection: psycopg.Connection[Any],
    identity: str | Mapping[str, Any] | None = DEFAULT_SETTING,
    *,
    role: str | None = None,
) -> list[Finding]:
    """Find everything that makes row-level security leak, fail or run slowly for this role.

    Needs no rights of its own and writes nothing. Reads the catalogue in one round trip, and
    evaluates policies in at most `MAX_MESSAGES` further ones, in transactions that are read-only
    and rolled back, for at most `EVALUATION_SECONDS`. As much again for each role that SET ROLE
    alone reaches, of which `MAX_OTHER_ROLES` are checked at most.

    Args:
        connection: A connection of the application role, in autocommit mode.
        identity: The client's settings by name (`RlsSetting`), or one setting's name.
        role: The role that the application takes with ``SET ROLE``, if any.

    Returns:
        The findings, by object and rule; empty when all is well.

    Raises:
        psycopg.Error: A query failed.
    """
    check = Check(connection, identity, role)
    found = [
        Finding("role-bypasses-rls", f"role {bypass.role}", bypass.why, bypass.fix)
        for bypass in find_bypass(connection, role)
        if bypass.kind != "owner"
    ]
    found += check.findings()
    if role is None:
        found += _as_other_roles(connection, check, found)
    unique = dict.fromkeys(found)
    return sorted(unique, key=lambda finding: (finding.object, finding.rule))


def _as_other_roles(
    connection: psycopg.Connection[Any], check: Check, found: list[Finding]
) -> Iterator[Finding]:
    """Yield what leaks to the roles that this one may take with SET ROLE, and not to itself."""
    known = {(finding.rule, finding.object) for finding in found}
    told = {finding.object for finding in found if finding.rule == "set-role"}
    settable = check.catalogue.facts["role"][0][1]["settable"]
    for name in settable[:MAX_OTHER_ROLES]:
        quoted = Identifier(name).as_string(None)
        if f"role {quoted}" in told:
            continue
        for finding in Check(connection, check.given, name).findings():
            if finding.severity == "leak" and (finding.rule, finding.object) not in known:
                yield check.taken(name, f"{finding.object} {finding.why}")
                break


@dataclass
class _Owner:
    """Whose the rows of a table are: the column, and the setting that it is compared with."""

    column: Column
    setting: IdentitySetting


class Check:
    """A database's policies as they bind one role: read, and evaluated.

    Args:
        connection: A connection of the role, in autocommit mode.
        identity: The client's settings.
        role: The role that the application takes with ``SET ROLE``, if any.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        identity: str | Mapping[str, Any] | None,
        role: str | None,
    ) -> None:
        self.signed = SignedIdentity(read_catalogue(connection, role))
        catalogue = self.signed.catalogue
        self.given = identity
        self.catalogue, self.identity = catalogue, parse_identity(identity)
        self.settings = [s.setting for s in self.identity]
        self.functions = Functions(catalogue)
        self.tables: dict[str, dict[str, Any]] = dict(catalogue.facts.get("table", []))
        self.views: dict[str, dict[str, Any]] = dict(catalogue.facts.get("view", []))
        names = catalogue.facts["role"][0][1]
        self.roles = list(dict.fromkeys([names["user"], names["session"]]))
        self._opaque: set[str] = set()
        self._seen_by: set[tuple[str, str]] = set()
        self.relations = {name: self._relation(name, None) for name in self.tables}
        self.trials: dict[tuple[str, str | None], list[Trial]] = {}
        self.bodies: dict[str, list[Body]] = {}
        self.verdicts: dict[tuple[str, str | None], list[tuple[bool, Verdict]]] = {}
        self._named = self._owner_names()
        self._evaluate(connection, None if role is None else Identifier(role).as_string(None))
        self._scoped = self._scope_names()

    # -- evaluation --

    def _relation(self, name: str, subject: str | None) -> Relation:
        facts, texts = self.tables[name], self.catalogue.expressions
        policies = []
        for policy in facts["policies"]:
            binds = (
                policy["public"] or policy["mine"]
                if subject is None
                else subject in policy["subjects"]
            )
            if binds:
                policies.append(self._inlined(policy, texts[policy["oid"]]))
        checks = [text for text in texts.get(f"checks of {facts['oid']}", []) if text]
        return Relation(name, facts, policies, checks, texts.get(f"defaults of {facts['oid']}", {}))

    def _inlined(self, facts: dict[str, Any], printed: dict[str, str | None]) -> Policy:
        """Return a policy with the bodies of functions that read tables instead of their calls."""
        readers = {
            oid: self.functions.facts[oid]
            for oid in self.functions.closure(facts["functions"])
            if any(self.functions.names(self.functions.closure({oid}), t["name"])
                   for t in self.tables.values())
        }  # fmt: skip
        if not readers:
            return Policy(facts, printed["using"], printed["check"])
        columns = {name: set(found) for name, found in facts["columns"].items()}
        texts: list[str | None] = []
        for text in (printed["using"], printed["check"]):
            done = None if text is None else inline(text, readers, self._read_by)
            texts.append(None if done is None else done.text)
            if done is not None:
                for name, found in done.read.items():
                    columns.setdefault(name, set()).update(found)
                for owner, names in done.owners.items():
                    self._seen_by.update((owner, name) for name in names)
                if not done.complete:
                    self._opaque.add(facts["oid"])
        return Policy({**facts, "columns": columns}, texts[0], texts[1])

    def _read_by(self, oid: str) -> list[Relation]:
        return [
            Relation(name, table, [])
            for name, table in self.tables.items()
            if table["usable"] and self.functions.names({oid}, table["name"])
        ]

    def _shown_to(self, owner: str, name: str) -> str | None:
        """Return what a role sees of a table, as an expression; None for all."""
        rights = self.tables[name]["subjects"].get(owner)
        if not self.tables[name]["rls"] or rights is None or rights["unbound"]:
            return None
        return self._relation(name, owner).visible

    def _owner_names(self) -> set[str]:
        """Return the names of columns that policies read and that may hold ids."""
        types = {"uuid", "smallint", "integer", "bigint", "text", "character varying"}
        names = set(_LIKELY) | {s.name for s in self.identity}
        for relation in self.relations.values():
            for column in relation.read_by_policies():
                facts = relation.columns[column]
                if facts["base"] in types and not facts["key"] and column.endswith("_id"):
                    names.add(column)
        return names

    def _add_trials(self, name: str, subject: str | None, wanted: set[str]) -> None:
        table = self.relations[name] if subject is None else self._relation(name, subject)
        relations = (
            self.relations
            if subject is None
            else {other: self._relation(other, subject) for other in self.tables}
        )
        if not table.policies:
            return
        oids = self.functions.closure(
            oid for policy in table.policies for oid in policy.facts["functions"]
        )
        sources = self.functions.sources(oids)
        texts = [t for p in table.policies for t in (p.using, p.check) if t] + sources
        types = frozenset(
            self.relations[other].columns[column]["base"]
            for policy in table.policies
            for other, columns in policy.facts["columns"].items()
            if other in self.relations
            for column in columns
            if column in self.relations[other].columns
        )
        seen_by = [
            (definer_name(owner, other), other, self._shown_to(owner, other))
            for owner, other in sorted(self._seen_by)
        ]
        commands = None
        if subject is not None:
            rights = table.facts["subjects"][subject]
            commands = ("r" if rights["read"] else "") + ("awd" if rights["write"] else "")
        self.trials[name, subject] = [
            Trial(
                table, relations=relations, universe=universe, sources=sources, roles=self.roles,
                related={
                    key["to"] if key["on"] == name else key["on"]
                    for _, key in self.catalogue.facts.get("reference", [])
                    if name in (key["on"], key["to"])
                },
                seen_by=seen_by,
                wanted=wanted | (self._named & set(table.columns)), commands=commands,
            )
            for universe in universes(self.identity, texts, types)
        ]  # fmt: skip

    def _evaluate(self, connection: psycopg.Connection[Any], role: str | None) -> None:
        """Evaluate all policies, and the bodies of views and functions."""
        self._add_all_trials()
        self._add_bodies()
        jobs = [t.job for trials in self.trials.values() for t in trials]
        jobs += [body.job for bodies in self.bodies.values() for body in bodies]
        evaluate(connection, jobs, self.catalogue.search_path, role)
        for key, trials in self.trials.items():
            self.verdicts[key] = [(t.universe.declared, t.judge()) for t in trials]
        for key in self.trials:
            # Rows without an owner's column are their parents' owners', which are known by now.
            if self._parents(key[0]) and not any(v.owners for _, v in self.verdicts[key]):
                for trial in self.trials[key]:
                    trial.child = True
                self.verdicts[key] = [(t.universe.declared, t.judge()) for t in self.trials[key]]

    def _add_all_trials(self) -> None:
        wanted: dict[str, set[str]] = defaultdict(set)
        for relation in self.relations.values():
            for policy in relation.policies:
                for other, columns in policy.facts["columns"].items():
                    if other in self.tables and other != relation.name:
                        wanted[other] |= {c for c in columns if c}
        for name, relation in self.relations.items():
            if relation.facts["reachable"] and relation.policies:
                self._add_trials(name, None, wanted[name])
            mine = {p.facts["name"] for p in relation.policies}
            for subject, rights in relation.facts["subjects"].items():
                if rights["unbound"] or not (rights["read"] or rights["write"]):
                    continue
                theirs = self._relation(name, subject)
                if {p.facts["name"] for p in theirs.policies} - mine:
                    self._add_trials(name, subject, set())

    def _add_bodies(self) -> None:
        users = universes(self.identity, list(self.catalogue.expressions), frozenset())
        for name, view in self.views.items():
            tables = [t for t in view["reads"] if t in self.tables and self.tables[t]["usable"]]
            if (
                not tables
                or view["invoker"]
                or view["materialized"]
                or len(tables) < len(view["reads"])
            ):
                continue
            query = (
                str(self.catalogue.expressions[f"view {view['oid']}"]).rstrip().removesuffix(";")
            )
            relations = [self.relations[t] for t in tables]
            self.bodies[name] = [Body(query, relations, (), universe) for universe in users]
        for oid, facts in self.functions.facts.items():
            if not facts["definer"] or not facts["callable"]:
                continue
            body = function_body(facts)
            closure = self.functions.closure({oid})
            tables = [
                name for name, table in self.tables.items()
                if table["usable"] and self.functions.names({oid}, table["name"])
            ]  # fmt: skip
            calls = any(self.functions.facts[o]["definer"] for o in closure - {oid})
            views = any(self.functions.names(closure, v["name"]) for v in self.views.values())
            if body and tables and not calls and not views:
                relations = [self.relations[t] for t in tables]
                self.bodies[oid] = [
                    Body(body, relations, facts["arguments"], universe) for universe in users
                ]

    def _proven(self, key: str) -> bool | None:
        told = [body.shows_others() for body in self.bodies.get(key, [])]
        if any(told):
            return True
        return False if False in told else None

    # -- findings --

    def _scope_names(self) -> set[str]:
        """Return the names of columns that tell whose a row is, in any table."""
        scoped = {"user_id"}
        for (name, _), verdicts in self.verdicts.items():
            keys = {c["name"] for c in self.tables[name]["columns"] if c["key"]}
            for _, verdict in verdicts:
                scoped |= {c for found in verdict.owners.values() for c in found} - keys - {"id"}
        return scoped

    def findings(self) -> list[Finding]:
        """Return everything that was found."""
        found = [f for name in self.tables for f in self._check_table(name)]
        found += self._enrolments()
        found += self._set_roles()
        found += self._helpers()
        kept = list(kept_identities(self.catalogue, self.functions))
        found += Paths(
            self.catalogue, self.functions, self.settings, self._exposes, self._proven, self.owners,
            {finding.object for finding in kept},
        ).find()  # fmt: skip
        found += kept
        return [*map(self.signed.restored, found), *self.signed.findings()]

    def owner_settings(self, name: str) -> dict[str, str]:
        """Return the columns that a policy of a table should compare, each with its setting."""
        return {o.column.name: o.setting.setting for o in self._owner_pairs(name)}

    def owners(self, name: str) -> list[str]:
        """Return the columns that tell whose a table's rows are, the owner's first."""
        found: dict[str, None] = {}
        for _, verdict in self.verdicts.get((name, None), []):
            for columns in verdict.owners.values():
                first = [c for c in _LIKELY if c in columns]
                found.update(dict.fromkeys([*first, *columns]))
        names = {c["name"] for c in self.tables[name]["columns"]}
        if not found:
            found.update(dict.fromkeys(n for n in _LIKELY if n in names and n in self._scoped))
        return list(found)

    def _exposes(self, role: str, name: str) -> str | None:
        """Return why a role may see or change rows that this role's policies hide."""
        rights = self.tables[name]["subjects"].get(role)
        if rights is None or not (rights["read"] or rights["write"]):
            return None
        if rights["unbound"]:
            return f"RLS does not bind {role}"
        for _, verdict in self.verdicts.get((name, role), []):
            for example in verdict.counterexamples:
                if example.cause in ("row", "nobody", "uncorrelated"):
                    return f"the policies for {role} let others' rows pass"
        return None

    def _set_roles(self) -> Iterator[Finding]:
        for name, table in self.tables.items():
            for role, rights in table["subjects"].items():
                if rights["settable"] and (why := self._exposes(role, name)):
                    yield self.taken(role, f"{name}: {why}")

    def taken(self, role: str, why: str) -> Finding:
        """Return the finding on a role that SET ROLE reaches.

        Args:
            role: The role's name.
            why: What leaks to it.
        """
        quoted, own = Identifier(role).as_string(None), Identifier(self.roles[0]).as_string(None)
        return Finding(
            "set-role", f"role {quoted}",
            f"can be taken by this role with SET ROLE, and reaches {why}",
            f"REVOKE {quoted} FROM {own};",
        )  # fmt: skip

    def _enrolments(self) -> Iterator[Finding]:
        told = set()
        for (name, subject), verdicts in self.verdicts.items():
            if subject is not None:
                continue
            for _, verdict in verdicts:
                for lookup, row in verdict.granted:
                    if (lookup, name) in told or not self.tables[lookup]["reachable"]:
                        continue
                    if self._may_write(lookup, row):
                        told.add((lookup, name))
                        yield self._enrolment(lookup, name, row)

    def _may_write(self, lookup: str, row: dict[str, Any]) -> bool:
        trials = self.trials.get((lookup, None))
        if trials:
            return any(trial.can_write(row) for trial in trials)
        if self.tables[lookup]["rls"]:
            return False
        columns = self.relations[lookup].columns
        flags = [c for c in row if c not in _LIKELY and c in columns]
        return all(columns[c]["insert"] for c in row) or any(columns[c]["update"] for c in flags)

    def _enrolment(self, lookup: str, name: str, row: dict[str, Any]) -> Finding:
        facts, columns = self.tables[lookup], self.relations[lookup].columns
        shown = ", ".join(f"{column}={value}" for column, value in row.items())
        fixes = []
        if any(columns[c]["insert"] for c in row):
            fixes.append(f"REVOKE INSERT ON {lookup} FROM {facts['grantees']};")
        if any(columns[c]["update"] for c in row):
            fixes.append(f"REVOKE UPDATE ON {lookup} FROM {facts['grantees']};")
            kept = [c["quoted"] for c in facts["columns"] if c["update"] and c["name"] not in row]
            if kept:
                fixes.append(
                    f"GRANT UPDATE ({', '.join(kept)}) ON {lookup} TO {facts['grantees']};"
                )
        why = (
            f"may be written by the user whom it lets see others' rows of {name}: "
            f"a row ({shown}) of their own is enough"
        )
        return Finding("self-enrolment", lookup, why, " ".join(fixes))

    def _helpers(self) -> Iterator[Finding]:
        """Find functions of policies that cast the setting before they test it."""
        used = {
            oid
            for relation in self.relations.values()
            if relation.facts["reachable"]
            for policy in relation.policies
            for oid in policy.facts["functions"]
        }
        for oid in sorted(used & set(self.functions.facts)):
            facts = self.functions.facts[oid]
            for setting in self.identity:
                if setting.kind in ("text", "claims") or not facts["definition"]:
                    continue
                if mended := mend_casts(facts["definition"], setting.setting):
                    why = _cast_why(setting.setting)
                    name = f"function {facts['object']}"
                    yield Finding("cast-without-nullif", name, why, f"{mended};", "note")

    def _check_table(self, name: str) -> Iterator[Finding]:
        facts = self.tables[name]
        if not facts["reachable"]:
            return
        unset = self._unset_everywhere()
        for finding in [*self._check_protection(name), *self._check_rights(name)]:
            if unset and "CREATE POLICY" in finding.fix:
                why = f"{finding.why}; the policies of other tables read {_give(unset)}"
                yield finding._replace(why=why, fix="")
            else:
                yield finding
        yield from self._check_policies(name)
        yield from self._check_errors(name)
        yield from self._check_cost(name)

    def _check_protection(self, name: str) -> Iterator[Finding]:
        facts = self.tables[name]
        owners = self._owner_pairs(name)
        enable = f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;"
        force = f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY;"
        if not facts["rls"] and facts["protected_parent"]:
            why = f"lets this role pass by the policies of {facts['protected_parent']}"
            revoke = f"REVOKE ALL ON {name} FROM {facts['grantees']};"
            fix = revoke if facts["foreign"] else f"{enable} {force}"
            yield Finding("partition-reachable", name, why, fix)
        elif not facts["rls"] and facts["policies"]:
            why = "has policies that do nothing: RLS is not enabled"
            yield Finding(
                "rls-disabled", name, why, enable if facts["forced"] else f"{enable} {force}"
            )
        elif not facts["rls"] and not (facts["foreign"] or facts["parent_reachable"]):
            if owners:
                why = (
                    f"has a user's rows, by its column {owners[0].column.quoted}, and shows them "
                    "to every user"
                )
                fix = f"{enable} {force} {self._new_policy(name)}"
                yield Finding("rls-disabled", name, why, fix)
            elif parent := self._parent(name):
                key, text = parent
                why = f"has rows that belong to rows of {key['to']}, and shows them to every user"
                policy = (
                    f"CREATE POLICY user_isolation ON {name} USING ({text}) WITH CHECK ({text});"
                )
                yield Finding("rls-disabled", name, why, f"{enable} {force} {policy}")
            elif guess := self._guessed_owner(name):
                column, why = guess
                setting = self._setting_of(column)
                if setting is None:
                    names = " or ".join(s.name for s in self.identity)
                    why += f": write a policy that compares {column.quoted} with {names}"
                    yield Finding("rls-disabled", name, why, "", "risk")
                    return
                read = f"{column.quoted} = {_read(Scope('', '', {}), column, setting)}"
                policy = f"CREATE POLICY user_isolation ON {name} USING ({read});"
                fix = f"{enable} {force} {policy}"
                if not column.indexed:
                    fix += f" CREATE INDEX ON {name} ({column.quoted});"
                yield Finding("rls-disabled", name, why, fix, "risk")
        elif facts["rls"] and not facts["forced"]:
            why = "does not bind its owner: whatever runs as the owner passes the policies by"
            yield Finding("rls-not-forced", name, why, force, "risk")

    def _check_rights(self, name: str) -> Iterator[Finding]:
        facts = self.tables[name]
        if (facts["rls"] or facts["policies"]) and facts["truncate"]:
            why = "can be emptied by this role for every user: no policy restrains TRUNCATE"
            fix = f"REVOKE TRUNCATE ON {name} FROM {facts['grantees']};"
            yield Finding("truncate-granted", name, why, fix)
        if facts["protected"] and facts["trigger"] and not facts["owned"]:
            why = "lets this role attach a trigger, which runs with the rights of whoever writes"
            fix = f"REVOKE TRIGGER ON {name} FROM {facts['grantees']};"
            yield Finding("trigger-granted", name, why, fix, "risk")
        relation = self.relations[name]
        permissive = any(policy.facts["permissive"] for policy in relation.policies)
        # A partition without policies lets nothing pass but through its parent.
        if facts["rls"] and not permissive and not facts["protected_parent"]:
            why = "has no permissive policy for this role: it finds no row and may write none"
            fix = self._new_policy(name) or f"REVOKE ALL ON {name} FROM {facts['grantees']};"
            yield Finding("no-policy", name, why, fix, "note")

    def _parents(self, name: str) -> list[dict[str, Any]]:
        """Return the foreign keys of a table to others, whose policies tell users apart."""
        return [
            key
            for _, key in self.catalogue.facts.get("reference", [])
            if key["on"] == name
            and key["to"] != name
            and self.tables[key["to"]]["rls"]
            and any(v.isolated for _, v in self.verdicts.get((key["to"], None), []))
        ]

    def _parent(self, name: str) -> tuple[dict[str, Any], str] | None:
        """Return the foreign key to a table of users' rows, and the policy that follows from it."""
        columns = self.relations[name].columns
        for key in self._parents(name):
            parents = self.relations[key["to"]].columns
            pairs = zip(key["columns"], key["keys"], strict=True)
            quoted = self.tables[name]["quoted"]
            tests = " AND ".join(
                f"parent.{parents[b]['quoted']} = {quoted}.{columns[a]['quoted']}" for a, b in pairs
            )
            return key, f"EXISTS (SELECT FROM {key['to']} AS parent WHERE {tests})"
        return None

    def _guessed_owner(self, name: str) -> tuple[Column, str] | None:
        """Return a column that may tell whose a table's rows are, though no policy says so."""
        for column in self.relations[name].columns.values():
            fits = any(
                column["base"] in {"uuid": {"uuid"}, "int": INTEGER_TYPES, "text": TEXT_TYPES}[kind]
                for kind in ("uuid", "int", "text")
                if any(s.kind in (kind, None, "claims") for s in self.identity)
            )
            if not fits:
                continue
            if column["name"] in _LIKELY:
                why = f"may have a user's rows, by its column {column['quoted']}, and shows all"
                return self._column(name, column["name"]), why
            for _, key in self.catalogue.facts.get("reference", []):
                if (
                    [key["to"], key["keys"]] == [name, [column["name"]]]
                    and self.tables[key["on"]]["protected"]
                    and set(key["columns"]) & set(self.owners(key["on"]))
                ):
                    why = f"has a row for each user, by {key['on']}, and shows them to every user"
                    return self._column(name, column["name"]), why
        return None

    def _setting_of(self, column: Column) -> IdentitySetting | None:
        """Return the setting that a column is to be compared with; None where nothing tells."""
        if len(self.identity) == 1:
            return self.identity[0]
        own = [s for s in self.identity if column.name in self._own_names(s)]
        return own[0] if len(own) == 1 and _can_hold(column, own[0].kind) else None

    def _column(self, name: str, column: str) -> Column:
        facts = self.relations[name].columns[column]
        return Column(**{field.name: facts[field.name] for field in fields(Column)})

    def _owner_pairs(self, name: str) -> list[_Owner]:
        """Return for each setting the column that a policy should compare with it."""
        found: dict[str, _Owner] = {}
        settings = {s.setting: s for s in self.identity}
        for _, verdict in self.verdicts.get((name, None), []):
            for setting, column in verdict.primary.items():
                found.setdefault(setting, _owner(self._column(name, column), settings[setting]))
        if not found:
            found = self._likely_owners(name)
        order = {s.setting: i for i, s in enumerate(self.identity)}
        return sorted(found.values(), key=lambda owner: order[owner.setting.setting])

    def _likely_owners(self, name: str) -> dict[str, _Owner]:
        columns = self.relations[name].columns
        found: dict[str, _Owner] = {}
        for setting in self.identity:
            if len(self.identity) == 1:
                own = {setting.name, f"{setting.name}_id"}
                names = ["user_id", *sorted(own | self._scoped)]
                names = [n for n in names if n in self._scoped | {setting.name}]
            else:
                names = self._own_names(setting)
            for candidate in names:
                if candidate in columns:
                    column = self._column(name, candidate)
                    if len(self.identity) == 1 or _can_hold(column, setting.kind):
                        found.setdefault(setting.setting, _owner(column, setting))
        return found

    def _own_names(self, setting: IdentitySetting) -> list[str]:
        """Return the names of columns that hold one value of several, and no other's.

        They are the value's own name, that of its setting, and what policies compare with it.
        """
        given = setting.name, setting.setting.rsplit(".", 1)[-1]
        names = [*given, *(f"{name}_id" for name in given)]
        others = {s.name for s in self.identity if s is not setting}
        compared: dict[str, set[str]] = defaultdict(set)
        for verdicts in self.verdicts.values():
            for _, verdict in verdicts:
                for other, columns in verdict.owners.items():
                    for column in columns:
                        compared[column].add(other)
        names += sorted(c for c in self._scoped if compared[c] == {setting.setting})
        return [name for name in dict.fromkeys(names) if name not in others]

    def _expected(self, name: str) -> str | None:
        """Return what a policy of a table should ask of the row; None where no column tells."""
        owners = self._owner_pairs(name)
        if owners:
            scope = Scope("", "", {})
            return " AND ".join(
                f"{o.column.quoted} = {_read(scope, o.column, o.setting)}" for o in owners
            )
        parent = self._parent(name)
        return self._membership(name) or (parent[1] if parent else None)

    def _membership(self, name: str) -> str | None:
        relation = self.relations[name]
        for policy in relation.policies:
            for lookup in policy.facts["columns"]:
                if lookup not in self.tables or lookup == name:
                    continue
                theirs = self.relations[lookup].columns
                people = self._owner_pairs(lookup)
                named = {o.column.name for o in people}
                shared = [
                    c for c in relation.columns
                    if c in theirs and c.endswith("_id") and not relation.columns[c]["key"]
                    and (c not in named or len(people) == 1)
                ]  # fmt: skip
                if people and shared:
                    column = relation.columns[shared[0]]["quoted"]
                    scope = Scope("", "", {})
                    tests = " AND ".join(
                        f"lookup.{o.column.quoted} = {_read(scope, o.column, o.setting)}"
                        for o in people
                    )
                    return (
                        f"EXISTS (SELECT FROM {lookup} AS lookup WHERE lookup.{column} = "
                        f"{relation.facts['quoted']}.{column} AND {tests})"
                    )
        return None

    def _new_policy(self, name: str) -> str | None:
        expected = self._expected(name)
        if expected is None:
            return None
        taken = {policy["name"] for policy in self.tables[name]["policies"]}
        new, number = "user_isolation", 1
        while new in taken:
            number += 1
            new = f"user_isolation_{number}"
        policy = f"CREATE POLICY {new} ON {name} USING ({expected}) WITH CHECK ({expected});"
        # One column that an index leads is enough for those beside it.
        served = [
            o.column for o in self._owner_pairs(name) if not _cannot_hold(o.column, o.setting.kind)
        ]
        if not served or served[0].indexed:
            return policy
        led = ", ".join(dict.fromkeys(c.quoted for c in served if not c.indexed))
        return f"{policy} CREATE INDEX ON {name} ({led});"

    def _check_policies(self, name: str) -> Iterator[Finding]:
        relation, verdicts = self.relations[name], self.verdicts.get((name, None), [])
        if not relation.facts["rls"] or not verdicts:
            return
        settings = " and ".join(self.settings)

        def original(policy: Policy) -> Policy:
            return Policy(policy.facts, policy.facts["using"], policy.facts["check"])

        def mended(policy: Policy, kind: str) -> str | None:
            text = policy.facts["using" if kind == "USING" else "check"]
            if text is None:
                return None
            scope = self._scope(name, policy, self.settings[0])
            clause = Clause(text, scope)
            new = clause.mended(self.settings[0]) if clause.open_without_context else None
            return None if new == text else new

        found = list(
            policy_findings(
                relation,
                verdicts,
                settings,
                expected=lambda: self._expected(name),
                original=original,
                mended=mended,
            )
        )
        # Against the wrong settings, a sound policy looks like a lax one.
        unset = {f.object: f for p in relation.policies for f in self._unset_settings(name, p)}
        found = [finding for finding in found if finding.object not in unset]
        yield from unset.values()
        yield from found
        leaking = {finding.object for finding in found} | set(unset)
        for policy in relation.policies:
            where = f"policy {policy.facts['quoted']} on {name}"
            undecided = any(
                declared and policy.facts["name"] in verdict.undecided
                for declared, verdict in verdicts
            )
            if where not in leaking and (undecided or self._leans_on_rows(policy)):
                why = (
                    "could not be evaluated over made-up rows, or reads a view, or calls a "
                    "function that reads tables: whether it keeps others' rows apart is not proven"
                )
                text = policy.facts["using"] or policy.facts["check"]
                fix = f"-- read it: {' '.join(text.split())}"
                yield Finding("policy-not-proven", where, why, fix, "risk")

    def _check_errors(self, name: str) -> Iterator[Finding]:
        """Find policies that raise for every user: the mistake that leaks nothing."""
        relation = self.relations[name]
        told = [v.raises for declared, v in self.verdicts.get((name, None), []) if declared]
        # Without the settings that they tell users by, policies say little.
        unset = any(self._unset_names(name, policy) for policy in relation.policies)
        if relation.facts["rls"] and told and all(told) and not unset:
            kinds = " or ".join(f"{s.setting} of type {s.kind or 'text'}" for s in self.identity)
            why = (
                f"has policies that raise an error for values of {kinds}, such as a failed cast or "
                "an infinite recursion, and let no row pass: no user finds one"
            )
            yield Finding("policy-raises", name, why, "", "note")

    def _unset_settings(self, name: str, policy: Policy) -> Iterator[Finding]:
        """Yield a finding where a policy tells users by settings that the identity lacks."""
        settings = self._unset_names(name, policy)
        if settings:
            where = f"policy {policy.facts['quoted']} on {name}"
            why = f"reads {_give(settings)}"
            yield Finding("setting-not-in-identity", where, why, "", "risk")

    def _unset_everywhere(self) -> dict[str, str]:
        """Return the settings that policies tell users by where none reads the identity's."""
        policies = [(n, p) for n, r in self.relations.items() for p in r.policies]
        read: set[str] = set()
        for _, policy in policies:
            texts = [policy.facts["using"], policy.facts["check"]]
            closure = self.functions.closure(policy.facts["functions"])
            read |= set(other_settings([*texts, *self.functions.sources(closure)], ()))
        if {s.lower() for s in self.settings} & {s.lower() for s in read}:
            return {}
        return {s: kind for n, p in policies for s, kind in self._unset_names(n, p).items()}

    def _unset_names(self, name: str, policy: Policy) -> dict[str, str]:
        """Return the settings beside the identity's that tell whose a row is, each with its type.

        A setting is one where a policy compares a column with it, or finds rows of other tables by
        it and by none of the identity. What else a policy reads, such as a switch, is judged.
        """
        texts = [t for t in (policy.facts["using"], policy.facts["check"]) if t]
        sources = self.functions.sources(self.functions.closure(policy.facts["functions"]))
        everything = [*texts, *sources]
        read = {setting.lower() for setting in other_settings(everything, ())}
        named = any(setting.lower() in read for setting in self.settings)
        lookups = set(policy.facts["columns"]) - {name}
        found: dict[str, str] = {}
        for setting in other_settings(everything, self.settings):
            if "." not in setting:
                continue
            scope = self._scope(name, policy, setting)
            columns = [c.column for text in texts for c in Clause(text, scope).comparisons]
            if columns or (lookups and not named):
                found[setting] = next((_type_of(c) for c in columns), "")
        return found

    def _leans_on_rows(self, policy: Policy) -> bool:
        """Whether a policy reads views or calls functions, whose rows cannot be made up."""
        if set(policy.facts["columns"]) & set(self.views):
            return True
        closure = self.functions.closure(policy.facts["functions"])
        opaque = policy.facts["oid"] in self._opaque
        return opaque and any(
            self.functions.names(closure, t["name"]) for t in self.tables.values()
        )

    def _scope(self, name: str, policy: Policy, setting: str) -> Scope:
        columns = {c: self._column(name, c) for c in self.relations[name].columns}
        kind = next((s.kind for s in self.identity if s.setting == setting), None)
        for unfit in [c for c in columns.values() if _cannot_hold(c, kind)]:
            # No index serves it, but nothing better compares it with this setting.
            columns[unfit.name] = replace(unfit, relabelled=True)
        readers = {
            self.functions.facts[oid]["name"]
            for oid in policy.facts["functions"]
            if oid in self.functions.facts
            and any(
                setting.lower() in text.lower()
                for text in self.functions.sources(self.functions.closure({oid}))
            )
        }
        return Scope(setting, self.tables[name]["name"], columns, frozenset(readers))

    def _check_cost(self, name: str) -> Iterator[Finding]:
        """Find what makes policies raise or run slowly: this is read from their text."""
        relation = self.relations[name]
        indexed: set[str] = set()
        for policy in relation.policies:
            texts = {"USING": policy.facts["using"], "WITH CHECK": policy.facts["check"]}
            where = f"policy {policy.facts['quoted']} on {name}"
            # One value of the identity that an index serves is enough for those beside it.
            served: set[str] = set()
            for setting in self.identity:
                scope = self._scope(name, policy, setting.setting)
                clauses = {k: Clause(t, scope) for k, t in texts.items() if t is not None}
                if setting.kind not in ("text", "claims"):
                    kinds = [k for k, clause in clauses.items() if clause.casts]
                    if kinds:
                        fix = self._altered(policy, name, clauses, kinds, setting)
                        why = f"{_cast_why(setting.setting)} ({' and '.join(kinds)})"
                        yield Finding("cast-without-nullif", where, why, fix, "note")
                kinds = [k for k, clause in clauses.items() if clause.per_row]
                if kinds:
                    fix = self._altered(policy, name, clauses, kinds, setting)
                    why = (
                        f"reads {setting.setting} for each row: in a sub-select it is read once "
                        f"for the statement ({' and '.join(kinds)})"
                    )
                    yield Finding("evaluated-per-row", where, why, fix, "slow")
                compared = {
                    c.column.name for clause in clauses.values() for c in clause.comparisons
                }
                if not served:
                    yield from self._check_indexes(name, policy, clauses, setting, indexed)
                served |= {c for c in compared if relation.columns[c]["indexed"]}

    def _altered(
        self,
        policy: Policy,
        name: str,
        clauses: dict[str, Clause],
        kinds: list[str],
        setting: IdentitySetting,
    ) -> str:
        target = f"{policy.facts['quoted']} ON {name}"
        texts = {k: clauses[k].mended(setting.setting) or self._expected(name) for k in kinds}
        if None in texts.values():
            # What it keeps apart stays apart, if slowly.
            return ""
        return f"ALTER POLICY {target} " + " ".join(f"{k} ({t})" for k, t in texts.items()) + ";"

    def _check_indexes(
        self,
        name: str,
        policy: Policy,
        clauses: dict[str, Clause],
        setting: IdentitySetting,
        told: set[str],
    ) -> Iterator[Finding]:
        rule = "policy-column-without-index"
        for kind, clause in clauses.items():
            for comparison in clause.comparisons:
                column = comparison.column
                index = f"CREATE INDEX ON {name} ({column.quoted});"
                if column.quoted in told:
                    continue
                if not comparison.bare and not self.tables[name]["expression_index"]:
                    told.add(column.quoted)
                    why = f"casts {column.quoted} before it compares, so no index on it serves"
                    text = clause.mended(setting.setting) or self._expected(name)
                    fix = f"ALTER POLICY {policy.facts['quoted']} ON {name} {kind} ({text});"
                    where = f"policy {policy.facts['quoted']} on {name}"
                    fix = fix if column.indexed else f"{fix} {index}"
                    fix = "" if text is None else fix
                    yield Finding(rule, where, why, fix, "slow")
                elif comparison.bare and not column.indexed:
                    told.add(column.quoted)
                    why = f"has no index led by {column.quoted}: every query reads the whole table"
                    yield Finding(rule, name, why, index, "slow")


def _give(settings: Mapping[str, str]) -> str:
    """Return what to give for settings that the identity does not set."""
    flags = " ".join(
        f"--setting {setting.rsplit('.', 1)[-1]}={setting}{kind and ':' + kind}"
        for setting, kind in settings.items()
    )
    return (
        f"{' and '.join(settings)}, which this client's identity does not set: give the identity "
        f"(`{flags}`, or identity={{...}})"
    )


def _type_of(column: Column) -> str:
    if column.type in INTEGER_TYPES:
        return "int"
    return "uuid" if column.type == "uuid" else "str" if column.text else ""


def _cast_why(setting: str) -> str:
    return (
        f"casts {setting} without NULLIF: the setting reads '' on a used connection, and the cast "
        "then raises instead of finding nothing"
    )


def _owner(column: Column, setting: IdentitySetting) -> _Owner:
    """Return a column with its setting, compared as texts where its type cannot have the values.

    A cast of the setting would make each query fail; as texts they are different, and no row shows.
    """
    if _cannot_hold(column, setting.kind):
        column = replace(column, quoted=f"{column.quoted}::text", text=True, indexed=True)
    return _Owner(column, setting)


def _can_hold(column: Column, kind: str | None) -> bool:
    """Whether a column can hold each value of a kind."""
    unfit = {"uuid", *INTEGER_TYPES, "numeric"} if kind == "text" else set()
    return not _cannot_hold(column, kind) and column.type not in unfit


def _cannot_hold(column: Column, kind: str | None) -> bool:
    unfit = {"int": {"uuid"}, "uuid": {*INTEGER_TYPES, "numeric"}}
    return column.type in unfit.get(kind or "", ())


def _read(scope: Scope, column: Column, setting: IdentitySetting) -> str:
    """Return the side of a comparison that reads a setting as a column's type."""
    if setting.kind == "claims" or (
        setting.kind is None and re.search("claims|jwt", setting.setting)
    ):
        literal = setting.setting.replace("'", "''")
        cast = "" if column.text else f"::{column.type}"
        key = "sub" if setting.name in ("user_id", "claims", "sub") else setting.name
        read = f"NULLIF(current_setting('{literal}', true), '')::jsonb ->> '{key}'"
        return f"(SELECT ({read}){cast})"
    return scope.expected(column, setting.setting)
