"""Read a policy's expression, as PostgreSQL prints it: tokens, nested in their parentheses.

It finds where a call, a cast or a sub-select stands, for `clients._rls.clause` and
`clients._rls.inline`; what an expression means is left to the server.

``pg_get_expr`` puts parentheses round every operation and qualifies every column inside a
sub-select, so that nesting alone tells what belongs together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Group", "Node", "Token", "is_select", "parse", "split", "unwrapped", "walk"]

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
    | [eE]'(?:[^'\\]|''|\\.)*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | [^\W\d][\w$]*
    | \d[\d.]*
    | ::
    | [-+*/<>=~!@\#%^&|`?]+
    | \S
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, literal, operator or punctuation mark, and where it stands."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The text for comparison with keywords and function names."""
        return self.text.lower()

    @property
    def name(self) -> str:
        """The identifier, without its quotes."""
        return self.text[1:-1].replace('""', '"') if self.text.startswith('"') else self.text

    @property
    def literal(self) -> str | None:
        """The string literal's value, or None for anything else."""
        return self.text[1:-1].replace("''", "'") if self.text.startswith("'") else None


@dataclass(frozen=True, slots=True)
class Group:
    """What stands between two parentheses, and where these stand."""

    nodes: tuple[Node, ...]
    start: int
    end: int


Node: TypeAlias = "Token | Group"


def parse(text: str) -> Group:
    """Return the whole text as one group; parentheses that do not match do no harm."""
    stack: list[tuple[int, list[Node]]] = [(0, [])]
    for match in _TOKEN.finditer(text):
        if match["comment"]:
            continue
        symbol = match[0]
        if symbol == "(":
            stack.append((match.start(), []))
        elif symbol == ")" and len(stack) > 1:
            start, nodes = stack.pop()
            stack[-1][1].append(Group(tuple(nodes), start, match.end()))
        else:
            stack[-1][1].append(Token(symbol, match.start(), match.end()))
    while len(stack) > 1:
        start, nodes = stack.pop()
        stack[-1][1].append(Group(tuple(nodes), start, len(text)))
    return Group(tuple(stack[0][1]), 0, len(text))


def is_select(nodes: Sequence[Node]) -> bool:
    """Return whether the nodes of one level are a sub-select."""
    first = nodes[0] if nodes else None
    return isinstance(first, Token) and first.word in ("select", "with")


def unwrapped(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return the nodes without parentheses that enclose all of them."""
    while len(nodes) == 1 and isinstance(nodes[0], Group):
        nodes = nodes[0].nodes
    return tuple(nodes)


def split(nodes: Sequence[Node], separator: str) -> list[tuple[Node, ...]]:
    """Return the nodes between separators of this level, such as ``or`` or a comma."""
    parts: list[list[Node]] = [[]]
    for node in nodes:
        if isinstance(node, Token) and node.word == separator:
            parts.append([])
        else:
            parts[-1].append(node)
    return [tuple(part) for part in parts]


def walk(nodes: Sequence[Node]) -> Iterator[tuple[Sequence[Node], int]]:
    """Yield every level of nesting, and each index in it, in the order of the text."""
    for index, node in enumerate(nodes):
        yield nodes, index
        if isinstance(node, Group):
            yield from walk(node.nodes)
