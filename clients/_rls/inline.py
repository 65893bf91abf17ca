"""Put the bodies of functions that read tables in place of their calls in a policy's expression.

A function runs with the rows that exist, whatever lookup tables are made up. One whose body is one
query is therefore evaluated as that query, over the made-up rows: those that its caller may see, or
for SECURITY DEFINER those that its owner may see.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .bodies import bound, function_body, unqualified
from .expression import Group, Token, parse, split, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .judge import Relation

__all__ = ["Inlined", "definer_name", "inline"]

_DEPTH = 4


@dataclass
class Inlined:
    """An expression without calls of functions that read tables.

    Args:
        text: The expression.
        read: The tables that the bodies read, each with its columns that they name.
        owners: For each role whose rights a body reads with, the tables that it reads.
        complete: Whether no such call is left.
    """

    text: str
    read: dict[str, set[str]] = field(default_factory=dict)
    owners: dict[str, set[str]] = field(default_factory=dict)
    complete: bool = True


def inline(
    text: str,
    functions: Mapping[str, Mapping[str, Any]],
    reads: Callable[[str], list[Relation]],
) -> Inlined:
    """Return an expression with the bodies of functions in place of their calls.

    Args:
        text: The expression, as printed for evaluation.
        functions: The functions that may occur, by oid.
        reads: Returns the tables that a function's body names itself.
    """
    result = Inlined(text)
    result.text = _replaced(text, None, functions, reads, result, depth=0)
    return result


def definer_name(owner: str, table: str) -> str:
    """Return what a table is called that a body reads with its owner's rights."""
    return f"clients_rls_as_{(owner + '.' + table).encode().hex()[:24]}"


def _replaced(
    text: str,
    user: str | None,
    functions: Mapping[str, Mapping[str, Any]],
    reads: Callable[[str], list[Relation]],
    result: Inlined,
    *,
    depth: int,
) -> str:
    edits: list[tuple[int, int, str]] = []
    for nodes, index in walk(parse(text).nodes):
        group, name = nodes[index], nodes[index - 1] if index else None
        if not isinstance(group, Group) or not isinstance(name, Token):
            continue
        called = [oid for oid, f in functions.items() if f["name"] == name.name]
        if not called or any(start < group.end and group.start < end for start, end, _ in edits):
            continue
        facts = functions[called[0]]
        tables = reads(called[0])
        body = function_body(facts)
        if len(called) > 1 or body is None or depth == _DEPTH:
            result.complete = False
            continue
        owner = facts["owner"] if facts["definer"] else user
        arguments = [text[part[0].start : part[-1].end] for part in split(group.nodes, ",") if part]
        if len(arguments) != len(facts["arguments"]):
            result.complete = False
            continue
        body = _replaced(body, owner, functions, reads, result, depth=depth + 1)
        body = _over_made_up_rows(body, tables, owner, result)
        first = index - 1
        while first >= 2 and isinstance(dot := nodes[first - 1], Token) and dot.text == ".":  # noqa: PLR2004 - schema, dot
            first -= 2
        previous = nodes[first - 1] if first else None
        in_from = isinstance(previous, Token) and previous.word in ("from", "join")
        edits.append((
            nodes[first].start, group.end,
            _call(body, facts, arguments, f"clients_rls_{depth}_{len(edits)}", in_from=in_from),
        ))  # fmt: skip
    pieces, at = [], 0
    for start, end, new in sorted(edits):
        pieces += [text[at:start], new]
        at = end
    return "".join([*pieces, text[at:]])


def _over_made_up_rows(
    body: str, tables: list[Relation], owner: str | None, result: Inlined
) -> str:
    hidden = []
    for table in tables:
        body = unqualified(body, table)
        words = set(re.findall(r"\w+", body.lower()))
        named = {column for column in table.columns if column.lower() in words}
        result.read.setdefault(table.name, set()).update(named)
        if owner is not None:
            result.owners.setdefault(owner, set()).add(table.name)
            shown = definer_name(owner, table.name)
            hidden.append(f"{table.facts['quoted']} AS (SELECT * FROM {shown})")
    return f"(WITH {', '.join(hidden)} ({body}))" if hidden else f"({body})"


def _call(
    body: str, facts: Mapping[str, Any], arguments: list[str], alias: str, *, in_from: bool
) -> str:
    names = [f"a{i}" for i in range(len(arguments))]
    kinds = [argument["type"] for argument in facts["arguments"]]
    values = [f"({alias}.{name})" for name in names]
    body = bound(body, facts["arguments"], values)
    given = ", ".join(f"({a})::{kind}" for a, kind in zip(arguments, kinds, strict=True))
    row = f"(SELECT {given}) AS {alias}({', '.join(names)})"
    rows = f"(SELECT {alias}_v.* FROM {row}, LATERAL {body} AS {alias}_v)" if arguments else body
    if in_from:
        return rows
    if facts["set"]:
        return f"unnest(ARRAY{rows})"
    # As a bare sub-select it would be one to ANY and IN.
    value = f"(SELECT {body} FROM {row})" if arguments else body
    return f"({value}::{facts['returns']})"
