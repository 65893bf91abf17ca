"""What a policy costs, and its text without a fault that was found: read from one clause's text.

Whether a policy leaks is never read from its text: that is evaluated (`clients._rls.judge`). What
stays here is what no evaluation tells: whether the setting is read for each row or once, whether a
column's index can serve, and where in the text a cast lacks NULLIF. EXPLAIN would tell the first
two of a plan, but for a table as it is today: one of few rows is read as a whole, whatever indexes
it has, and a plan shows only what is already bad. A fix that keeps the other conditions word for
word needs the place of the fault as well. Where the reader is mistaken, a finding ``slow`` or
``note`` is missing or needless; it makes no ``leak`` and clears none.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from .expression import Group, Node, Token, is_select, parse, split, unwrapped, walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Clause", "Column", "Comparison", "Scope", "mend_casts"]

_TEXT_TYPES = ("text", "varchar", "character", "citext", "name")


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue describes it.

    Args:
        name: Its name.
        quoted: Its name as SQL.
        type: Its type as SQL.
        text: Whether the setting needs no cast to be compared with it.
        relabelled: Whether an index serves although the expression casts the column.
        key: Whether it alone is a unique key of its table.
        indexed: Whether it leads a valid index.
    """

    name: str
    quoted: str
    type: str
    text: bool
    relabelled: bool
    key: bool
    indexed: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """What a clause may refer to.

    Args:
        setting: The setting that holds the user's id; None stands for any setting.
        table: The name of the policy's table.
        columns: The table's columns by name.
        readers: The names of functions that read the setting.
    """

    setting: str | None
    table: str
    columns: Mapping[str, Column]
    readers: frozenset[str] = frozenset()

    def expected(self, column: Column, setting: str) -> str:
        """Return the side of a comparison that every rule is content with."""
        literal = setting.replace("'", "''")
        cast = "" if column.text else f"::{column.type}"
        return f"(SELECT NULLIF(current_setting('{literal}', true), ''){cast})"


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of nesting on the way to a call: the call lies in nodes[first] to nodes[last]."""

    nodes: Sequence[Node]
    first: int
    last: int

    def before(self) -> str:
        previous = self.nodes[self.first - 1] if self.first else None
        return previous.word if isinstance(previous, Token) else ""

    def after(self) -> list[str]:
        return [node.word for node in self.nodes[self.last + 1 :] if isinstance(node, Token)]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that reads the setting: ``current_setting`` itself when direct, else a reader."""

    path: tuple[_Level, ...]
    direct: bool

    @property
    def start(self) -> int:
        return self.path[-1].nodes[self.path[-1].first].start

    @property
    def end(self) -> int:
        return self.path[-1].nodes[self.path[-1].last].end


@dataclass(frozen=True, slots=True)
class Comparison:
    """``column = (something with the setting)``.

    Args:
        column: The table's column.
        bare: Whether an index on the column can serve.
        side: The nodes on the other side.
        start: Where the whole comparison starts in the text.
        end: Where it ends.
    """

    column: Column
    bare: bool
    side: tuple[Node, ...]
    start: int
    end: int


