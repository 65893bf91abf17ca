"""Find what keeps an identity where no client can reset it: domains, indexes and partition keys.

For as long as a session lives, PostgreSQL keeps the expressions of a domain's CHECK, an index and
a partition key with the values of IMMUTABLE functions in them, and DISCARD ALL leaves them: where
such a function reads the identity, the session's first user is compared with everybody. An index
besides holds what the expression was for whoever wrote the row, and a policy's clause that it
answers is not tested again.
https://www.postgresql.org/docs/18/xfunc-volatility.html

CHECK constraints of tables, generated columns, defaults, rules, WHEN clauses of triggers and
statistics are computed for each statement, and are not found.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .expression import Group, Token, parse, walk
from .finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .catalogue import Catalogue
    from .paths import Functions

__all__ = ["kept_identities"]

_RULE = "identity-kept"


def kept_identities(catalogue: Catalogue, functions: Functions) -> Iterator[Finding]:
    """Yield a finding for each domain, index and partition key that reads the identity.

    Args:
        catalogue: What the catalogue holds.
        functions: The functions in it.
    """
    tables = dict(catalogue.facts.get("table", []))
    relations = [t["name"] for t in tables.values() if t["protected"]]
    relations += [view["name"] for _, view in catalogue.facts.get("view", [])]

    def reading(oids: Iterable[str]) -> set[str]:
        closure = functions.closure(oids)
        return {o for o in closure if functions.reads_identity(functions.closure({o}), relations)}

    def policies_of(name: str) -> list[Mapping[str, Any]]:
        parent = tables[name]["protected_parent"]
        return [*tables[name]["policies"], *(tables[parent]["policies"] if parent else [])]

    for name, check in catalogue.facts.get("domain check", []):
        folded = [o for o in check["functions"] if _may_be_kept(o, check["definition"], functions)]
        found = {o for o in reading(folded) if functions.facts[o]["volatile"] == "i"}
        if found:
            policies = [p for table in tables.values() for p in table["policies"]]
            yield _domain(name, check, found, functions, policies)
    for name, index in catalogue.facts.get("index", []):
        if found := reading(index["functions"]):
            used = functions.closure(o for p in policies_of(index["on"]) for o in p["functions"])
            yield _index(name, index, _names(found, functions), leaks=bool(used & found))
    for _, key in catalogue.facts.get("partition key", []):
        if found := reading(key["functions"]):
            yield Finding(
                _RULE, f"partition key of {key['on']}",
                f"calls {_names(found, functions)}, which reads the identity: rows go to a "
                "partition by who writes them, and for a session that is its first user",
                f"-- a partition key cannot be changed: make {key['on']} anew, partitioned by "
                "columns, and copy its rows", "risk",
            )  # fmt: skip


def _may_be_kept(oid: str, definition: str, functions: Functions) -> bool:
    """Whether a domain's CHECK may hold a function's value, and not call it for each value.

    What has the value among its arguments is called. The body of one in SQL may take its place.
    """
    facts = functions.facts.get(oid)
    if facts is None or facts["language"] == "sql":
        return facts is not None
    calls = []
    for nodes, index in walk(parse(definition).nodes):
        name, group = nodes[index - 1] if index else None, nodes[index]
        if isinstance(group, Group) and isinstance(name, Token) and name.name == facts["name"]:
            inner = [level[i] for level, i in walk(group.nodes)]
            calls.append(any(isinstance(n, Token) and n.word == "value" for n in inner))
    return not calls or not all(calls)


def _domain(
    name: str,
    check: Mapping[str, Any],
    found: set[str],
    functions: Functions,
    policies: list[Mapping[str, Any]],
) -> Finding:
    """Return the finding on a domain: a leak where a policy leans on it."""

    def casts(policy: Mapping[str, Any]) -> bool:
        closure = functions.closure(policy["functions"])
        return (
            check["domain"] in policy["domains"]
            or functions.names(closure, check["name"])
            or any(check["domain"] in functions.facts[oid]["domains"] for oid in closure)
        )

    severity: Severity = "leak" if any(map(casts, policies)) else "risk"
    labels = " ".join(
        f"ALTER FUNCTION {functions.facts[oid]['object']} STABLE;" for oid in sorted(found, key=int)
    )
    # Sessions that have the constraint in memory read it again when it is another one; the rows
    # that are there may be anybody's.
    definition = re.sub(r"\s+NOT VALID$", "", check["definition"])
    domain = f"ALTER DOMAIN {check['on']}"
    return Finding(
        _RULE, f"constraint {name} of domain {check['on']}",
        f"calls {_names(found, functions)}, which reads the identity and is IMMUTABLE: a session "
        "compares every user's values with its first user"
        + (", and a policy leans on that" if severity == "leak" else ""),
        f"{labels} {domain} DROP CONSTRAINT {name}; "
        f"{domain} ADD CONSTRAINT {name} {definition} NOT VALID;", severity,
    )  # fmt: skip


def _index(name: str, index: Mapping[str, Any], called: str, *, leaks: bool) -> Finding:
    """Return the finding on an index: a leak where a policy of the table may be answered by it."""
    why = (
        f"calls {called}, which reads the identity: it holds what that was for whoever wrote the "
        "row, and a session keeps its first user"
    )
    if leaks:
        why += "; a policy that it answers lets others' rows pass"
    if index["constraint"]:
        fix = f"ALTER TABLE {index['on']} DROP CONSTRAINT {name};"
    else:
        fix = f"DROP INDEX {name};"
    kind = "constraint" if index["constraint"] else "index"
    fix += " -- and make one that names columns instead"
    return Finding(_RULE, f"{kind} {name} on {index['on']}", why, fix, "leak" if leaks else "risk")


def _names(oids: set[str], functions: Functions) -> str:
    return " and ".join(functions.facts[oid]["object"] for oid in sorted(oids, key=int))
