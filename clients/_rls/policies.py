"""Findings on policies: the row that proves each, and the SQL that closes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from .finding import SEVERITIES, Finding, Severity
from .judge import COMMANDS, Counterexample, Policy, Relation, Verdict, is_sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["explain", "policy_findings"]

_SEVERITY: Final[dict[str, Severity]] = {
    "row": "leak",
    "nobody": "leak",
    "uncorrelated": "leak",
    "marked": "risk",
    "named": "risk",
    "partial": "risk",
    "foreign setting": "risk",
    "fallback": "risk",
    "ownerless": "risk",
    "unowned": "risk",
}

_WHY: Final = {
    "policy-always-true": "lets every row pass, whoever is the user",
    "policy-ignores-setting": "does not compare the row with {settings}, so it tells no user's "
    "rows from another's",
    "policy-open-without-context": "lets every row pass when no user is set",
    "policy-default-user": "takes whoever has no user set for the user that it names",
    "policy-passes-other-rows": "lets another user's row pass",
    "policy-uncorrelated": "lets a row pass for whoever stands in the lookup table, with whatever "
    "row: the sub-select is not tied to the row",
    "policy-partial-identity": "lets a row pass of which one value of the identity alone fits",
    "shared-row-writable": "lets those who may read a shared row change it, or take it",
    "policy-ownerless-rows": "lets every user change rows that name no owner",
    "policy-hidden-rows-shown": "shows other users' rows in a state that does not look meant for "
    "sharing",
}


def policy_findings(
    table: Relation,
    verdicts: Sequence[tuple[bool, Verdict]],
    settings: str,
    *,
    expected: Callable[[], str | None],
    original: Callable[[Policy], Policy],
    mended: Callable[[Policy, str], str | None],
) -> Iterator[Finding]:
    """Yield what the verdicts on a table mean for each of its policies.

    Args:
        table: The table.
        verdicts: The verdicts, each with whether its ids are of the kind that the client declares.
        settings: The names of the client's settings.
        expected: Returns what a policy should ask of the row; None where no column tells.
        original: Returns the policy with its expressions printed for a fix.
        mended: Returns a clause without its fault, where the text alone tells it.
    """
    for policy in table.policies:
        examples = _examples(table, policy, verdicts) if policy.facts["permissive"] else []
        if not examples:
            continue
        examples.sort(key=lambda pair: SEVERITIES.index(pair[0]))
        severity, shown = examples[0]
        worst = [example for level, example in examples if level == severity]
        commands = [c for c in COMMANDS if any(example.command == c for _, example in examples)]
        labels = {"USING" if policy.check is None else example.clause for example in worst}
        kinds: list[str] = [kind for kind in ("USING", "WITH CHECK") if kind in labels]
        rule = _rule(policy, worst, kinds, verdicts)
        if rule == "policy-always-true" and commands == ["r"] and policy.commands == "r":
            # Written out for reading alone, this may well be meant.
            severity = "risk"
            if _is_directory(table, policy, verdicts):
                continue
        why = (
            f"{_WHY[rule].format(settings=settings)} ({' and '.join(kinds)}), for "
            f"{', '.join(COMMANDS[c] for c in commands)}: {explain(shown)}"
        )
        where = f"policy {policy.facts['quoted']} on {table.name}"
        if rule == "policy-open-without-context":
            texts = {kind: mended(policy, kind) or expected() for kind in kinds}
        else:
            texts = dict.fromkeys(kinds, expected())
        keep_reading = "r" not in commands and rule != "policy-open-without-context"
        fix = _fix(table, original(policy), texts, settings=settings, keep_reading=keep_reading)
        yield Finding(rule, where, why, fix, severity)


def _examples(
    table: Relation, policy: Policy, verdicts: Sequence[tuple[bool, Verdict]]
) -> list[tuple[Severity, Counterexample]]:
    """Return what a policy lets pass though it should not, with how bad each is."""
    found: list[tuple[Severity, Counterexample]] = []
    for declared, verdict in verdicts:
        for example in verdict.counterexamples:
            shared = example.cause == "marked" and is_sharing(example.columns, table.columns)
            if policy.facts["name"] in example.policies and not shared:
                found.append((_SEVERITY[example.cause] if declared else "risk", example))
    return found


def _is_directory(
    table: Relation, policy: Policy, verdicts: Sequence[tuple[bool, Verdict]]
) -> bool:
    """Whether a policy lets roles that it names read the rows that users have of themselves."""
    owners = {c for _, v in verdicts for columns in v.owners.values() for c in columns}
    return (
        bool(owners)
        and not policy.facts["public"]
        and all(table.columns[column]["key"] for column in owners)
    )


def _rule(
    policy: Policy,
    examples: list[Counterexample],
    kinds: list[str],
    verdicts: Sequence[tuple[bool, Verdict]],
) -> str:
    name = policy.facts["name"]
    causes = {example.cause for example in examples}
    if all((name, kind) in verdict.always for kind in kinds for _, verdict in verdicts):
        return "policy-always-true"
    if causes == {"marked"}:
        return "policy-hidden-rows-shown"
    if all((name, kind) in verdict.constant for kind in kinds for _, verdict in verdicts):
        return "policy-ignores-setting"
    for only, rule in (
        ("uncorrelated", "policy-uncorrelated"),
        ("nobody", "policy-open-without-context"),
        ("fallback", "policy-default-user"),
        ("named", "shared-row-writable"),
        ("partial", "policy-partial-identity"),
        ("ownerless", "policy-ownerless-rows"),
        ("foreign setting", "policy-ignores-setting"),
    ):
        if causes == {only}:
            return rule
    return "policy-passes-other-rows"


def explain(example: Counterexample) -> str:
    """Return the row that passes, for whom, and what lookup tables hold."""
    settings = ", ".join(
        f"{name} {'unset' if value is None else '= ' + _shown(value)}"
        for name, value in example.settings.items()
    )
    row = ", ".join(f"{name}={_shown(value)}" for name, value in example.row.items())
    world = "".join(
        f", while {name} holds "
        + "; ".join(
            "(" + ", ".join(f"{column}={_shown(value)}" for column, value in found.items()) + ")"
            for found in rows
        )
        for name, rows in example.world.items()
    )
    return f"with {settings} passes the row ({row}){world}"


def _shown(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    text = value if isinstance(value, str) else json.dumps(value)
    return "'" + text.replace("'", "''") + "'"


def _fix(
    table: Relation,
    policy: Policy,
    texts: dict[str, str | None],
    *,
    settings: str,
    keep_reading: bool,
) -> str:
    target = f"{policy.facts['quoted']} ON {table.name}"
    if None in texts.values():
        if any(
            p.facts["permissive"] and p.facts["name"] != policy.facts["name"]
            for p in table.policies
            if set(p.commands) & set(policy.commands)
        ):
            return f"DROP POLICY {target};"
        # What it lets pass is all that there is to see.
        return (
            f"-- no column of {table.name} tells whose a row is: add one, and compare it with "
            f"{settings} in policy {target}"
        )
    others = [role for role in policy.facts["roles"] if role not in policy.facts["mine"]]
    if others and not policy.facts["public"]:
        # Other roles' rights stay as they are; this role gets a policy of its own.
        names = {p.facts["name"] for p in table.policies} | {policy.facts["name"]}
        new = _free("user_isolation", names)
        scope = (
            "" if policy.facts["command"] == "*" else f" FOR {COMMANDS[policy.facts['command']]}"
        )
        mine = ", ".join(policy.facts["mine"])
        clauses = " ".join(f"{kind} ({text})" for kind, text in texts.items())
        return (
            f"ALTER POLICY {target} TO {', '.join(others)}; "
            f"CREATE POLICY {new} ON {table.name}{scope} TO {mine} {clauses};"
        )
    altered = f"ALTER POLICY {target} " + " ".join(f"{k} ({t})" for k, t in texts.items()) + ";"
    if policy.facts["command"] == "*" and policy.using and "USING" in texts and keep_reading:
        # Reading stays as it was: only what others could change is closed.
        new = _free(f"{policy.facts['name']}_read", {p.facts["name"] for p in table.policies})
        roles = "" if policy.facts["public"] else f" TO {', '.join(policy.facts['mine'])}"
        return (
            f"{altered} CREATE POLICY {_quote(new)} ON {table.name} FOR SELECT{roles} "
            f"USING ({policy.using});"
        )
    return altered


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
