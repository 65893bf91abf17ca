"""Paths around the policies, from the catalogue: what runs with other rights, or is not bound.

Reachability is what the role can really reach: a grant counts together with USAGE on the schema,
and a view or function opens what its owner can reach.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from .catalogue import Catalogue

__all__ = ["Functions", "Paths"]

_WORD: Final = re.compile(r"\w+")
_SYMBOL: Final = r"[-+*/<>=~!@#%^&|`?]"
_QUERY: Final = {"from", "join", "table"}
_QUOTED: Final = re.compile(r'"((?:[^"]|"")+)"')
_COMMENT: Final = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/", re.DOTALL)
# Functions of PostgreSQL's own that run a text, or read a table that a text names.
_RUN_TEXT: Final = {
    f"{what}_to_xml{more}"
    for what in ("query", "table", "schema", "database", "cursor")
    for more in ("", "schema", "_and_xmlschema")
} | {"dblink", "dblink_exec", "ts_stat", "lo_get", "loread"}
_SETTING: Final = {"current_setting", "show_config_by_name", "show_config_by_name_missing_ok"}
_STATE: Final = _SETTING | {"current_user", "session_user", "current_role"}
# A setting whose name stands in the call; one with a dot is none of the server's own.
_READ: Final = re.compile(r"\bcurrent_setting\s*\(\s*'([^']+)'(?:::text)?\s*[,)]")
# https://www.postgresql.org/docs/18/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS-UESCAPE
_ESCAPED: Final = re.compile(r'\bu&"((?:[^"]|"")*)"(?:\s*uescape\s*\'([^\'])\')?', re.IGNORECASE)
_CATALOGUE: Final = re.compile(r"\b(from|join)\s+(pg_catalog\s*\.\s*)?pg_\w+")
_RAW_SAMPLES: Final = re.compile(r"\bpg_statistic(_ext_data)?\b", re.IGNORECASE)
_SAMPLES: Final = re.compile(r"\bpg_(statistic(_ext_data)?|stats(_ext(_exprs)?)?)\b", re.IGNORECASE)
_OWNERS: Final = {"user_id", "owner_id", "owner", "tenant_id", "account_id"}

# https://www.postgresql.org/support/security/: the first minor release that is fixed.
_HOLES: Final = (
    ("CVE-2025-8713", "optimizer statistics show rows that policies hide",
     {17: 6, 16: 10, 15: 14, 14: 19, 13: 22}),
    ("CVE-2024-10976", "policies below sub-queries and WITH are applied for another role's user",
     {17: 1, 16: 5, 15: 9, 14: 14, 13: 17, 12: 21}),
    ("CVE-2023-2455", "inlined functions are run under another role's policies",
     {15: 3, 14: 8, 13: 11, 12: 15, 11: 20}),
)  # fmt: skip


class Functions:
    """The functions of the database's users, and what each of them names in its source."""

    def __init__(self, catalogue: Catalogue) -> None:
        found = catalogue.facts.get("function", [])
        self.facts: dict[str, dict[str, Any]] = {
            facts["oid"]: {**facts, "object": name, "source": _uncommented(facts["source"])}
            for name, facts in found
        }
        # What is called with its defaults runs them as well.
        self._texts = {
            oid: f"{facts['source']} {facts['defaults'] or ''}" for oid, facts in self.facts.items()
        }
        self._words = {oid: _words(text) for oid, text in self._texts.items()}
        by_name: dict[str, set[str]] = {}
        for oid, facts in self.facts.items():
            by_name.setdefault(facts["name"].lower(), set()).add(oid)
        self._calls = {
            oid: {
                other
                for word in words
                for other in by_name.get(word, ())
                if other != oid and _is_called(self._texts[oid], self.facts[other]["name"])
            }
            | set(self.facts[oid]["transitions"] or ())
            | set(self.facts[oid]["uses"])
            | self._behind(oid, catalogue)
            for oid, words in self._words.items()
        }

    def _behind(self, oid: str, catalogue: Catalogue) -> set[str]:
        """Return what a source calls by operators, casts and the checks of domains."""
        words, facts = self._words[oid], catalogue.facts
        found = {
            operator["function"]
            for symbol, operator in facts.get("operator", [])
            if re.search(rf"(?<!{_SYMBOL}){re.escape(symbol)}(?!{_SYMBOL})", self._texts[oid])
        }
        found |= {c["function"] for name, c in facts.get("cast", []) if name.lower() in words}
        for _, check in facts.get("domain check", []):
            if check["name"].lower() in words:
                found |= set(check["functions"])
        return found - {oid}

    def closure(self, oids: Iterable[str]) -> set[str]:
        """Return functions, and all that they call, by oid."""
        found: set[str] = set()
        waiting = [oid for oid in oids if oid in self.facts]
        while waiting:
            oid = waiting.pop()
            if oid not in found:
                found.add(oid)
                waiting += [other for other in self._calls.get(oid, ()) if other in self.facts]
        return found

    def sources(self, oids: set[str]) -> list[str]:
        """Return the sources of functions."""
        return [self._texts[oid] for oid in sorted(oids)]

    def names(self, oids: set[str], relation: str) -> bool:
        """Return whether any of the functions names a table or view in its source."""
        return any(relation.lower() in self._words[oid] for oid in oids)

    def dynamic(self, oids: set[str]) -> bool:
        """Return whether any of the functions runs what its source does not tell."""
        return any(
            self.facts[oid]["language"] not in ("sql", "plpgsql", "internal")
            or (self.facts[oid]["language"] == "plpgsql" and "execute" in self._words[oid])
            or self._words[oid] & _RUN_TEXT
            for oid in oids
            if self.facts[oid]["kind"] != "a"
        )

    def reads_state(self, oids: set[str], relations: Iterable[str]) -> bool:
        """Return whether what functions return depends on more than their arguments."""
        if self.dynamic(oids):
            return True
        names = {name.lower() for name in relations}
        for oid in oids:
            words = self._words[oid]
            if words & _STATE or (
                words & _QUERY and (words & names or _CATALOGUE.search(self._lower(oid)))
            ):
                return True
        return False

    def reads_identity(self, oids: set[str], relations: Iterable[str]) -> bool:
        """Return whether functions may read who the user is, or rows that policies choose.

        Args:
            oids: The functions.
            relations: The names of protected tables, and of what reads them.
        """
        if self.dynamic({oid for oid in oids if self.facts[oid]["language"] != "c"}):
            return True
        names = {name.lower() for name in relations}
        for oid in oids:
            words, text = self._words[oid], self._lower(oid)
            named = _READ.findall(text.replace('"', ""))
            reads = len(re.findall("|".join(rf"\b{name}\b" for name in _SETTING), text))
            if (words & _QUERY and words & names) or any("." in setting for setting in named):
                return True
            if reads > len(named):
                return True
        return False

    def _lower(self, oid: str) -> str:
        return self._texts[oid].lower()


