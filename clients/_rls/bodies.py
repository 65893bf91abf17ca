"""Run the bodies of views and functions over made-up rows, to see whether others' rows show.

What a body returns for a user must not depend on rows that are all another user's: it is evaluated
with those and with empty tables, and compared.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, Final

from .constants import literals
from .evaluate import Job, Shadow
from .worlds import KEYS, domain, sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .identity import Universe
    from .judge import Relation

__all__ = ["Body", "bound", "function_body", "unqualified"]

_MAX_ROWS: Final = 40
_MAX_ARGUMENTS: Final = 12
_PLPGSQL: Final = re.compile(
    r"^\s*(?:DECLARE\s*)?BEGIN\s+RETURN\s+(QUERY\s+)?(.*?);?\s*(?:RETURN\s*;\s*)?END\s*;?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_INTO: Final = re.compile(
    r"^\s*DECLARE\s+(?P<name>\w+)\s+[\w.%\[\]]+\s*;\s*BEGIN\s+SELECT\s+(?P<what>.*?)\s+INTO\s+"
    r"(?:STRICT\s+)?(?P=name)\s+(?P<rest>FROM\s.*?);\s*RETURN\s+(?P=name)\s*;\s*END\s*;?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_WRITES: Final = re.compile(
    r"\b(insert|update|delete|truncate|merge|copy|create|drop|alter|grant|perform|execute|random|"
    r"clock_timestamp|gen_random_uuid|nextval|pg_sleep|dblink\w*|pg_advisory\w*|lo_\w+)\b",
    re.IGNORECASE,
)


def function_body(facts: Mapping[str, Any]) -> str | None:
    """Return a function's body as one query, where it is one."""
    source = facts["source"].strip()
    if facts["language"] == "plpgsql":
        if into := _INTO.match(source):
            source = f"SELECT {into['what']} {into['rest']} LIMIT 1"
        elif match := _PLPGSQL.match(source):
            source = match[2].strip() if match[1] else f"SELECT {match[2].strip()}"
        else:
            return None
    elif facts["language"] != "sql":
        return None
    if facts["sqlbody"]:
        source = re.sub(r"^RETURN\b", "SELECT", source)
        source = re.sub(r"^BEGIN ATOMIC\s+(.*?);?\s*END$", r"\1", source, flags=re.DOTALL)
    source = source.rstrip().removesuffix(";").rstrip()
    without = re.sub(r"'(?:[^']|'')*'", "''", source)
    if ";" in without or "--" in without or "/*" in without or _WRITES.search(without):
        return None
    return (
        source if re.match(r"\(*\s*(select|with|table|values)\b", source, re.IGNORECASE) else None
    )


class Body:
    """One view or function, run over rows of others.

    Args:
        query: Its body, as one query.
        tables: The tables that it names.
        arguments: The names and types of its arguments.
        universe: Whose ids occur.
    """

    def __init__(
        self,
        query: str,
        tables: Sequence[Relation],
        arguments: Sequence[Mapping[str, str]],
        universe: Universe,
    ) -> None:
        self.universe = universe
        for table in tables:
            query = unqualified(query, table)
        shadows = [Shadow(t.facts["quoted"], t.name, str(i)) for i, t in enumerate(tables)]
        world = {str(i): self._rows(t, query) for i, t in enumerate(tables)}
        empty = ", ".join(f"{s.name} AS (SELECT * FROM {s.name} LIMIT 0)" for s in shadows)
        expressions = []
        for values in self._arguments(arguments):
            text = bound(query, arguments, values)
            shown = f"(SELECT coalesce(string_agg(v::text, ' '), '') FROM ({text}) AS v)"
            expressions.append(f"{shown} IS DISTINCT FROM (WITH {empty} SELECT {shown})")
        names = list(universe.owner.settings)
        people = (universe.owner, *universe.others[:3])
        settings = [*(person.settings for person in people), dict.fromkeys(names, "")]
        states: list[dict[str, str | None]] = [{**values} for values in settings]
        self.job = Job(
            "clients_rls_none", tables[0].name, expressions, [{}], [world], shadows, states
        )

    def shows_others(self) -> bool | None:
        """Return whether it shows rows of others; None where it cannot be told."""
        answers = self.job.answers
        if not answers:
            return None
        if any("t" in cell for state in answers[1:] for cell in state):
            return True
        if any("u" in cell for state in answers[1:] for cell in state):
            return None
        return False if any("t" in cell for cell in answers[0]) else None

    def _rows(self, table: Relation, query: str) -> list[dict[str, Any]]:
        constants = literals([query])
        domains: dict[str, list[Any]] = {}
        mine = self.universe.others[0].names
        for name, column in table.columns.items():
            found = domain(column, constants, self.universe, default=table.defaults.get(name))
            values = [
                value for value in found.values if value is not None and str(value) not in mine
            ]
            usual = [
                value for value in found.typical if value is not None and str(value) not in mine
            ]
            owner = [value for value in values if str(value) in self.universe.owner.names]
            if owner and (name.endswith("id") or "owner" in name or "user" in name):
                domains[name] = [*owner, *(v for v in values if str(v) in KEYS["uuid"])][:2]
            else:
                used = re.search(rf"\b{re.escape(name.lower())}\b", query.lower())
                domains[name] = (values[:6] if used else (usual or values)[:1]) or [None]
        rows, _ = sample(domains, _MAX_ROWS)
        return rows

    def _arguments(self, arguments: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
        choices = []
        for argument in arguments:
            kind = argument["type"]
            column = {
                "base": kind,
                "element": None,
                "labels": None,
                "required": True,
                "generated": False,
            }
            found = domain(column, [], self.universe).values
            texts = [_literal(value, kind) for value in found if value is not None][:4]
            choices.append(texts or [f"NULL::{kind}"])
        return list(itertools.islice(itertools.product(*choices), _MAX_ARGUMENTS))


def _literal(value: Any, kind: str) -> str:
    text = str(value).replace("'", "''")
    return f"('{text}'::{kind})"


def bound(query: str, arguments: Sequence[Mapping[str, str]], values: Sequence[str]) -> str:
    """Return a body with values in place of its arguments.

    Args:
        query: The body, as one query.
        arguments: The names and types of its arguments.
        values: The SQL of each value.
    """
    for i, (argument, value) in enumerate(zip(arguments, values, strict=True)):
        literal = value.replace("\\", r"\\")
        query = re.sub(rf"\${i + 1}\b", literal, query)
        if argument["name"]:
            name = re.escape(argument["name"])
            query = re.sub(rf"(?<![\w.\"]){name}(?![\w.\"(])", literal, query)
    return query


def unqualified(query: str, table: Relation) -> str:
    """Return a query that names a table without its schema, as the made-up one is called."""
    schema, _, _ = table.name.partition(".")
    parts = [rf'"?{re.escape(schema.strip(chr(34)))}"?', rf'"?{re.escape(table.facts["name"])}"?']
    pattern = rf"(?<![\w\"]){parts[0]}\s*\.\s*{parts[1]}(?![\w\"])"
    return re.sub(pattern, table.facts["quoted"].replace("\\", r"\\"), query, flags=re.IGNORECASE)