class Clause:
    """One clause of a policy.

    Args:
        text: The expression, as ``pg_get_expr`` prints it.
        scope: What it may refer to.
    """

    def __init__(self, text: str, scope: Scope) -> None:
        self.text = text
        self.scope = scope
        nodes = parse(text).nodes
        self.always_true = _is_true(nodes)
        self._open_tests = self._find_open_tests(nodes)
        calls = list(_calls(nodes, scope))
        self.mentions_setting = bool(calls)
        self.binds_row = self._reads_row(nodes)
        self._open_otherwise = bool(calls) and self._fails_open(nodes, calls)
        self.open_without_context = bool(self._open_tests) or self._open_otherwise
        # What is open is to go altogether: it needs no further finding.
        self._calls = [call for call in calls if not self._is_in_open_test(call)]
        self.casts = any(_casts(call) for call in self._calls if call.direct)
        self.per_row = not all(self._wrapped(call) for call in self._calls)
        found = [self._comparison(call) for call in self._calls]
        self.comparisons = [comparison for comparison in found if comparison]

    @property
    def ignores_setting(self) -> bool:
        """Whether no user's rows are told from another's."""
        return not self.mentions_setting or not (self.binds_row or self.open_without_context)

    def mended(self, setting: str) -> str | None:
        """Return the expression without its faults, or None where only a new one helps."""
        useless = self.always_true or self.ignores_setting or self._open_otherwise
        if useless or not self._calls:
            return None
        edits = [(test[0].start, test[-1].end, "false") for test in self._open_tests]
        for call in self._calls:
            edit = self._edit(call, setting)
            if not any(start < edit[1] and edit[0] < end for start, end, _ in edits):
                edits.append(edit)
        return _edited(self.text, 0, len(self.text), edits)

    def _edit(self, call: _Call, setting: str) -> tuple[int, int, str]:
        read = self.text[call.start : call.end]
        if call.direct and _casts(call):
            read = f"NULLIF({read}, '')"
        comparison = self._comparison(call)
        if comparison and not comparison.bare:
            column = comparison.column
            side = self.scope.expected(column, setting)
            if not call.direct:
                side = f"(SELECT ({read})::{column.type})"
            return comparison.start, comparison.end, f"{column.quoted} = {side}"
        if self._wrapped(call) or self._reads_row(call.path[-1].nodes[call.path[-1].last :]):
            return call.start, call.end, read
        if comparison and not self._reads_row(comparison.side) and not _is_any(comparison.side):
            start, end = comparison.side[0].start, comparison.side[-1].end
            side = _edited(self.text, start, end, [(call.start, call.end, read)])
            return start, end, f"(SELECT {side})"
        return call.start, call.end, f"(SELECT {read})"

    def _is_in_open_test(self, call: _Call) -> bool:
        return any(
            test[0].start <= call.start and call.end <= test[-1].end for test in self._open_tests
        )

    def _find_open_tests(self, nodes: Sequence[Node]) -> list[tuple[Node, ...]]:
        """Return the tests for a missing user that by themselves let the row pass."""
        nodes = unwrapped(nodes)
        alternatives = split(nodes, "or")
        if len(alternatives) > 1:
            return [test for part in alternatives for test in self._find_open_tests(part)]
        conditions = split(nodes, "and")
        if len(conditions) > 1:
            found = [(part, self._find_open_tests(part)) for part in conditions]
            # A condition that binds the user closes what another leaves open.
            if any(not tests and self._has_call(part) for part, tests in found):
                return []
            return [test for _, tests in found for test in tests]
        missing = any(_tests_missing(level, index) for level, index in walk(nodes))
        return [nodes] if missing and self._has_call(nodes) and not self._reads_row(nodes) else []

    def _has_call(self, nodes: Sequence[Node]) -> bool:
        return any(True for _ in _calls(nodes, self.scope))

    def _fails_open(self, nodes: Sequence[Node], calls: list[_Call]) -> bool:
        for call in calls:
            for level in call.path:
                after = level.after()
                if after[:3] == ["is", "not", "false"] or after[:2] == ["is", "unknown"]:
                    return True
                if level.before() == "coalesce" and self._falls_back(level.nodes[level.last]):
                    return True
        words = _words(nodes)
        pairs = set(pairwise(words))
        missing = any(_tests_missing(level, index) for level, index in walk(nodes))
        return "case" in words and missing and bool(pairs & {("then", "true"), ("else", "true")})

    def _falls_back(self, arguments: Node) -> bool:
        """Whether COALESCE has an alternative to the setting that lets the row pass."""
        if not isinstance(arguments, Group):
            return False
        rest = split(arguments.nodes, ",")[1:]
        return any(_is_true(part) or self._reads_row(part) for part in rest)

    def _reads_row(self, nodes: Sequence[Node], *, inside: bool = False) -> bool:
        """Whether a column of the policy's own table occurs."""
        inside = inside or is_select(nodes)
        for index, node in enumerate(nodes):
            if isinstance(node, Group):
                if self._reads_row(node.nodes, inside=inside):
                    return True
                continue
            words = [n.name if isinstance(n, Token) else "(" for n in nodes[index : index + 4]]
            if words[0] == self.scope.table and words[1:2] == ["."] and words[3:] != ["("]:
                # A schema of the same name stands before a function or a table.
                if words[2:3] == ["*"] or set(words[2:3]) & set(self.scope.columns):
                    return True
                continue
            previous = nodes[index - 1] if index else None
            named = isinstance(previous, Token) and previous.text in (".", "::")
            other = inside or named or words[1:2] in (["."], ["("])
            if not other and words[0] in self.scope.columns:
                return True
        return False

    def _wrapped(self, call: _Call) -> bool:
        """Whether a sub-select that reads nothing of the row holds the call: an InitPlan."""
        return any(
            is_select(level.nodes) and not self._reads_row(level.nodes) for level in call.path
        )

    def _comparison(self, call: _Call) -> Comparison | None:
        for position in range(len(call.path) - 1, -1, -1):
            level = call.path[position]
            equals = [i for i, node in enumerate(level.nodes) if _is(node, "=")]
            if not equals:
                continue
            inside = any(is_select(up.nodes) for up in call.path[:position])
            left, right = level.nodes[: equals[0]], level.nodes[equals[0] + 1 :]
            if equals[0] < level.first:
                left, right = right, left
            column = self._column(right, inside=inside)
            if column is None:
                return None
            start, end = level.nodes[0].start, level.nodes[-1].end
            return Comparison(*column, tuple(left), start, end)
        return None

    def _column(self, nodes: Sequence[Node], *, inside: bool) -> tuple[Column, bool] | None:
        whole = unwrapped(nodes)
        base = unwrapped(split(whole, "::")[0])
        tokens = [node for node in base if isinstance(node, Token)]
        if len(tokens) != len(base):
            return None
        names = [token.name for token in tokens if token.text != "."]
        if not names or names[:-1] != ([self.scope.table] if inside else []):
            return None
        column = self.scope.columns.get(names[-1])
        return (column, base == whole or column.relabelled) if column else None