def _uncommented(source: str) -> str:
    text = _COMMENT.sub(lambda match: match[1] or " ", source)
    return _ESCAPED.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    """Return a quoted name without its Unicode escapes."""
    escape = re.escape(match[2] or "\\")
    codes = re.compile(rf"{escape}(?:([0-9a-fA-F]{{4}})|\+([0-9a-fA-F]{{6}})|({escape}))")
    name = codes.sub(lambda m: m[3] or _character(m[1] or m[2]), match[1])
    return f'"{name}"'


def _character(code: str) -> str:
    number = int(code, 16)
    return chr(number) if number <= sys.maxunicode else ""


def _words(source: str) -> set[str]:
    lowered = source.lower()
    return set(_WORD.findall(lowered)) | {q.replace('""', '"') for q in _QUOTED.findall(lowered)}


def _is_called(source: str, name: str) -> bool:
    pattern = rf'(?<!\w)"?{re.escape(name.lower())}"?\s*\('
    return re.search(pattern, source.lower()) is not None


@dataclass
class Paths:
    """Everything around the policies.

    Args:
        catalogue: What the catalogue holds.
        functions: The functions in it.
        settings: The client's settings.
        exposes: Returns why a role may see rows of a table that the application's policies hide,
            or None.
        proven: Returns for a view or function whether it shows others' rows: True or False where
            it was evaluated, None where it could not be.
        owners: Returns the columns that tell whose a table's rows are.
        kept: The indexes and constraints that keep an identity, as their findings name them.
    """

    catalogue: Catalogue
    functions: Functions
    settings: list[str]
    exposes: Callable[[str, str], str | None]
    proven: Callable[[str], bool | None]
    owners: Callable[[str], list[str]]
    kept: Collection[str] = ()
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        facts = self.catalogue.facts
        self.tables: dict[str, dict[str, Any]] = dict(facts.get("table", []))
        self.views: dict[str, dict[str, Any]] = dict(facts.get("view", []))
        self.protected = {name for name, t in self.tables.items() if t["protected"]}

    def find(self) -> list[Finding]:
        """Return all findings."""
        for check in (
            self._views, self._definers, self._triggers, self._rules, self._functions,
            self._defaults, self._uniques, self._references, self._sequences, self._copies,
            self._statistics, self._publications, self._role,
        ):  # fmt: skip
            check()
        return self.findings

    def _add(self, rule: str, name: str, why: str, fix: str, severity: Severity = "leak") -> None:
        finding = Finding(rule, name, why, fix, severity)
        if finding not in self.findings:
            self.findings.append(finding)

    # -- views --

    def _views(self) -> None:
        for name, view in self.views.items():
            if view["usable"] and view["granted"]:
                self._walk(name, None, via=name, seen=set())

    def _walk(
        self, name: str, user: str | None, *, via: str, seen: set[tuple[str, str | None]]
    ) -> None:
        """Find what a view reads as a role whom the policies do not bind as they bind ours.

        A view reads with its owner's rights, and one with security_invoker with those of whoever
        runs the query: not with those of a view that reads it.
        https://www.postgresql.org/docs/18/sql-createview.html
        """
        if (name, user) in seen:
            return
        seen.add((name, user))
        view = self.views[name]
        if view["materialized"]:
            user = view["owner"]
        reader = user if view["invoker"] and not view["materialized"] else view["owner"]
        for relation in view["reads"]:
            if relation in self.views:
                self._walk(relation, user, via=via, seen=seen)
            elif relation in self.protected and reader is not None:
                why = self.exposes(reader, relation)
                if why:
                    self._add_view(name, via, relation, why)

    def _add_view(self, name: str, via: str, relation: str, why: str) -> None:
        view = self.views[via]
        if view["materialized"] or self.views[name]["materialized"]:
            text = f"is a copy of rows of {relation}, and no policy restrains it"
            fix = f"REVOKE ALL ON {via} FROM {view['grantees']};"
            self._add("materialized-view", via, text, fix)
            return
        proven = self.proven(name)
        if proven is False:
            return
        text = f"reads {relation} with its owner's rights instead of this role's: {why}"
        readable = self.tables[relation]["reachable"] and self.tables[relation]["select"]
        fix = (
            f"ALTER VIEW {name} SET (security_invoker = true);"
            if readable
            else f"REVOKE ALL ON {via} FROM {view['grantees']};"
        )
        self._add("view-without-security-invoker", name, text, fix)

    def _exposed(self, owner: str, oids: set[str]) -> tuple[str, str] | None:
        """Return a table whose hidden rows functions may reach as a role, and why it may."""
        anything = self.functions.dynamic(oids)
        for table in sorted(self.protected):
            facts = self.tables[table]
            if (
                anything
                or self.functions.names(oids, facts["name"])
                or self._through_view(oids, table)
            ):
                why = self.exposes(owner, table)
                if why:
                    return table, why
        return None

    def _through_view(self, oids: set[str], table: str) -> bool:
        over = {table}
        for _ in self.views:
            more = {n for n, v in self.views.items() if over & set(v["reads"])} - over
            if not more:
                break
            over |= more
        return any(
            self.functions.names(oids, self.views[n]["name"]) for n in over if n in self.views
        )

    # -- functions --

    def _definers(self) -> None:
        for oid, facts in self.functions.facts.items():
            closure = self.functions.closure({oid})
            definers = [o for o in closure if self.functions.facts[o]["definer"]]
            if not facts["callable"] or facts["returns"] in ("trigger", "event_trigger"):
                continue
            if not facts["definer"] and not (facts["kind"] == "a" and definers):
                continue
            owner = self.functions.facts[definers[0]]["owner"]
            exposed = self._exposed(owner, closure)
            proven = self.proven(oid) if exposed else None
            if exposed is None or proven is False:
                continue
            table, why = exposed
            # One that says yes or no tells less than rows: it may well be meant.
            told = (proven or self._plain(facts)) and facts["returns"] != "boolean"
            severity: Severity = "leak" if told else "risk"
            text = f"runs with the rights of {owner} and may show or change rows of {table}: {why}"
            if severity == "risk":
                text += "; whether it keeps to the user's own rows is not proven"
            if facts["kind"] != "a" and self._may_read(table):
                fix = f"ALTER ROUTINE {facts['object']} SECURITY INVOKER;"
            else:
                fix = f"REVOKE EXECUTE ON ROUTINE {facts['object']} FROM {facts['grantees']};"
            self._add("security-definer", f"function {facts['object']}", text, fix, severity)

    def _may_read(self, table: str) -> bool:
        facts = self.tables[table]
        return bool(facts["reachable"] and facts["select"])

    def _plain(self, facts: dict[str, Any]) -> bool:
        """Whether a function that reads no setting of ours returns something."""
        closure = self.functions.closure({facts["oid"]})
        reads = any(
            s.lower() in text.lower()
            for s in self.settings
            for text in self.functions.sources(closure)
        )
        return not reads and facts["returns"] != "void"

    def _triggers(self) -> None:
        for oid, facts in self.functions.facts.items():
            for trigger in facts["triggers"]:
                table = self.tables.get(trigger["on"]) or self.views.get(trigger["on"])
                if table is None:
                    continue
                closure = self.functions.closure({oid})
                self._notify(trigger, closure)
                if not facts["definer"]:
                    continue
                exposed = self._exposed(facts["owner"], closure)
                writes = self._writes(closure)
                if exposed and writes:
                    self._add(
                        "trigger-definer", f"trigger {trigger['name']} on {trigger['on']}",
                        f"acts on {exposed[0]} with the rights of {facts['owner']}: {exposed[1]}; "
                        "whether it keeps to the user's own rows is not proven",
                        f"ALTER FUNCTION {facts['object']} SECURITY INVOKER;", "risk",
                    )  # fmt: skip

    def _writes(self, closure: set[str]) -> bool:
        """Whether functions change, delete or read rows of protected tables, beside adding some."""
        text = " ".join(self.functions.sources(closure)).lower()
        names = {self.tables[t]["name"].lower() for t in self.protected}
        return self.functions.dynamic(closure) or any(
            re.search(
                rf'\b(update|from|using|join)\s+(only\s+)?("?\w+"?\.)?"?{re.escape(n)}"?\b', text
            )
            for n in names
        )

    def _notify(self, trigger: dict[str, Any], closure: set[str]) -> None:
        if trigger["on"] not in self.protected:
            return
        for source in self.functions.sources(closure):
            for match in re.finditer(r"pg_notify\s*\(|\bnotify\s", source, re.IGNORECASE):
                payload = source[match.end() : source.find(";", match.end())]
                columns = set(re.findall(r"\b(?:new|old)\.\"?(\w+)", payload.lower()))
                whole = re.search(r"\b(new|old)\b(?!\s*\.)", payload.lower())
                secret = {c for c in columns if not (c == "id" or c.endswith("_id"))}
                indirect = (
                    not columns and not whole and re.search(r",\s*\w+\s*(::\w+)?\s*\)", payload)
                )
                if whole or secret or indirect:
                    told = "a whole row" if whole or indirect else ", ".join(sorted(secret))
                    self._add(
                        "notify-payload", f"trigger {trigger['name']} on {trigger['on']}",
                        f"sends {told} of {trigger['on']} to every session that listens: no policy "
                        "restrains NOTIFY",
                        f"DROP TRIGGER {trigger['name']} ON {trigger['on']}; "
                        "-- or send the row's key alone, for its reader to select", "risk",
                    )  # fmt: skip

    def _rules(self) -> None:
        for name, rule in self.catalogue.facts.get("rule", []):
            for relation in [*rule["reads"], rule["on"]]:
                if relation not in self.protected or (
                    relation == rule["on"] and rule["on"] in self.tables
                ):
                    continue
                why = self.exposes(rule["owner"], relation)
                if why:
                    self._add(
                        "rewrite-rule", f"rule {name} on {rule['on']}",
                        f"acts on {relation} with the rights of {rule['owner']}: {why}",
                        f"DROP RULE {name} ON {rule['on']};",
                    )  # fmt: skip
                    break

    def _functions(self) -> None:
        used = {
            oid
            for table in self.tables.values()
            for policy in table["policies"]
            if table["reachable"]
            for oid in policy["functions"]
        }
        closure = self.functions.closure(used)
        for oid, facts in self.functions.facts.items():
            name = f"function {facts['object']}"
            source = facts["source"].lower()
            if facts["leakproof"] and facts["callable"]:
                self._add(
                    "leakproof-function", name,
                    "is LEAKPROOF, so that queries may call it with rows that policies hide",
                    f"ALTER FUNCTION {facts['object']} NOT LEAKPROOF;",
                )  # fmt: skip
            if oid in closure and facts["volatile"] == "i":
                relations = [r["name"] for r in (*self.tables.values(), *self.views.values())]
                if self.functions.reads_state(self.functions.closure({oid}), relations):
                    why = (
                        "is IMMUTABLE, so that a plan made for one user holds that user's id and "
                        "serves another's: a policy leans on it"
                    )
                    self._add(
                        "immutable-function", name, why, f"ALTER FUNCTION {facts['object']} STABLE;"
                    )
            if oid in closure and facts["owned"]:
                self._add(
                    "policy-function-owned", name,
                    "is this role's own, which may replace it: a policy leans on it",
                    f"ALTER FUNCTION {facts['object']} OWNER TO CURRENT_USER;",
                )  # fmt: skip
            for setting in self.settings:
                if (
                    any(c.split("=")[0].lower() == setting.lower() for c in facts["settings"])
                    and (facts["callable"])
                ):
                    self._add(
                        "function-sets-identity", name,
                        f"runs with {setting} set by its own SET clause, whoever calls it",
                        f"ALTER ROUTINE {facts['object']} RESET {setting};",
                    )  # fmt: skip
                elif facts["callable"] and re.search(
                    rf"set_config\s*\(\s*'{re.escape(setting.lower())}'"
                    rf"|\bset\s+(local\s+|session\s+)?\"?{re.escape(setting.lower())}\"?\s*(=|to\b)"
                    rf"|\bupdate\s+(pg_catalog\.)?pg_settings\b.*'{re.escape(setting.lower())}'",
                    source.replace('"."', "."),
                ):
                    self._add(
                        "function-sets-identity", name,
                        f"sets {setting}, and with it who the user is, for the rest of the "
                        "transaction or session",
                        f"REVOKE EXECUTE ON ROUTINE {facts['object']} FROM {facts['grantees']};",
                        "risk",
                    )  # fmt: skip

    # -- settings, keys, copies --

    def _defaults(self) -> None:
        for name, facts in self.catalogue.facts.get("default", []):
            for line in facts["settings"]:
                setting, _, value = line.partition("=")
                if value and setting.lower() in {s.lower() for s in self.settings}:
                    self._add(
                        "identity-default", name,
                        f"has a default for {setting}: a session without a user is this user",
                        f"{facts['reset']} RESET {setting};",
                    )  # fmt: skip

    def _is_person(self, table: str) -> bool:
        """Whether a table has one row for each user, so that its key is the user's id."""
        facts = self.tables[table]
        owners = set(self.owners(table))
        return any(c["key"] and c["name"] in owners for c in facts["columns"])

    def _uniques(self) -> None:
        for name, unique in self.catalogue.facts.get("unique", []):
            table = self.tables[unique["on"]]
            owners = self.owners(unique["on"])
            columns = {c["name"]: c for c in table["columns"]}
            keys = unique["columns"]
            if not owners or set(owners) & set(keys) or self._is_person(unique["on"]):
                continue
            what = f"constraint {name}" if unique["constraint"] else f"index {unique['index']}"
            if f"{what} on {unique['on']}" in self.kept:
                # Made again with the owner it would still keep an identity: it is to be dropped.
                continue
            if any(
                columns[k]["base"] == "uuid" or columns[k]["identity"] for k in keys if k in columns
            ):
                continue
            if unique["primary"] and all(self._generated(unique["on"], k) for k in keys):
                continue
            if (
                not any(columns[k]["insert"] or columns[k]["update"] for k in keys if k in columns)
                and keys
            ):
                continue
            owner = columns[owners[0]]["quoted"]
            if unique["exclusion"]:
                body = re.sub(r"\(", f"({owner} WITH =, ", unique["definition"], count=1)
            else:
                body = re.sub(r"\(", f"({owner}, ", unique["definition"], count=1)
            if unique["constraint"] and not unique["referenced"]:
                body = re.sub("PRIMARY KEY", "UNIQUE", body)
                # https://www.postgresql.org/docs/18/btree-gist.html: equality for scalar types.
                more = (
                    "CREATE EXTENSION IF NOT EXISTS btree_gist; "
                    if unique["exclusion"] and "USING gist" in body
                    else ""
                )
                fix = (
                    f"{more}ALTER TABLE {unique['on']} DROP CONSTRAINT {name}, "
                    f"ADD CONSTRAINT {name} {body};"
                )
            elif unique["constraint"]:
                fix = f"-- {name} is referenced: add {owner} to it and to the foreign keys on it"
            else:
                new = re.sub(r"INDEX \S+ ON", "INDEX ON", body, count=1)
                fix = f"DROP INDEX {unique['index']}; {new};"
            kind = "an exclusion constraint" if unique["exclusion"] else "unique"
            self._add(
                "unscoped-unique", f"{name} on {unique['on']}",
                f"is {kind} across all users: who adds a row is told whether another has the value",
                fix, "risk",
            )  # fmt: skip

    def _generated(self, table: str, column: str) -> bool:
        defaults = self.catalogue.expressions.get(f"defaults of {self.tables[table]['oid']}", {})
        return bool(re.search(r"nextval|uuid", str(defaults.get(column, "")))) or any(
            c["identity"] for c in self.tables[table]["columns"] if c["name"] == column
        )

    def _references(self) -> None:
        for name, key in self.catalogue.facts.get("reference", []):
            child, parent = self.tables[key["on"]], self.tables[key["to"]]
            if not child["reachable"]:
                continue
            mine, theirs = set(self.owners(key["on"])), set(self.owners(key["to"]))
            if not child["rls"] or not parent["rls"] or not theirs or not mine:
                continue
            if theirs & set(key["keys"]) or mine & set(key["columns"]):
                continue
            columns = {c["name"]: c for c in child["columns"]}
            if not any(columns[c]["insert"] or columns[c]["update"] for c in key["columns"]):
                continue
            checked = key["to"] != key["on"] and any(
                key["to"] in p["columns"]
                for p in child["policies"]
                if p["command"] in ("*", "a", "w")
            )
            if checked:
                continue
            cascade = {"c": "deletes", "n": "changes", "d": "changes"}.get(key["delete"])
            why = (
                f"lets a user's row point at another's row of {key['to']}: "
                + (f"whoever removes that one {cascade} this one" if cascade else
                   "its owner can then not remove it, and whether it exists is told")
            )  # fmt: skip
            parents = {c["name"]: c for c in parent["columns"]}
            a, b = columns[min(mine)]["quoted"], parents[min(theirs)]["quoted"]
            these = ", ".join([a, *(columns[c]["quoted"] for c in key["columns"])])
            those = ", ".join([b, *(parents[c]["quoted"] for c in key["keys"])])
            action = re.sub(r"^.*?REFERENCES [^(]*\([^)]*\)", "", key["definition"])
            fix = (
                f"ALTER TABLE {key['to']} ADD UNIQUE ({those}); "
                f"ALTER TABLE {key['on']} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} "
                f"FOREIGN KEY ({these}) REFERENCES {key['to']} ({those}){action};"
            )
            self._add("foreign-key-crosses-users", f"{name} on {key['on']}", why, fix, "risk")

    def _statistics(self) -> None:
        """Find what shows the samples of values that ANALYZE keeps of every column.

        pg_stats hides those of tables whose policies bind who runs the query; a SECURITY DEFINER
        function runs it as its owner, and a materialized view keeps what its owner saw.
        https://www.postgresql.org/docs/18/view-pg-stats.html
        """
        if not self.protected:
            return
        rule, shows = "statistics-readable", "shows values of all users' rows, which ANALYZE keeps"
        for name, facts in self.catalogue.facts.get("statistics", []):
            fixes = []
            if facts["grantees"]:
                fixes.append(f"REVOKE SELECT ON pg_catalog.{name} FROM {facts['grantees']};")
            if facts["all"]:
                fixes.append(f"REVOKE pg_read_all_data FROM {self.catalogue.facts['role'][0][0]};")
            self._add(rule, f"pg_catalog.{name}", shows, " ".join(fixes))
        for name, view in self.views.items():
            told = _SAMPLES if view["materialized"] else _RAW_SAMPLES
            over = {name} | {other for other in self.views if self._reads_view(name, other)}
            if view["usable"] and view["granted"] and not view["invoker"] and any(
                told.search(self.views[other]["definition"]) for other in over
            ):  # fmt: skip
                self._add(rule, name, shows, f"REVOKE ALL ON {name} FROM {view['grantees']};")
        for oid, facts in self.functions.facts.items():
            texts = self.functions.sources(self.functions.closure({oid}))
            if facts["definer"] and facts["callable"] and any(map(_SAMPLES.search, texts)):
                self._add(
                    rule, f"function {facts['object']}", shows,
                    f"REVOKE EXECUTE ON ROUTINE {facts['object']} FROM {facts['grantees']};",
                )  # fmt: skip

    def _reads_view(self, name: str, other: str) -> bool:
        """Whether a view reads another one, directly or not."""
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            found = set(self.views[waiting.pop()]["reads"]) & set(self.views) - seen
            seen |= found
            waiting += found
        return other in seen

    def _sequences(self) -> None:
        for name, sequence in self.catalogue.facts.get("sequence", []):
            rights = [
                r for r, has in (("SELECT", sequence["read"]), ("UPDATE", sequence["set"])) if has
            ]
            does = " and ".join({"SELECT": "read", "UPDATE": "set"}[right] for right in rights)
            self._add(
                "sequence-readable", name,
                f"can be {does} by this role: it tells how many rows all users add to "
                f"{sequence['on']}",
                f"REVOKE {', '.join(rights)} ON SEQUENCE {name} FROM {sequence['grantees']}; "
                f"GRANT USAGE ON SEQUENCE {name} TO {sequence['grantees']};", "risk",
            )  # fmt: skip

    def _copies(self) -> None:
        """Find what holds protected rows once more: history, foreign tables, large objects."""
        for name, table in self.tables.items():
            if table["protected"]:
                large = [c for c in table["columns"] if c["base"] in ("oid", "lo")]
                if large and table["reachable"]:
                    self._add(
                        "large-object", name,
                        f"refers to large objects by {large[0]['quoted']}: no policy restrains "
                        "those, and all users are one role to them",
                        f"ALTER TABLE {name} ALTER COLUMN {large[0]['quoted']} TYPE bytea "
                        f"USING lo_get({large[0]['quoted']});", "risk",
                    )  # fmt: skip
                continue
            if not table["reachable"] or not (
                table["select"] or table["update"] or table["delete"]
            ):
                continue
            revoke = f"REVOKE ALL ON {name} FROM {table['grantees']};"
            source = self._filled_from(name)
            named = {c["name"] for c in table["columns"]}
            if table["foreign"] and not table["protected_parent"]:
                owned = named & ({o for t in self.protected for o in self.owners(t)} | _OWNERS)
                if owned:
                    self._add(
                        "foreign-table",
                        name,
                        "has users' rows, and no policy can restrain a foreign table",
                        revoke,
                    )
            elif source and not table["policies"]:
                self._add(
                    "history-table", name,
                    f"holds copies of rows of {source} that every user may see: it has no RLS",
                    # What fills it as the user goes on.
                    f"REVOKE SELECT, UPDATE, DELETE ON {name} FROM {table['grantees']};",
                )  # fmt: skip

    def _filled_from(self, name: str) -> str | None:
        """Return the protected table whose trigger or name tells that this table holds its rows."""
        short = self.tables[name]["name"].lower()
        for facts in self.functions.facts.values():
            source = facts["source"].lower()
            named = re.search(rf'\binto\s+("?\w+"?\.)?"?{re.escape(short)}"?\b', source) or (
                re.search(r"\bexecute\b", source) and f"'{short}'" in source
            )
            for trigger in facts["triggers"]:
                if trigger["on"] in self.protected and named:
                    return str(trigger["on"])
        for _, rule in self.catalogue.facts.get("rule", []):
            if rule["on"] in self.protected and re.search(
                rf'\binto\s+("?\w+"?\.)?"?{re.escape(short)}"?\b', rule["definition"].lower()
            ):
                return str(rule["on"])
        for table in sorted(self.protected):
            base = re.escape(self.tables[table]["name"].lower().removesuffix("s"))
            if re.fullmatch(
                rf"{base}s?_?(history|audit|log|archived?|old|backup|bak|copy|copie|versions?|export|"
                r"snapshot|dump|mirror|staging|te?mp|cache|deleted|trash)s?(_?\d+)?",
                short,
            ):
                return table
        return None

    def _publications(self) -> None:
        for name, publication in self.catalogue.facts.get("publication", []):
            shown = sorted(self.protected & set(publication["tables"]))
            if shown:
                fix = (
                    f"DROP PUBLICATION {name};" if publication["all"]
                    else f"ALTER PUBLICATION {name} DROP TABLE {', '.join(shown)};"
                )  # fmt: skip
                self._add(
                    "publication", f"publication {name}",
                    f"sends rows of {', '.join(shown)} to subscribers, whatever the policies say",
                    fix, "note",
                )  # fmt: skip

    def _role(self) -> None:
        for name, role in self.catalogue.facts.get("role", []):
            major, minor = divmod(role["version"], 10000)
            for hole, what, fixed in _HOLES:
                if major in fixed and minor < fixed[major] and self.protected:
                    self._add(
                        "server-version", f"server {major}.{minor}",
                        f"has {hole}: {what}", f"-- update to {major}.{fixed[major]} or later",
                        "risk",
                    )  # fmt: skip
            for attribute, why in (
                ("replication", "may read every change of every table by logical replication"),
                ("createrole", "may make roles, and grant itself others"),
            ):
                if role[attribute]:
                    self._add(
                        "role-attribute",
                        f"role {name}",
                        why,
                        f"ALTER ROLE {name} NO{attribute.upper()};",
                        "risk",
                    )
            for power in role["powers"]:
                self._add(
                    "role-attribute",
                    f"role {name}",
                    f"is a member of {power}, which passes every policy by",
                    f"REVOKE {power} FROM {name};",
                )
