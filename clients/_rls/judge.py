"""Judge the policies of one table by what they let pass, row by row.

A row belongs to whoever its owner's columns name, and an owner's column is one that decides: with
the current user's id in it the row passes, with another's it does not. What passes although it is
another user's is a counterexample, and the finding shows it:

* rows that anybody may read because their owner says so (``is_public``) are shared, and so are rows
  that name the current user in another column, or that another table ties to them (membership);
* rows that pass as rows are when nobody does anything about it are not;
* what others can change, add or delete is never shared, unless another table ties it to them.

All permissive and restrictive policies of a command are judged together.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .constants import literals, other_settings
from .evaluate import MAX_EVALUATIONS, Job, Shadow
from .worlds import Domain, crowd, domain, sample, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .identity import Person, Universe

__all__ = ["COMMANDS", "Counterexample", "Policy", "Relation", "Trial", "Verdict", "is_sharing"]

#: The letters of pg_policy.polcmd.
COMMANDS: Final = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}
_KINDS: Final = {
    "r": ("USING",),
    "a": ("WITH CHECK",),
    "w": ("USING", "WITH CHECK"),
    "d": ("USING",),
}
_MAX_ROWS: Final = 800
_MAX_WORLDS: Final = 120
# Columns of these names are a row's owner's to set, so that others may see it.
_SHARING = re.compile(
    r"publi|shar|visib|open|listed|global|world|every|anon|status|state|kind|type"
)
_HIDING = re.compile(r"delet|remov|archiv|trash|hid|priva|secret|draft|lock|ban|suspend")
# What gives many ids the same value.
_FOLDING = re.compile(r"hash|md5|sha\d|digest|crc32|%|\bmod\(|[^&]&[^&]|#[^>-]|>>|<<|\bget_b")
# What stands for nobody where no user is set.
_NOBODY = re.compile(
    r"[0\-\s]*|[f-]*|-\d+|(nobody|no[ _-]?one|none|null|nil|anon(ymous)?|guest|public|unknown|"
    r"unset|missing|invalid|deny|denied)",
    re.IGNORECASE,
)
_OWNERS = ("user_id", "owner_id", "owner", "tenant_id", "account_id", "author_id", "created_by")


@dataclass(frozen=True)
class Policy:
    """One policy that binds the role.

    Args:
        facts: What the catalogue tells.
        using: Its USING, printed for evaluation.
        check: Its WITH CHECK.
    """

    facts: dict[str, Any]
    using: str | None
    check: str | None

    @property
    def commands(self) -> str:
        """The letters of the commands that it is for."""
        return "rawd" if self.facts["command"] == "*" else str(self.facts["command"])

    def tested(self, command: str, kind: str) -> list[str]:
        """Return the expression that a command's rows are tested with, if any.

        Args:
            command: The command's letter.
            kind: ``"USING"`` for rows as they were, ``"WITH CHECK"`` for rows as they become.
        """
        if command not in self.commands:
            return []
        # https://www.postgresql.org/docs/18/sql-createpolicy.html: USING stands for both.
        text = self.using if kind == "USING" or self.check is None else self.check
        return [] if text is None else [text]


@dataclass(frozen=True)
class Relation:
    """A table, with the policies that bind the role.

    Args:
        name: Its qualified name.
        facts: What the catalogue tells.
        policies: Those that bind the role.
        checks: Its CHECK constraints, as expressions.
        defaults: The expressions of its columns' defaults.
    """

    name: str
    facts: dict[str, Any]
    policies: list[Policy]
    checks: list[str] = field(default_factory=list)
    defaults: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, dict[str, Any]]:
        """The facts of its columns, by name."""
        return {column["name"]: column for column in self.facts["columns"]}

    @property
    def visible(self) -> str | None:
        """What the role may see of it, as one expression; None for all."""
        if not self.facts["rls"]:
            return None
        given = [p.using for p in self.policies if p.facts["permissive"] and "r" in p.commands]
        taken = [p.using for p in self.policies if not p.facts["permissive"] and "r" in p.commands]
        either = " OR ".join(f"({text})" for text in given if text) or "false"
        return " AND ".join([f"({either})", *(f"({text})" for text in taken if text)])

    def read_by_policies(self) -> set[str]:
        """Return its own columns that its policies read."""
        found: set[str] = set()
        for policy in self.policies:
            read = policy.facts["columns"].get(self.name, ())
            found |= set(self.columns) if None in read else set(read)
        return found & set(self.columns)


@dataclass(frozen=True)
class Counterexample:
    """A row that passes though it should not.

    Args:
        command: The command's letter.
        clause: ``"USING"`` or ``"WITH CHECK"``.
        policies: The names of the permissive policies that let it pass.
        settings: The settings with which it passes.
        row: The row.
        world: The rows of lookup tables.
        cause: Why it should not: see the docstring of `Trial.judge`.
        columns: Those that mark the row.
    """

    command: str
    clause: str
    policies: tuple[str, ...]
    settings: dict[str, str | None]
    row: dict[str, Any]
    world: dict[str, list[dict[str, Any]]]
    cause: str
    columns: tuple[str, ...] = ()


@dataclass
class Verdict:
    """What was found out about one table.

    Args:
        counterexamples: At most one for each command, clause, policy and cause.
        owners: The columns that tell whose a row is, by setting.
        always: The policies, with their clauses, that let everything pass.
        constant: Those that do not depend on the user.
        undecided: Those that could not be evaluated.
        granted: Rows of lookup tables that open rows of others: the table's name and its row.
        isolated: Whether its policies tell users apart at all.
        primary: For each setting the one column that is the owner's.
        raises: Whether the policies show no user a row, and raise an error for some.
    """

    counterexamples: list[Counterexample] = field(default_factory=list)
    owners: dict[str, list[str]] = field(default_factory=dict)
    always: set[tuple[str, str]] = field(default_factory=set)
    constant: set[tuple[str, str]] = field(default_factory=set)
    undecided: set[str] = field(default_factory=set)
    granted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    isolated: bool = False
    primary: dict[str, str] = field(default_factory=dict)
    raises: bool = False


@dataclass(frozen=True)
class _State:
    """One setting of all settings.

    Args:
        settings: The values.
        person: Who is the current user; None for nobody.
        rest: The values of settings that are none of the client's.
        partial: Which setting alone differs from the owner's.
    """

    settings: dict[str, str | None]
    person: Person | None
    rest: dict[str, str | None]
    partial: str | None = None


class Trial:
    """One table's policies, evaluated in one universe.

    Args:
        table: The table.
        relations: All tables by name, for those that its policies read.
        universe: Whose ids occur.
        sources: The sources of functions that its policies call.
        roles: The current role's names.
        related: The tables that a foreign key ties to this one.
        seen_by: Lookup tables as others see them: how the expressions call each, the table, and
            what shows of it.
        wanted: Columns that its rows have to differ in, beside those that its policies read.
        commands: The commands to judge; those that are granted when None.
    """

    def __init__(
        self,
        table: Relation,
        *,
        relations: Mapping[str, Relation],
        universe: Universe,
        sources: Sequence[str],
        roles: Sequence[str],
        related: Iterable[str] = (),
        seen_by: Iterable[tuple[str, str, str | None]] = (),
        wanted: Iterable[str] = (),
        commands: str | None = None,
    ) -> None:
        self.table, self.universe = table, universe
        #: Whether its rows belong to rows of a table of users' rows, by a foreign key.
        self.child = False
        self.related = set(related)
        self.people = frozenset().union(
            universe.owner.names, *(person.names for person in universe.others)
        )
        if commands is None:
            rights = {"r": "select", "a": "insert", "w": "update", "d": "delete"}
            commands = "".join(c for c, right in rights.items() if table.facts[right])
        self.commands = commands
        own = [text for p in table.policies for text in (p.using, p.check) if text is not None]
        self.expressions = list(dict.fromkeys([*own, *table.checks]))
        self.lookups = self._lookups(relations)
        read = [*own, *(lookup.visible or "" for lookup in self.lookups)]
        texts = [*read, *sources]
        constants = literals([*texts, *table.checks])
        self.used = table.read_by_policies() | (set(wanted) & set(table.columns))
        mentioned = any(
            re.search(r"\b(current|session)_(user|role)\b|\buser\b", t.lower()) for t in texts
        )
        #: The columns whose values cannot be made up, of this table and of lookup tables.
        self.unknown: set[str] = set()
        self.constants = frozenset(constants)
        self.domains: dict[str, Domain] = {}
        for name in table.columns:
            if name in self.used:
                self.domains[name] = domain(
                    table.columns[name], constants, universe,
                    default=table.defaults.get(name), roles=roles if mentioned else (),
                )  # fmt: skip
        self.unknown |= {name for name, found in self.domains.items() if not found.known} & (
            table.read_by_policies()
        )
        self.rows, self.sampled = sample(
            {name: found.values for name, found in self.domains.items()}, _MAX_ROWS
        )
        self.worlds = self._worlds(constants, roles if mentioned else ())
        self.states = self._states(texts, constants)
        if any(_FOLDING.search(text) for text in texts):
            self._add_crowd()
        cells = len(self.rows) * len(self.worlds) * len(self.states)
        if cells > MAX_EVALUATIONS:
            keep = max(1, MAX_EVALUATIONS // (len(self.worlds) * len(self.states)))
            self.rows, more = sample({n: d.values for n, d in self.domains.items()}, keep)
            self.sampled |= more
        self.job = Job(
            table.facts["quoted"], table.name, self.expressions, self.rows,
            [{str(i): rows for i, rows in enumerate(world)} for world in self.worlds],
            [
                *(
                    Shadow(lookup.facts["quoted"], lookup.name, str(i), lookup.visible)
                    for i, lookup in enumerate(self.lookups)
                ),
                *(
                    Shadow(name, lookup.name, str(i), visible, lookup.facts["quoted"])
                    for i, lookup in enumerate(self.lookups)
                    for name, table, visible in seen_by
                    if table == lookup.name
                ),
            ],
            [state.settings for state in self.states],
        )  # fmt: skip

    # -- what it is tried with --

    def _lookups(self, relations: Mapping[str, Relation]) -> list[Relation]:
        """Return the tables that the policies read, those that others' policies need first."""
        found: dict[str, Relation] = {}

        def add(name: str, chain: tuple[str, ...]) -> None:
            lookup = relations.get(name)
            if lookup is None or name == self.table.name or name in found or name in chain:
                return
            for policy in lookup.policies if lookup.facts["rls"] else ():
                for other in policy.facts["columns"]:
                    add(other, (*chain, name))
            if lookup.facts["usable"]:
                found[name] = lookup

        for policy in self.table.policies:
            for name in policy.facts["columns"]:
                add(name, ())
        return list(found.values())

    def _add_crowd(self) -> None:
        """Add rows of many other users, of whom some have a hash or remainder in common."""
        found: list[dict[str, Any]] = []
        most = min(_MAX_ROWS, MAX_EVALUATIONS // (len(self.worlds) * len(self.states)))
        usual = {n: [*d.typical, *d.values][0] for n, d in self.domains.items()}
        for name in self.domains:
            kind = next((k for k in self.universe.kinds if self._holds_ids(name, k)), None)
            if kind:
                found += [{**usual, name: token} for token in crowd(kind)]
        found = found[: max(0, most - len(self.rows))]
        self.people |= {str(value) for row in found for value in row.values()} & {
            str(token) for kind in self.universe.kinds for token in crowd(kind)
        }
        self.rows = [*self.rows, *found]

    def _holds_ids(self, name: str, kind: str) -> bool:
        tokens = [t for t in self.universe.owner.names if _fits(t, kind)]
        values = {str(value) for value in self.domains[name].values}
        return name in self.table.read_by_policies() and bool(values & set(tokens))

    def _columns_of(self, lookup: Relation) -> set[str]:
        read: set[str] = lookup.read_by_policies() if lookup.facts["rls"] else set()
        for relation in (self.table, *self.lookups):
            for policy in relation.policies:
                names = policy.facts["columns"].get(lookup.name, ())
                read |= set(lookup.columns) if None in names else set(names)
        return read & set(lookup.columns)

    def _worlds(
        self, constants: list[str], roles: Sequence[str]
    ) -> list[list[list[dict[str, Any]]]]:
        choices: list[list[list[dict[str, Any]]]] = []
        for lookup in self.lookups:
            found = {
                name: domain(
                    lookup.columns[name], constants, self.universe, roles=roles, lookup=True
                )
                for name in lookup.columns
                if name in self._columns_of(lookup)
            }
            self.unknown |= {name for name, values in found.items() if not values.known}
            domains = {name: values.values for name, values in found.items()}
            rows, _ = sample(domains, max(8, int(_MAX_WORLDS ** (1 / len(self.lookups)))))
            choices.append([[], *([row] for row in rows)])
        worlds: list[list[list[dict[str, Any]]]] = [[]]
        for choice in choices:
            worlds = [[*world, rows] for world in worlds for rows in choice]
        return worlds[: 4 * _MAX_WORLDS]

    def _states(self, texts: list[str], constants: list[str]) -> list[_State]:
        universe = self.universe
        names = list(universe.owner.settings)
        others = other_settings(texts, names)
        plain: dict[str, str | None] = dict.fromkeys(others, "")
        found = [_State({**p.settings, **plain}, p, plain) for p in universe.others]
        found.append(_State({**universe.owner.settings, **plain}, universe.owner, plain))
        found.append(_State({**dict.fromkeys(names, ""), **plain}, None, plain))
        found.append(
            _State({**dict.fromkeys(names), **dict.fromkeys(others)}, None, dict.fromkeys(others))
        )
        for name, person in zip(names, universe.partial, strict=False):
            found.append(_State({**person.settings, **plain}, person, plain, name))
        found += [_State({**p.settings, **plain}, p, plain) for p in universe.claiming]
        # A literal may be somebody's id: who has it must not see more for that.
        first = universe.others[0]
        if len(names) == 1:
            for text in constants[:12]:
                if (
                    text
                    and any(_fits(text, kind) for kind in universe.kinds)
                    and text not in self.people
                ):
                    person = type(first)({names[0]: text}, {names[0]: frozenset((text,))})
                    found.append(_State({names[0]: text, **plain}, person, plain))
        for values in self._other_values(others, constants):
            found += [
                _State({**first.settings, **values}, first, values),
                _State({**dict.fromkeys(names, ""), **values}, None, values),
            ]
        return found

    def _other_values(self, others: list[str], constants: list[str]) -> list[dict[str, str | None]]:
        if not others:
            return []
        tokens = sorted(self.universe.owner.names)
        extra = {"uuid": "7a7a7a7a-1111-4111-8111-a1a1a1a1a101", "int": "7001", "text": "Ann"}
        words = [text for text in constants if text and text not in others][:12]
        values = ["on", "true", "1", *words, *tokens, *extra.values(), "101"]
        domains: dict[str, list[Any]] = {name: ["", *dict.fromkeys(values)] for name in others}
        rows, _ = sample(domains, 60)
        return rows

    # -- what came of it --

    def judge(self) -> Verdict:
        """Return what the answers tell.

        The cause of a counterexample is ``"row"``: another's row, as rows are; ``"nobody"``: while
        no user is set; ``"marked"``: by a column that lets others read it; ``"named"``: by another
        column that names the user; ``"fallback"``: while no user is set, because a constant of the
        policy names its owner; ``"partial"``: by one value of the identity alone; ``"foreign
        setting"``: by a setting that is none of the client's and names the owner; ``"ownerless"``:
        because it names no owner; ``"unowned"``: because no row of the table does;
        ``"uncorrelated"``: by a lookup table that names the user, but not with this row.
        """
        verdict = Verdict()
        if not self.job.answers:
            verdict.undecided = {p.facts["name"] for p in self.table.policies}
            return verdict
        self._at = {text: i for i, text in enumerate(self.expressions)}
        self._possible = self._possible_rows()
        self.in_rows = [tokens_of(row) for row in self.rows]
        verdict.owners = self._owners()
        self._owner_columns = {c for columns in verdict.owners.values() for c in columns}
        self._find_sweeping(verdict)
        self._isolated = bool(verdict.owners) or any(
            (p.facts["name"], kind) not in verdict.constant
            for p in self.table.policies
            for kind, text in (("USING", p.using), ("WITH CHECK", p.check))
            if text is not None
        )
        verdict.isolated = self._isolated
        primary = verdict.primary = self._primary(verdict.owners)
        for s, state in enumerate(self.states):
            self._judge_state(verdict, s, state, primary)
        if (self.sampled or self.unknown) and not verdict.counterexamples:
            verdict.undecided |= {p.facts["name"] for p in self.table.policies}
        if not (verdict.undecided or self.sampled or self.unknown):
            verdict.raises = self._raises()
        return verdict

    def _raises(self) -> bool:
        """Return whether the policies show no user a row, and raise an error for some."""
        permissive = [p for p in self.table.policies if p.facts["permissive"]]
        texts = {text for p in permissive for text in p.tested("r", "USING")}
        if "r" not in self.commands or not texts:
            return False
        letters = {
            letter
            for s, state in enumerate(self.states)
            if state.person is not None
            for text in texts
            for letter in self.job.answers[s][self._at[text]]
        }
        return "t" not in letters and "e" in letters

    def can_write(self, row: dict[str, Any]) -> bool:
        """Return whether the first other user may add this row, or make it of one of theirs."""
        facts, user = self.table.facts, self.universe.others[0].names
        if not facts["rls"]:
            columns = self.table.columns
            changed = [name for name, value in row.items() if str(value) not in user]
            return bool(
                all(columns[name]["insert"] for name in row)
                or (facts["update"] and any(columns[name]["update"] for name in changed))
            )
        if not self.job.answers:
            return False
        wanted = [
            r
            for r, other in enumerate(self.rows)
            if all(_same(other.get(name), value) for name, value in row.items())
        ]
        worlds = [
            w
            for w, world in enumerate(self.worlds)
            if not any(tokens_of(r) & user for table in world for r in table)
        ]
        for w in worlds:
            for r in wanted:
                inserting = all(self.table.columns[name]["insert"] for name in row)
                if (
                    "a" in self.commands
                    and inserting
                    and self._passes("a", "WITH CHECK", (0, w, r))
                ):
                    return True
                if (
                    "w" in self.commands
                    and self._passes("w", "WITH CHECK", (0, w, r))
                    and any(
                        self._passes("w", "USING", (0, w, old))
                        and self._updates(before, self.rows[r])
                        for old, before in enumerate(self.rows)
                    )
                ):
                    return True
        return False

    def _updates(self, before: dict[str, Any], after: dict[str, Any]) -> bool:
        changed = [name for name in after if not _same(before[name], after[name])]
        return bool(changed) and all(self.table.columns[name]["update"] for name in changed)

    def _letter(self, expression: str, cell: tuple[int, int, int]) -> str:
        s, w, r = cell
        return self.job.answers[s][self._at[expression]][w * len(self.rows) + r]

    def _possible_rows(self) -> set[int]:
        possible = set(range(len(self.rows)))
        for check in self.table.checks:
            answers = self.job.answers[0][self._at[check]]
            possible -= {r for r in possible if answers[r] in "fe"}
        return possible

    def _owners(self) -> dict[str, list[str]]:
        """Return the columns that decide whose a row is, for each of the client's settings."""
        found: dict[str, list[str]] = {}
        other = self.universe.others[0]
        texts = [t for p in self.table.policies for t in (p.using, p.check) if t is not None]
        index = {_frozen(row): r for r, row in enumerate(self.rows)}
        for setting in other.settings:
            mine, theirs = other.tokens[setting], self.universe.owner.tokens[setting]
            for name in self.domains:
                if self._decides(name, mine, theirs, index, dict.fromkeys(texts)):
                    found.setdefault(setting, []).append(name)
        for setting in () if found else other.settings:
            theirs = self.universe.owner.tokens[setting]
            likely = [
                name for name in self.domains
                if name in _OWNERS and {str(v) for v in self.domains[name].values} & theirs
            ]  # fmt: skip
            if likely:
                found[setting] = likely
        return found

    def _decides(
        self,
        name: str,
        mine: frozenset[str],
        theirs: frozenset[str],
        index: Mapping[Any, int],
        texts: Iterable[str],
    ) -> bool:
        others = [value for value in self.domains[name].values if str(value) in theirs]
        width = len(self.rows)
        for r, row in enumerate(self.rows):
            if r not in self._possible or str(row[name]) not in mine:
                continue
            pairs = [index.get(_frozen({**row, name: value})) for value in others]
            for text in texts:
                answers = self.job.answers[0][self._at[text]]
                for pair in pairs:
                    if pair is not None and any(
                        answers[start + r] == "t" != answers[start + pair]
                        for start in range(0, len(answers), width)
                    ):
                        return True
        return False

    def _primary(self, owners: dict[str, list[str]]) -> dict[str, str]:
        """Return for each setting the one column that is the owner's, beside those that share."""
        primary = {}
        for setting, columns in owners.items():
            named = [name for name in _OWNERS if name in columns]
            # Whatever the policies compare, a column of such a name says whose the row is.
            plain = [name for name in _OWNERS[:3] if self._holds(name, setting)]
            primary[setting] = [*named, *plain, *columns][0]
        return primary

    def _holds(self, name: str, setting: str) -> bool:
        found = self.domains.get(name)
        theirs = self.universe.owner.tokens[setting]
        return found is not None and any(str(value) in theirs for value in found.values)

    def _find_sweeping(self, verdict: Verdict) -> None:
        """Find the clauses that let everything pass, and those that do not depend on the user."""
        size, width = len(self.rows) * len(self.worlds), len(self.rows)
        possible = [i for i in range(size) if i % width in self._possible]
        for policy in self.table.policies:
            name = policy.facts["name"]
            for kind, text in (("USING", policy.using), ("WITH CHECK", policy.check)):
                if text is None:
                    continue
                columns = [answers[self._at[text]] for answers in self.job.answers]
                if any("u" in cells for cells in columns):
                    verdict.undecided.add(name)
                kept = [[cells[i] == "t" for i in possible] for cells in columns]
                if all(map(all, kept)):
                    verdict.always.add((name, kind))
                seen: dict[str, set[tuple[bool, ...]]] = {}
                for state, cells in zip(self.states, kept, strict=True):
                    if state.person is not None and state.partial is None:
                        seen.setdefault(repr(state.rest), set()).add(tuple(cells))
                if all(len(found) == 1 for found in seen.values()):
                    verdict.constant.add((name, kind))

    def _judge_state(
        self, verdict: Verdict, s: int, state: _State, primary: dict[str, str]
    ) -> None:
        names = state.person.names if state.person else frozenset()
        # Most rows are the user's own, and most commands test the same expressions: both are
        # told apart once, and not for each content of the lookup tables.
        ownerless = {r for r in self._possible if self._is_ownerless(state, self.rows[r], primary)}
        anothers = self._anothers(state, primary)
        wanted = {"USING": anothers | ownerless, "WITH CHECK": anothers}
        reaches: dict[int, frozenset[str]] = {}
        passing: dict[Any, list[tuple[int, tuple[str, ...]]]] = {}
        for command in self.commands:
            causes: dict[int, tuple[str | None, tuple[str, ...]]] = {}
            for kind in _KINDS[command]:
                tested = (kind, *(tuple(p.tested(command, kind)) for p in self.table.policies))
                if tested not in passing:
                    passing[tested] = self._passing_cells(command, kind, s, wanted[kind])
                for position, policies in passing[tested]:
                    w, r = divmod(position, len(self.rows))
                    if w not in reaches:
                        reaches[w] = self._reach(self.worlds[w], names)
                    if position not in causes:
                        causes[position] = self._cause(
                            command, state, self.rows[r], self.worlds[w], tokens=self.in_rows[r],
                            reach=reaches[w], primary=primary,
                            shown_to_others=functools.partial(
                                self._passes, command, kind, (0, w, r)
                            ),
                        )  # fmt: skip
                    cause, columns = causes[position]
                    if r in ownerless:
                        # Read by all, they are shared; only who may change them is told.
                        cause = "ownerless" if cause == "row" and command != "r" else None
                    if cause == "granted":
                        self._grant(verdict, self.worlds[w], names, self.in_rows[r])
                    elif cause:
                        lookups = zip(self.lookups, self.worlds[w], strict=True)
                        world = {lookup.name: rows for lookup, rows in lookups if rows}
                        self._add(verdict, Counterexample(
                            command, kind, policies, state.settings, self.rows[r], world, cause,
                            columns,
                        ))  # fmt: skip

    def _passing_cells(
        self, command: str, kind: str, s: int, wanted: set[int]
    ) -> list[tuple[int, tuple[str, ...]]]:
        """Return where wanted rows pass, each with the policies that let them."""
        texts = [
            text for p in self.table.policies if p.facts["permissive"]
            for text in p.tested(command, kind)
        ]  # fmt: skip
        cells = [self.job.answers[s][self._at[text]] for text in dict.fromkeys(texts)]
        found = sorted({m.start() for answers in cells for m in re.finditer("t", answers)})
        width = len(self.rows)
        told: dict[int, tuple[str, ...]] = {}
        for i in found:
            if i % width in wanted:
                policies = self._passing(command, kind, (s, *divmod(i, width)))
                # What passes while the lookup tables are empty does not pass for what they hold.
                if policies and (i < width or told.get(i % width) != policies):
                    told[i] = policies
        return list(told.items())

    def _anothers(self, state: _State, primary: dict[str, str]) -> set[int]:
        names = state.person.names if state.person else frozenset()
        nobody = state.person is None and not any(state.rest.values())
        return {
            r
            for r in self._possible
            if self._is_anothers(self.rows[r], primary, names)
            or (nobody and self._is_constants(self.rows[r], primary))
        }

    def _is_anothers(
        self, row: dict[str, Any], primary: dict[str, str], names: frozenset[str]
    ) -> bool:
        if not primary:
            return True
        return any(str(row[column]) in self.people - names for column in primary.values())

    def _is_constants(self, row: dict[str, Any], primary: dict[str, str]) -> bool:
        """Whether a constant of the policies names the row's owner, as a stand-in for nobody."""
        return any(
            str(row[column]) in self.constants - self.people
            and any(_fits(str(row[column]), kind) for kind in self.universe.kinds)
            and not _NOBODY.fullmatch(str(row[column]))
            for column in primary.values()
        )

    def _is_ownerless(self, state: _State, row: dict[str, Any], primary: dict[str, str]) -> bool:
        """Whether a row names no owner at all, while somebody is set."""
        return (
            bool(primary)
            and state.person is not None
            and all(row[column] is None for column in primary.values())
        )

    def _passes(self, command: str, kind: str, cell: tuple[int, int, int]) -> bool:
        return bool(self._passing(command, kind, cell))

    def _passing(self, command: str, kind: str, cell: tuple[int, int, int]) -> tuple[str, ...]:
        """Return the permissive policies that let a row pass, unless a restrictive one does not."""
        passing = []
        for policy in self.table.policies:
            for text in policy.tested(command, kind):
                passes = self._letter(text, cell) == "t"
                if policy.facts["permissive"] and passes:
                    passing.append(policy.facts["name"])
                elif not policy.facts["permissive"] and not passes:
                    return ()
        return tuple(passing)

    def _reach(self, world: list[list[dict[str, Any]]], names: frozenset[str]) -> frozenset[str]:
        """Return what lookup tables tie the user to: ids and keys of rows that name them."""
        reach = set(names)
        rows = [tokens_of(row) for table in world for row in table]
        for _ in rows:
            for tokens in rows:
                if tokens & reach:
                    reach |= tokens
        return frozenset(reach - names)

    def _cause(  # noqa: C901, PLR0911 - one line for each cause
        self,
        command: str,
        state: _State,
        row: dict[str, Any],
        world: list[list[dict[str, Any]]],
        *,
        tokens: set[str],
        reach: frozenset[str],
        primary: dict[str, str],
        shown_to_others: Callable[[], bool],
    ) -> tuple[str | None, tuple[str, ...]]:
        """Return why a row that is another's passes; None where it is shared."""
        names = state.person.names if state.person else frozenset()
        if tokens & reach:
            return "granted", ()
        if state.person is None and self._is_constants(row, primary):
            # What others see as well is shared, and told where it is theirs to change.
            return (None if shown_to_others() else "fallback"), ()
        if len(primary) > 1 and any(str(row[column]) in names for column in primary.values()):
            return "partial", ()
        if tokens & names and state.partial is None:
            return ("named", ()) if command != "r" and primary else (None, ())
        naming = [
            lookup
            for lookup, rows in zip(self.lookups, world, strict=True)
            if any(tokens_of(found) & names for found in rows)
        ]
        if naming:
            cut = any(self._overlaps(lookup) for lookup in naming)
            return ("uncorrelated" if cut else "granted"), ()
        if not (self._isolated or self.child or self.lookups):
            # Nobody's rows: they are shared, which is worth a word where all may change them.
            return (None if command in "ra" else "unowned"), ()
        if self._rests_on_other_setting(state, row):
            return "foreign setting", ()
        if command == "r" and any(world) and not self._names_people(world):
            return None, ()
        marks = self._marks(row) if command == "r" else ()
        # What shows while nobody is set, and not to other users, is not shared with them.
        if marks and (state.person is not None or shown_to_others()):
            return "marked", marks
        if state.partial:
            return "partial", ()
        return ("nobody" if state.person is None else "row"), ()

    def _names_people(self, world: list[list[dict[str, Any]]]) -> bool:
        """Whether a lookup table with rows has a column for people at all."""
        return any(
            bool(set(_OWNERS) & set(lookup.columns))
            or any(str(value) in self.people for found in rows for value in found.values())
            for lookup, rows in zip(self.lookups, world, strict=True)
            if rows
        )

    def _rests_on_other_setting(self, state: _State, row: dict[str, Any]) -> bool:
        values = {str(value) for value in state.rest.values() if value}
        return any(str(value) in values for value in row.values() if not isinstance(value, bool))

    def _marks(self, row: dict[str, Any]) -> tuple[str, ...]:
        """Return the columns in which a row is not as rows are when nobody does anything."""
        return tuple(
            name
            for name, value in row.items()
            if name not in self._owner_columns
            and not any(_same(value, usual) for usual in self.domains[name].typical)
        )

    def _overlaps(self, lookup: Relation) -> bool:
        """Whether a lookup table also names what the row belongs to, such as a team."""
        mine, theirs = self.table.columns, lookup.columns
        return lookup.name in self.related or any(
            name in theirs
            and name not in _OWNERS[:3]
            and not (mine[name]["key"] or theirs[name]["key"])
            and mine[name]["base"] == theirs[name]["base"]
            and (name.endswith("id") or name in self._columns_of(lookup) & self.used)
            for name in mine
        )

    def _grant(
        self,
        verdict: Verdict,
        world: list[list[dict[str, Any]]],
        names: frozenset[str],
        tokens: set[str],
    ) -> None:
        """Note the rows of lookup tables that name the user, for who may write them."""
        user = self.universe.others[0].names
        if names != user:
            return
        for i, (lookup, rows) in enumerate(zip(self.lookups, world, strict=True)):
            beside = [tokens_of(row) for table in (*world[:i], *world[i + 1 :]) for row in table]
            there = tokens.union(*beside)
            for row in rows:
                # What is tied by a unique key stands there already: nobody can add it again.
                taken = any(
                    lookup.columns[name]["key"]
                    and str(value) in (there - user if name in _OWNERS else there)
                    for name, value in row.items()
                )
                named = tokens_of(row) & user
                if named and not taken and (lookup.name, row) not in verdict.granted:
                    verdict.granted.append((lookup.name, row))

    def _add(self, verdict: Verdict, example: Counterexample) -> None:
        key = (example.command, example.clause, example.policies, example.cause)
        for i, known in enumerate(verdict.counterexamples):
            if (known.command, known.clause, known.policies, known.cause) == key:
                if len(example.columns) < len(known.columns):
                    verdict.counterexamples[i] = example
                return
        verdict.counterexamples.append(example)


def is_sharing(columns: Sequence[str], facts: Mapping[str, dict[str, Any]]) -> bool:
    """Whether columns that mark a row are its owner's to set, so that others may read it."""
    if any(_HIDING.search(name) for name in columns):
        return False
    if any(_SHARING.search(name) for name in columns):
        return True
    return any(
        facts[name]["base"] in ("boolean", "text", "character varying") or facts[name]["labels"]
        for name in columns
    )


def _fits(text: str, kind: str) -> bool:
    if kind == "uuid":
        return bool(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text))
    if kind == "int":
        return bool(re.fullmatch(r"-?\d{1,18}", text))
    return True


def _same(one: Any, two: Any) -> bool:
    return bool(one == two and isinstance(one, bool) == isinstance(two, bool))


def _frozen(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(value)) for name, value in row.items()))