def mend_casts(definition: str, setting: str) -> str | None:
    """Return a function's definition with NULLIF before each cast, or None where none lacks."""
    scope = Scope(setting, "", {})
    edits = [
        (call.start, call.end, f"NULLIF({definition[call.start : call.end]}, '')")
        for call in _calls(parse(definition).nodes, scope)
        if _casts(call)
    ]
    return _edited(definition, 0, len(definition), edits) if edits else None


def _calls(nodes: Sequence[Node], scope: Scope, path: tuple[_Level, ...] = ()) -> Iterator[_Call]:
    for index, node in enumerate(nodes):
        if not isinstance(node, Group):
            continue
        name = nodes[index - 1] if index else None
        if isinstance(name, Token):
            first = index - 1
            while first >= 2 and _is(nodes[first - 1], "."):  # noqa: PLR2004 - schema, dot
                first -= 2
            direct = name.word == "current_setting" and _names(node, scope.setting)
            if direct or name.name in scope.readers:
                yield _Call((*path, _Level(nodes, first, index)), direct)
        yield from _calls(node.nodes, scope, (*path, _Level(nodes, index, index)))


def _names(arguments: Group, setting: str | None) -> bool:
    first = arguments.nodes[0] if arguments.nodes else None
    literal = first.literal if isinstance(first, Token) else None
    return literal is not None and (setting is None or literal.lower() == setting.lower())


def _casts(call: _Call) -> bool:
    """Whether the setting is cast to something that '' is no value of."""
    for level in reversed(call.path):
        after = level.after()
        if level.before() == "nullif" or any(_is(node, "case") for node in level.nodes):
            return False
        following = level.nodes[level.last + 1] if level.last + 1 < len(level.nodes) else None
        kind = after[1] if following and _is(following, "::") and len(after) > 1 else ""
        if after[:1] == ["as"] and len(after) > 1 and not is_select(level.nodes):
            kind = after[1]
        if kind and kind not in _TEXT_TYPES:
            return True
        if any(_is(node, "=") for node in level.nodes):
            return False
    return False


def _tests_missing(nodes: Sequence[Node], index: int) -> bool:
    """Whether IS NULL or a comparison with '' stands here."""
    node, following = nodes[index], nodes[index + 1] if index + 1 < len(nodes) else None
    if following and _is(node, "is") and _is(following, "null"):
        return True
    empty_follows = isinstance(following, Token) and following.literal == ""
    empty_leads = index == 0 and isinstance(node, Token) and node.literal == ""
    return (_is(node, "=") and empty_follows) or (
        empty_leads and any(_is(other, "=") for other in nodes)
    )


def _is_true(nodes: Sequence[Node]) -> bool:
    nodes = unwrapped(nodes)
    alternatives = split(nodes, "or")
    if len(alternatives) > 1:
        return any(_is_true(part) for part in alternatives)
    conditions = split(nodes, "and")
    if len(conditions) > 1:
        return all(_is_true(part) for part in conditions)
    sides = split(nodes, "=")
    same = len(sides) == 2 and _words(sides[0]) == _words(sides[1])  # noqa: PLR2004 - two sides
    return same or _words(nodes) == ["true"]


def _words(nodes: Sequence[Node]) -> list[str]:
    return [node.word for level, i in walk(nodes) if isinstance(node := level[i], Token)]


def _is(node: Node, word: str) -> bool:
    return isinstance(node, Token) and node.word == word


def _is_any(side: Sequence[Node]) -> bool:
    return isinstance(side[0], Token) and side[0].word in ("any", "all")


def _edited(text: str, start: int, end: int, edits: list[tuple[int, int, str]]) -> str:
    pieces, at = [], start
    for first, last, new in sorted(edits):
        if start <= first and last <= end:
            pieces += [text[at:first], new]
            at = last
    return "".join([*pieces, text[at:end]])
